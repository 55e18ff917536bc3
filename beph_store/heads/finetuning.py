"""Fine-tuning an encoder as a classifier of tiles: what the user may choose, and plain data that needs no torch.

Defaults follow BEPH's patch-level configuration; docs/finetune.md names where they do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import UsageError

Index = NDArray[np.int64]

#: Tiles a step for which a learning rate is meant; another number scales it by its root, as suits Adam
#: (Malladi et al., NeurIPS 2022).
REFERENCE_BATCH = 224
#: What is left of the learning rate at the end.
FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """``epochs`` at most, ``warmup`` of them (None: a tenth) with a rising learning rate; ``patience`` without a better
    validation loss end it.

    ``batch`` tiles go through the network together, ``accumulate`` batches make a step. ``lr`` of the classifier at 224
    tiles a step, scaled with the root of their number; each layer below learns ``layer_decay`` times as fast as the
    one above it, the first ``frozen`` not at all. ``drop_path``, ``smoothing``, ``erasing`` are shares; ``operations``
    of RandAugment of strength ``magnitude`` (0–10); crops of at least ``min_crop`` of a tile's area.

    ``workers`` processes read and draw tiles ahead (None: as suits the machine; 0: none). They, and ``device``, do not
    change what is learned; ``precision`` does.
    """

    epochs: int = 30
    warmup: int | None = None
    patience: int = 10
    batch: int = 32
    accumulate: int = 1
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    frozen: int = 0
    drop_path: float = 0.1
    smoothing: float = 0.1
    operations: int = 2
    magnitude: int = 9
    erasing: float = 0.25
    min_crop: float = 0.08
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            **dict.fromkeys(("epochs", "patience", "batch", "accumulate"), (1, math.inf)),
            **dict.fromkeys(("seed", "weight_decay", "frozen", "operations"), (0, math.inf)),
            **dict.fromkeys(("drop_path", "smoothing"), (0, 0.9)),
            **dict.fromkeys(("layer_decay", "min_crop"), (0.01, 1)),
            "lr": (1e-12, 1),
            "erasing": (0, 1),
            "magnitude": (0, 10),
            "warmup": (0, self.epochs),
            "workers": (0, 256),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                flag = name.replace("_", "-")
                upper = f" to {high:g}" if high < math.inf else " up"
                raise UsageError(f"--{flag} {value}: give a number from {low:g}{upper}")

    @property
    def peak(self) -> float:
        """The highest learning rate, that of the classifier."""
        return self.lr * math.sqrt(self.batch * self.accumulate / REFERENCE_BATCH)

    def rate(self, done: float) -> float:
        """The learning rate after ``done`` epochs, as a share of its highest: a line up, then half a cosine down."""
        warm = math.ceil(self.epochs / 10) if self.warmup is None else self.warmup
        if done < warm:
            return max(done, 0.0) / warm
        part = min(1.0, (done - warm) / max(self.epochs - warm, 1e-9))
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * part))

    def deciding(self) -> dict[str, Any]:
        """What decides the result, as plain data: a run that was stopped goes on only with the same."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("device", "workers")}


@dataclass(frozen=True, slots=True)
class TileEpoch:
    """One pass over the training tiles. Losses are means per tile, that of training with its smoothed labels;
    ``waiting`` the share (0–1) of the time in which the network waited for tiles.
    """

    number: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    lr: float
    seconds: float
    tiles_per_second: float
    waiting: float


class TileSource(Protocol):
    """Where tiles come from; it is sent to other processes, so it must pickle."""

    def image(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB as it is in the file: training takes random crops of it."""
        ...

    def tile(self, row: int) -> NDArray[np.uint8]:
        """(tile_px, tile_px, 3) uint8 RGB as it is tested."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class TileTask:
    """What is to be learned: ``labels`` (n,) int64 below ``classes`` of the tiles of ``source``; ``train`` and ``val``
    rows of them. ``tile_px``, ``mean`` and ``std`` (0–255) are the encoder's, ``dim`` the length of its embedding.
    """

    source: TileSource
    labels: Index
    classes: int
    train: Index
    val: Index
    tile_px: int
    dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def best_epoch(history: list[TileEpoch] | tuple[TileEpoch, ...]) -> int:
    """Number of the epoch with the least validation loss, the earliest of equal ones."""
    return min(history, key=lambda epoch: (epoch.val_loss, epoch.number)).number


def is_over(history: list[TileEpoch], options: FinetuneOptions) -> bool:
    """Whether all epochs are done, or the last ``patience`` brought nothing."""
    if not history:
        return False
    return len(history) >= options.epochs or history[-1].number - best_epoch(history) >= options.patience
