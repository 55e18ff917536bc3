"""The probe itself: cross-validation by case, few shots, figures whose intervals resample cases."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import count_reasons
from beph_store.cohort.grouped import TileFolds, draw_shots, shuffle_classes, tile_folds
from beph_store.engine.probe.draws import group_rows, mean_draws, pooled, row_draws
from beph_store.engine.probe.figures import figures_of
from beph_store.engine.probe.tiles import ProbeTiles
from beph_store.engine.study.wording import seen_by
from beph_store.errors import HeadError, UsageError
from beph_store.heads import tilewise
from beph_store.metrics import Estimate, confusion_matrix, with_point
from beph_store.metrics.tiles import case_draws, tile_draws

F64 = NDArray[np.float64]
Method = Literal["linear", "knn"]
Progress = Callable[[int, int], None]

#: What a reader looks at first.
HEADLINES = ("balanced_accuracy", "accuracy", "auroc", "f1_macro", "f1_weighted", "patient_accuracy")


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """``folds`` × ``repeats`` by case; ``train_fraction`` of the training cases is used; ``shots`` cases a class to
    learn from, each in ``shot_draws`` draws; ``neighbours`` of knn, None chooses them on
    inner folds; ``draws`` bootstrap draws of the cases.
    ``shuffle_labels`` probes exchanged labels: the figures must then sit at chance.
    """

    method: Method = "linear"
    folds: int = 5
    repeats: int = 1
    train_fraction: float = 1.0
    shots: tuple[int, ...] = ()
    shot_draws: int = 20
    neighbours: int | None = tilewise.FEW_SHOT_NEIGHBOURS
    seed: int = 0
    draws: int = 1000
    shuffle_labels: bool = False

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.shot_draws < 1 or self.draws < 1 or self.seed < 0:
            raise UsageError("repeats and draws must be at least 1, the seed at least 0")
        if any(shots < 1 for shots in self.shots):
            raise UsageError(
                f"--shots {','.join(map(str, self.shots))}: whole numbers of cases a class, from 1 up"
            )
        if self.neighbours is not None and not 1 <= self.neighbours <= max(tilewise.NEIGHBOURS):
            raise UsageError(f"--k {self.neighbours}: choose from 1 to {max(tilewise.NEIGHBOURS)}, or auto")


@dataclass(frozen=True, slots=True)
class Fold:
    """One test fold of one group in one repeat; ``setting`` is the penalty or the number of neighbours chosen."""

    repeat: int
    fold: int
    group: str
    train_cases: int
    train_tiles: int
    test_cases: int
    test_tiles: int
    setting: float
    metrics: dict[str, float | None]


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


def probe(tiles: ProbeTiles, options: ProbeOptions, *, progress: Progress | None = None) -> ProbeResult:
    """How well the vectors tell the classes of tiles of cases that were not learned from.

    Raises CohortError for folds that cannot be made, HeadError where a group cannot be learned from.
    """
    began = time.perf_counter()
    if options.shuffle_labels:
        tiles = dataclasses.replace(tiles, truth=shuffle_classes(tiles.truth, tiles.case, options.seed))
    steps = options.repeats * len(tiles.groups) * options.folds + len(options.shots) * options.shot_draws
    meter = _Meter(progress, steps)
    divisions = [
        tile_folds(
            tiles.truth,
            tiles.case,
            tiles.classes,
            options.folds,
            train_fraction=options.train_fraction,
            seed=(options.seed, repeat),
        )
        for repeat in range(options.repeats)
    ]
    said = np.full((options.repeats, len(tiles), len(tiles.classes)), np.nan)
    folds: list[Fold] = []
    for repeat, division in enumerate(divisions):
        for group in range(len(tiles.groups)):
            folds += _cross_validate(tiles, options, division, (repeat, group), said[repeat])
            meter.add(options.folds)
    weights = with_point(case_draws(tiles.truth, tiles.case, options.draws, options.seed))
    figures = figures_of(tiles, said, weights)
    shots = tuple(_few(tiles, options, one, weights, meter) for one in options.shots)
    return ProbeResult(
        tiles,
        options,
        figures.metrics,
        figures.groups,
        figures.spread,
        tuple(folds),
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


def _cross_validate(
    tiles: ProbeTiles, options: ProbeOptions, division: TileFolds, at: tuple[int, int], said: F64
) -> Iterator[Fold]:
    """Fill ``said`` for the tiles of a group, fold by fold."""
    repeat, group = at
    rows = np.flatnonzero(tiles.group == group)
    fold, pool = division.fold[tiles.case[rows]], division.pool[tiles.case[rows]]
    vectors, truth = tiles.vectors[rows], tiles.truth[rows]
    near = None
    if options.method == "knn":
        near = tilewise.neighbours_by_fold(vectors, truth, fold, pool, options.folds)
    for number in range(options.folds):
        test = np.flatnonzero(fold == number)
        train = np.flatnonzero((fold != number) & pool)
        if not len(test):  # a group may lack the few cases of a fold
            continue
        try:
            if near is not None:
                setting, values = _by_neighbours(near, truth, fold, number, train, options, tiles.classes)
            else:
                fitted = tilewise.fit_linear(vectors[train], truth[train], len(tiles.classes), fold[train])
                setting, values = fitted.penalty, fitted.probabilities(vectors[test])
        except HeadError as error:
            where = f"{tiles.groups[group]}, " if tiles.groups[group] else ""
            raise HeadError(f"{where}fold {number}: {error}") from error
        said[rows[test]] = values
        owner = tiles.case[rows]
        yield Fold(
            repeat,
            number,
            tiles.groups[group],
            len(np.unique(owner[train])),
            len(train),
            len(np.unique(owner[test])),
            len(test),
            setting,
            _point(tiles, values, rows[test]),
        )


def _by_neighbours(
    near: tilewise.FoldNeighbours,
    truth: NDArray[np.int64],
    fold: NDArray[np.int64],
    number: int,
    train: NDArray[np.int64],
    options: ProbeOptions,
    classes: tuple[str, ...],
) -> tuple[float, F64]:
    """The number of neighbours, chosen by balanced accuracy on inner folds unless given, and the test fold's votes.

    The inner folds are the other outer ones.
    """
    others = [other for other in range(options.folds) if other != number]
    ks = tilewise.NEIGHBOURS if options.neighbours is None else (options.neighbours,)
    if len(ks) > 1:
        right = np.zeros((len(ks), len(classes)))
        for other in others:
            rows = train[fold[train] == other]
            if len(rows):
                rest = [inner for inner in others if inner != other]
                votes = near.vote(rows, rest, len(classes), ks).argmax(axis=2)
                for i in range(len(ks)):
                    met = truth[rows][votes[i] == truth[rows]]
                    right[i] += np.bincount(met, minlength=len(classes))
        count = np.bincount(truth[train], minlength=len(classes))
        ks = (ks[int((right[:, count > 0] / count[count > 0]).mean(axis=1).argmax())],)
    test = np.flatnonzero(fold == number)
    return float(ks[0]), near.vote(test, others, len(classes), ks)[0]


def _few(
    tiles: ProbeTiles, options: ProbeOptions, shots: int, weights: NDArray[np.int16], meter: _Meter
) -> ShotsResult:
    """The figures of ``few_draws``."""
    taken, values = few_draws(tiles, options, shots, weights, meter.add)
    metrics = {name: pooled(stack) for name, stack in values.items()}
    return ShotsResult(shots, options.shot_draws, dict(zip(tiles.classes, taken, strict=True)), metrics)


def few_draws(
    tiles: ProbeTiles,
    options: ProbeOptions,
    shots: int,
    weights: NDArray[np.int16],
    step: Callable[[int], None] = lambda steps: None,
) -> tuple[tuple[int, ...], dict[str, F64]]:
    """Learn from a few cases a class, again and again, and ask of all tiles of the cases that were not drawn.

    The cases that each class gave, and (shot_draws, 1 + draws / shot_draws) of each metric: the value of each draw of
    shots, then those of its own draws of cases, which are the same whatever the vectors. ``weights`` (1 + B, C).
    """
    values: dict[str, list[F64]] = {}
    taken: tuple[int, ...] = ()
    share = max(1, options.draws // options.shot_draws)
    for draw in range(options.shot_draws):
        # Each draw of shots has its own draws of cases, so that the pooled interval holds both.
        own = [0, *((1 + draw * share + i) % len(weights) or 1 for i in range(share))]
        drawn = draw_shots(
            tiles.truth, tiles.case, len(tiles.classes), shots, (options.seed, 0x5407, shots, draw)
        )
        taken = drawn.taken
        asked = ~drawn.cases[tiles.case]
        by_group = []
        for rows in group_rows(tiles):
            mine = np.zeros(len(tiles), np.bool_)
            mine[rows] = True
            learn, ask = np.flatnonzero(mine & drawn.rows), np.flatnonzero(mine & asked)
            said = np.full((len(tiles), len(tiles.classes)), np.nan)
            said[ask] = _from_few(tiles, options, learn, ask)
            by_group.append(row_draws(tiles, said, weights[own], ask))
        for name, each in mean_draws(by_group).items():
            values.setdefault(name, []).append(each)
        step(1)
    return taken, {name: np.array(listed) for name, listed in values.items()}


def _from_few(
    tiles: ProbeTiles, options: ProbeOptions, learn: NDArray[np.int64], ask: NDArray[np.int64]
) -> F64:
    vectors, truth, size = tiles.vectors[learn], tiles.truth[learn], len(tiles.classes)
    if options.method == "knn":
        k = options.neighbours or tilewise.FEW_SHOT_NEIGHBOURS
        return tilewise.vote_among(vectors, truth, tiles.vectors[ask], size, k)
    fitted = tilewise.fit_linear(vectors, truth, size, None, (tilewise.FEW_SHOT_PENALTY,))
    return fitted.probabilities(tiles.vectors[ask])


def _point(tiles: ProbeTiles, values: F64, rows: NDArray[np.int64]) -> dict[str, float | None]:
    once = np.ones((1, len(tiles.case_ids)))
    found = tile_draws(values, tiles.truth[rows], tiles.case[rows], tiles.classes, once)
    return {name: None if np.isnan(found[name][0]) else float(found[name][0]) for name in HEADLINES}


class _Meter:
    """Counts fits for whoever shows them."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, steps: int) -> None:
        self._done += steps
        if self._progress:
            self._progress(self._done, self._total)
