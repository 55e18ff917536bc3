"""Dividing labelled tiles by case, where a case may hold tiles of several classes.

``truth`` (n,) and ``case`` (n,) are the class and the case number of each tile; results are by case number. The same
seed gives the same divisions on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.strata import Cases, generator, place
from beph_store.errors import CohortError

#: Folds that must hold a class: one to test, one to choose a setting on, one to learn from.
_LEAST = 3


@dataclass(frozen=True, slots=True, eq=False)
class TileFolds:
    """``fold`` (C,) int64 of each case; ``pool`` (C,) bool, the cases that training may use."""

    fold: Cases
    pool: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Shots:
    """``rows`` (n,) bool, the tiles to learn from; ``cases`` (C,) bool, those drawn; ``taken`` cases of each class."""

    rows: NDArray[np.bool_]
    cases: NDArray[np.bool_]
    taken: tuple[int, ...]


def tile_folds(
    truth: Cases,
    case: Cases,
    classes: Sequence[str],
    folds: int,
    *,
    train_fraction: float = 1.0,
    seed: tuple[int, ...] = (0,),
) -> TileFolds:
    """Each case in one of ``folds``, so that every fold has its share of the tiles of every class.

    ``train_fraction`` keeps that share of the cases for training, the smaller within the larger; all are tested.
    Raises CohortError where a class has fewer cases than folds, or is left with too few for training.
    """
    if folds < _LEAST:
        raise CohortError(
            f"{folds} folds: pass at least {_LEAST}, to test on one and choose settings on another"
        )
    if not 0 < train_fraction <= 1:
        raise CohortError(f"a train fraction of {train_fraction}: pass a share above 0, at most 1")
    counts = held(truth, case, len(classes))
    cases = (counts > 0).sum(axis=0)
    if cases.min() < folds:
        fewest = int(cases.min())
        cure = f"pass --folds {fewest}" if fewest >= _LEAST else "add cases, or leave it out with --classes"
        raise CohortError(
            f"{fewest} cases of class {classes[int(cases.argmin())]!r}, too few for {folds} folds: {cure}"
        )
    fold = place(counts, folds, generator(*seed))
    pool = _pool(counts, fold, train_fraction, generator(*seed, 1))
    for number, name in enumerate(classes):
        if len(np.unique(fold[pool & (counts[:, number] > 0)])) < _LEAST:
            raise CohortError(
                f"class {name!r} is left with too few cases for training and the choice of settings: pass a larger "
                "--train-fraction, another --seed, or leave it out with --classes"
            )
    return TileFolds(fold, pool)


def held(truth: Cases, case: Cases, classes: int) -> Cases:
    """(C, K) int64: how many tiles of each class each case holds."""
    counts = np.zeros((int(case.max()) + 1, classes), np.int64)
    np.add.at(counts, (case, truth), 1)
    return counts


def draw_shots(truth: Cases, case: Cases, classes: int, shots: int, seed: tuple[int, ...]) -> Shots:
    """``shots`` cases of each class to learn from; a class gives half of its cases at most, but one.

    A case is drawn for one class and lends its tiles of that class only; rare classes choose first.
    """
    counts = held(truth, case, classes)
    rng = generator(*seed)
    drawn = np.full(len(counts), -1)
    taken = [0] * classes
    totals = (counts > 0).sum(axis=0)
    for number in sorted(range(classes), key=lambda k: (int(totals[k]), k)):
        free = np.flatnonzero((counts[:, number] > 0) & (drawn < 0))
        wanted = min(shots, max(1, int(totals[number]) // 2), len(free))
        chosen = free[np.argsort(rng.random(len(free)), kind="stable")[:wanted]]
        drawn[chosen] = number
        taken[number] = len(chosen)
    return Shots(drawn[case] == truth, drawn >= 0, tuple(taken))


def capped(truth: Cases, case: Cases, most: int, seed: int) -> Cases:
    """Rows to keep, rising, about ``most`` of all: the same number of tiles at most from each class of each case.

    No case is left out, so that more cases than ``most`` give one tile each.
    """
    everyone = np.arange(len(truth), dtype=np.int64)
    if len(truth) <= most:
        return everyone
    groups, number = np.unique(np.stack([case, truth]), axis=1, return_inverse=True)
    sizes = np.bincount(number.ravel(), minlength=groups.shape[1])
    limit = 1
    while np.minimum(sizes, limit + 1).sum() <= most:
        limit += 1
    order = np.lexsort((generator(seed, 0xCA).random(len(truth)), number.ravel()))
    rank = np.arange(len(truth)) - (np.cumsum(sizes) - sizes)[number.ravel()[order]]
    return np.sort(everyone[order[rank < limit]])


def shuffle_classes(truth: Cases, case: Cases, seed: int) -> Cases:
    """The classes on other cases: those of all (case, class) pairs exchanged at random, tiles of a pair together."""
    groups, number = np.unique(np.stack([case, truth]), axis=1, return_inverse=True)
    order = generator(seed, 0x5F).permutation(groups.shape[1])
    return np.asarray(groups[1][order][number.ravel()], np.int64)


def _pool(counts: Cases, fold: Cases, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Of each class (the most frequent of a case) the first of an order that goes round the folds."""
    pool = np.ones(len(counts), np.bool_)
    if fraction == 1:
        return pool
    main = counts.argmax(axis=1)
    for number in np.unique(main):
        members = np.flatnonzero(main == number)
        members = members[np.argsort(rng.random(len(members)), kind="stable")]
        turn = np.zeros(len(members), np.int64)
        for f in np.unique(fold):
            mine = fold[members] == f
            turn[mine] = np.arange(int(mine.sum()))
        order = members[np.argsort(turn, kind="stable")]
        pool[order[max(_LEAST, int(fraction * len(order) + 0.5)) :]] = False
    return pool
