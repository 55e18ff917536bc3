"""The probe itself: cross-validation by case, few shots, figures whose intervals resample cases."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import count_reasons
from beph_store.cohort.grouped import shuffle_classes, tile_folds
from beph_store.engine.cluster.fanout import Progress, each
from beph_store.engine.probe.draws import pooled
from beph_store.engine.probe.figures import figures_of
from beph_store.engine.probe.fits import HEADLINES, Answer, Asked, Fold, answer, few_draws, parts_of, stacked
from beph_store.engine.probe.options import Method, ProbeOptions
from beph_store.engine.probe.tiles import ProbeTiles
from beph_store.engine.study.wording import seen_by
from beph_store.metrics import Estimate, confusion_matrix, with_point
from beph_store.metrics.tiles import case_draws

__all__ = ["HEADLINES", "Fold", "Method", "ProbeOptions", "ProbeResult", "ShotsResult", "few_draws", "probe"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ShotsResult:
    """``shots`` cases a class: the mean over draws; intervals over draws of the shots and of the cases together.

    ``taken`` the cases that each class gave, fewer where it has fewer.
    """

    shots: int
    draws: int
    taken: dict[str, int]
    metrics: dict[str, Estimate]


@dataclass(frozen=True, slots=True, eq=False)
class ProbeResult:
    """``probabilities`` (R, n, K) of the tiles held out in each repeat; ``groups`` metrics of each group, where there
    are several; ``metrics`` are then their means, and ``spread`` the standard deviation over the groups.
    """

    tiles: ProbeTiles
    options: ProbeOptions
    metrics: dict[str, Estimate]
    groups: dict[str, dict[str, Estimate]]
    spread: dict[str, float]
    folds: tuple[Fold, ...]
    shots: tuple[ShotsResult, ...]
    probabilities: F64
    warnings: tuple[str, ...]
    seconds: float

    @property
    def mean(self) -> F64:
        """(n, K) mean over repeats."""
        return np.asarray(self.probabilities.mean(axis=0))

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K) tiles of class i (row) taken for class j (column)."""
        return confusion_matrix(self.mean, self.tiles.truth)

    def to_json(self) -> dict[str, Any]:
        """JSON data: ``metrics`` {name: {mean, ci_low, ci_high, …}}, ``folds`` and ``shots`` as lists."""
        tiles = self.tiles
        return {
            "method": self.options.method,
            "metrics": estimates_json(self.metrics),
            "groups": {
                name: {"metrics": estimates_json(values), "tiles": int((tiles.group == i).sum())}
                for i, name in enumerate(tiles.groups)
                if (values := self.groups.get(name)) is not None
            },
            "spread_over_groups": self.spread,
            "folds": [dataclasses.asdict(fold) for fold in self.folds],
            "shots": [
                {
                    "shots": one.shots,
                    "draws": one.draws,
                    "taken": one.taken,
                    "metrics": estimates_json(one.metrics),
                }
                for one in self.shots
            ],
            "classes": list(tiles.classes),
            "confusion": self.confusion.tolist(),
            "cases": len(tiles.case_ids),
            "tiles": len(tiles),
            "tiles_labelled": tiles.found,
            "by_patient": tiles.by_patient,
            "dropped": count_reasons(tiles.dropped),
            "notes": list(tiles.notes),
            "warnings": list(self.warnings),
            "vectors": dict(tiles.about),
            "options": dataclasses.asdict(self.options),
            "seconds": round(self.seconds, 2),
        }


def estimates_json(metrics: dict[str, Estimate]) -> dict[str, dict[str, Any]]:
    """Every metric as plain data; the value is called ``mean``, as it is one over repeats, groups or draws."""
    out = {}
    for name, one in metrics.items():
        fields = one.to_json()
        out[name] = {"mean": fields.pop("value"), **fields}
    return out


def probe(
    tiles: ProbeTiles,
    options: ProbeOptions,
    *,
    progress: Progress | None = None,
    ray_address: str | None = None,
) -> ProbeResult:
    """How well the vectors tell the classes of tiles of cases that were not learned from.

    ``ray_address`` spreads the fits over a Ray cluster, see ``fanout.each``; None computes here.
    Raises CohortError for folds that cannot be made, HeadError where a group cannot be learned from.
    """
    began = time.perf_counter()
    if options.shuffle_labels:
        tiles = dataclasses.replace(tiles, truth=shuffle_classes(tiles.truth, tiles.case, options.seed))
    divisions = tuple(
        tile_folds(
            tiles.truth,
            tiles.case,
            tiles.classes,
            options.folds,
            train_fraction=options.train_fraction,
            seed=(options.seed, repeat),
        )
        for repeat in range(options.repeats)
    )
    weights = with_point(case_draws(tiles.truth, tiles.case, options.draws, options.seed))
    parts = parts_of(tiles, options)
    # What only the report needs stays here.
    asked = Asked(dataclasses.replace(tiles, names={}, dropped=()), options, divisions, weights)
    answers = each(answer, parts, shared=asked, address=ray_address, progress=progress)
    said = np.full((options.repeats, len(tiles), len(tiles.classes)), np.nan)
    for part, one in zip(parts, answers, strict=True):
        if not part.shots:
            said[part.repeat, one.rows] = one.said
    figures = figures_of(tiles, said, weights)
    few = [one for part, one in zip(parts, answers, strict=True) if part.shots]
    shots = _shots(options, tiles, few)
    return ProbeResult(
        tiles,
        options,
        figures.metrics,
        figures.groups,
        figures.spread,
        tuple(fold for one in answers for fold in one.folds),
        shots,
        said,
        tuple(warnings_of(tiles, options, shots)),
        time.perf_counter() - began,
    )


def warnings_of(tiles: ProbeTiles, options: ProbeOptions, shots: tuple[ShotsResult, ...]) -> Iterator[str]:
    """What a reader of the figures has to know first."""
    if options.shuffle_labels:
        yield "The labels were exchanged between cases: a control whose figures must sit at chance."
    yield from seen_by(tiles.encoder, tiles.case_ids)
    if len(tiles) < tiles.found:
        yield (
            f"{len(tiles):,} of {tiles.found:,} labelled tiles were used, the same number at most from each class of "
            f"each case, drawn with seed {options.seed}; --max-tiles changes it."
        )
    for one in shots:
        fewer = [f"{name} {count}" for name, count in one.taken.items() if count < one.shots]
        if fewer:
            yield (
                f"With {one.shots} cases a class, some classes gave fewer, at most half of their cases: "
                f"{', '.join(fewer)}."
            )


def _shots(options: ProbeOptions, tiles: ProbeTiles, answers: Sequence[Answer]) -> tuple[ShotsResult, ...]:
    """The figures of each number of few cases, from its draws in their order."""
    out = []
    for i, shots in enumerate(options.shots):
        own = answers[i * options.shot_draws : (i + 1) * options.shot_draws]
        values = stacked([one.values for one in own if one.values is not None])
        metrics = {name: pooled(stack) for name, stack in values.items()}
        taken = dict(zip(tiles.classes, own[-1].taken, strict=True))
        out.append(ShotsResult(shots, options.shot_draws, taken, metrics))
    return tuple(out)
