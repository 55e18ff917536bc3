"""The fits of a probe as calls that any process or machine can make: a fold, or a draw of few cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.grouped import TileFolds, draw_shots
from beph_store.engine.probe.draws import group_rows, mean_draws, row_draws
from beph_store.engine.probe.options import ProbeOptions
from beph_store.engine.probe.tiles import ProbeTiles
from beph_store.errors import HeadError
from beph_store.heads import tilewise
from beph_store.metrics.tiles import tile_draws

F64 = NDArray[np.float64]

#: What a reader looks at first.
HEADLINES = ("balanced_accuracy", "accuracy", "auroc", "f1_macro", "f1_weighted", "patient_accuracy")


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


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What all fits share: the divisions of the repeats, and ``weights`` (1 + B, C) of the draws of cases."""

    tiles: ProbeTiles
    options: ProbeOptions
    divisions: tuple[TileFolds, ...]
    weights: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Part:
    """One call: these ``folds`` of a group in a repeat, or where ``shots`` is set one ``draw`` of so many cases.

    Neighbours are searched for once for all folds of a group; a linear model is fitted to each.
    """

    repeat: int = 0
    group: int = 0
    folds: tuple[int, ...] = ()
    shots: int = 0
    draw: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """``said`` (m, K) of the tiles ``rows`` (m,) and the ``folds`` behind them; or of few cases how many each class
    gave, ``taken``, and the ``values`` of each metric.
    """

    rows: NDArray[np.int64]
    said: F64
    folds: tuple[Fold, ...] = ()
    taken: tuple[int, ...] = ()
    values: dict[str, F64] | None = None


def parts_of(tiles: ProbeTiles, options: ProbeOptions) -> list[Part]:
    """All calls of a probe."""
    folds = tuple(range(options.folds))
    at_once = [folds] if options.method == "knn" else [(fold,) for fold in folds]
    held = [
        Part(repeat, group, some)
        for repeat in range(options.repeats)
        for group in range(len(tiles.groups))
        for some in at_once
    ]
    few = [Part(shots=shots, draw=draw) for shots in options.shots for draw in range(options.shot_draws)]
    return held + few


def answer(asked: Asked, part: Part) -> Answer:
    """Make one call; HeadError where it cannot be learned from."""
    if part.shots:
        taken, values = few_draw(asked.tiles, asked.options, part.shots, asked.weights, part.draw)
        return Answer(np.empty(0, np.int64), np.empty((0, 0)), taken=taken, values=values)
    return _held_out(asked, part)


def _held_out(asked: Asked, part: Part) -> Answer:
    """What is said of the tiles of some folds of a group."""
    tiles, options, division = asked.tiles, asked.options, asked.divisions[part.repeat]
    rows = np.flatnonzero(tiles.group == part.group)
    fold, pool = division.fold[tiles.case[rows]], division.pool[tiles.case[rows]]
    vectors, truth, owner = tiles.vectors[rows], tiles.truth[rows], tiles.case[rows]
    near = None
    if options.method == "knn":
        near = tilewise.neighbours_by_fold(vectors, truth, fold, pool, options.folds)
    folds, found, said = [], [], []
    for number in part.folds:
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
            where = f"{tiles.groups[part.group]}, " if tiles.groups[part.group] else ""
            raise HeadError(f"{where}fold {number}: {error}") from error
        found.append(rows[test])
        said.append(values)
        folds.append(
            Fold(
                part.repeat,
                number,
                tiles.groups[part.group],
                len(np.unique(owner[train])),
                len(train),
                len(np.unique(owner[test])),
                len(test),
                setting,
                _point(tiles, values, rows[test]),
            )
        )
    if not folds:
        return Answer(np.empty(0, np.int64), np.empty((0, len(tiles.classes))))
    return Answer(np.concatenate(found), np.concatenate(said), tuple(folds))


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
    found = []
    for draw in range(options.shot_draws):
        found.append(few_draw(tiles, options, shots, weights, draw))
        step(1)
    return found[-1][0], stacked([values for _, values in found])


def stacked(draws: Sequence[dict[str, F64]]) -> dict[str, F64]:
    """(draws, …) of each metric."""
    return {name: np.array([values[name] for values in draws]) for name in draws[0]}


def few_draw(
    tiles: ProbeTiles, options: ProbeOptions, shots: int, weights: NDArray[np.int16], draw: int
) -> tuple[tuple[int, ...], dict[str, F64]]:
    """One draw of ``few_draws``."""
    share = max(1, options.draws // options.shot_draws)
    # Each draw of shots has its own draws of cases, so that the pooled interval holds both.
    own = [0, *((1 + draw * share + i) % len(weights) or 1 for i in range(share))]
    seed = (options.seed, 0x5407, shots, draw)
    drawn = draw_shots(tiles.truth, tiles.case, len(tiles.classes), shots, seed)
    asked = ~drawn.cases[tiles.case]
    by_group = []
    for rows in group_rows(tiles):
        mine = np.zeros(len(tiles), np.bool_)
        mine[rows] = True
        learn, ask = np.flatnonzero(mine & drawn.rows), np.flatnonzero(mine & asked)
        said = np.full((len(tiles), len(tiles.classes)), np.nan)
        said[ask] = _from_few(tiles, options, learn, ask)
        by_group.append(row_draws(tiles, said, weights[own], ask))
    return drawn.taken, mean_draws(by_group)


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
