"""What a fine-tuning found out, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import count_reasons
from beph_store.engine.probe.run import estimates_json
from beph_store.engine.probe.tiles import LabelledTiles
from beph_store.heads.finetuning import TileEpoch
from beph_store.metrics import Estimate, confusion_matrix
from beph_store.records import EncoderSpec


@dataclass(frozen=True, slots=True)
class Side:
    """How many cases and tiles a side of a split has."""

    cases: int
    tiles: int


@dataclass(frozen=True, slots=True, eq=False)
class FoldResult:
    """One split: its sides, its epochs and the ``best`` of them, and the figures of its test tiles alone.

    ``metrics`` is empty where nothing was held out: the model that is kept after cross-validation.
    """

    name: str
    train: Side
    val: Side
    test: Side
    history: tuple[TileEpoch, ...]
    best: int
    metrics: dict[str, float | None]

    @property
    def seconds(self) -> float:
        """How long its epochs took together."""
        return sum(epoch.seconds for epoch in self.history)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "name": self.name,
            **{side: dataclasses.asdict(getattr(self, side)) for side in ("train", "val", "test")},
            "epochs": len(self.history),
            "best_epoch": self.best,
            "validation": {
                "log_loss": self.history[self.best - 1].val_loss,
                "accuracy": self.history[self.best - 1].val_accuracy,
                "balanced_accuracy": self.history[self.best - 1].val_balanced_accuracy,
            },
            "seconds": round(self.seconds, 2),
            "metrics": self.metrics,
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """The model that is kept: its ``encoder`` as a new spec and where its files are, by what they are.

    ``fit`` names the split that it comes from.
    """

    fit: str
    encoder: EncoderSpec
    files: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class FinetuneResult:
    """``tiles`` those that were held out and ``said`` (n, K) the chances of their classes, by the model of their
    ``fold`` (n,) into ``folds``. ``final`` the fit on all cases, after cross-validation.
    """

    base: EncoderSpec
    tiles: LabelledTiles
    said: NDArray[np.float64]
    fold: NDArray[np.int64]
    folds: tuple[FoldResult, ...]
    final: FoldResult | None
    metrics: dict[str, Estimate]
    groups: dict[str, dict[str, Estimate]]
    spread: dict[str, float]
    kept: Kept | None
    warnings: tuple[str, ...]
    options: dict[str, Any]

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K) tiles of class i (row) taken for class j (column)."""
        return confusion_matrix(self.said, self.tiles.truth)

    @property
    def seconds(self) -> float:
        """How long all epochs took together."""
        return sum(fit.seconds for fit in (*self.folds, *([self.final] if self.final else [])))

    def to_json(self) -> dict[str, Any]:
        """JSON data: ``metrics`` {name: {mean, ci_low, ci_high, …}}, ``folds`` a list, ``kept`` the model."""
        tiles = self.tiles
        return {
            "metrics": estimates_json(self.metrics),
            "groups": {
                name: {"metrics": estimates_json(self.groups[name]), "tiles": int((tiles.group == i).sum())}
                for i, name in enumerate(tiles.groups)
                if name in self.groups
            },
            "spread_over_groups": self.spread,
            "folds": [fold.to_json() for fold in self.folds],
            "final": self.final and self.final.to_json(),
            "kept": self.kept
            and {"fit": self.kept.fit, "encoder": self.kept.encoder.to_json(), **self.kept.files},
            "classes": list(tiles.classes),
            "confusion": self.confusion.tolist(),
            "cases": len(tiles.case_ids),
            "tiles": len(tiles),
            "tiles_labelled": tiles.found,
            "by_patient": tiles.by_patient,
            "dropped": count_reasons(tiles.dropped),
            "notes": list(tiles.notes),
            "warnings": list(self.warnings),
            "images": dict(tiles.about),
            "base": self.base.to_json(),
            "options": self.options,
            "seconds": round(self.seconds, 2),
        }
