"""Metrics of tiles, whose intervals resample cases: a draw holds all tiles of a case or none.

Tiles of one case are alike, so drawing tiles apart would make intervals too narrow. What only counts tiles is summed
by case first; AUROC is made from the pairs of cases where these are few. Definitions: docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import UsageError
from beph_store.metrics import classification as c
from beph_store.metrics.bootstrap import BLOCK, Estimate, draws, with_point
from beph_store.metrics.checks import Floats, Ints, check_classes, divide
from beph_store.metrics.evaluate import summary
from beph_store.metrics.ranking import area, split

#: Above this the pairs of cases cost more than ranking the tiles of every draw.
_PAIRED_CASES = 1000


def evaluate_tiles(
    probabilities: ArrayLike,
    truth: ArrayLike,
    case: ArrayLike,
    classes: Sequence[str],
    b: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Every metric of ``tile_draws`` with its 95 % interval; ``case`` (n,) the case number of each tile."""
    weights = with_point(case_draws(truth, case, b, seed))
    return summary(tile_draws(probabilities, truth, case, classes, weights))


def case_draws(truth: ArrayLike, case: ArrayLike, b: int = 1000, seed: int = 0) -> NDArray[np.int16]:
    """(b, C) how often each case is drawn, within the cases of equal most frequent class."""
    index, owner = np.asarray(truth), np.asarray(case)
    counts = np.zeros((int(owner.max()) + 1, int(index.max()) + 1), np.int64)
    np.add.at(counts, (owner, index), 1)
    return draws(len(counts), counts.argmax(axis=1), b, seed)


def tile_draws(
    probabilities: ArrayLike,
    truth: ArrayLike,
    case: ArrayLike,
    classes: Sequence[str],
    weights: ArrayLike,
) -> dict[str, Floats]:
    """(B,) of each metric for draws ``weights`` (B, C) of cases; NaN where a draw leaves it undefined.

    ``probabilities`` (n, K), ``truth`` (n,) and ``case`` (n,) of the tiles. Names: accuracy, balanced_accuracy, auroc,
    f1_macro, f1_weighted, patient_accuracy, log_loss; recall[c] of each class; with K > 2, auroc[c].
    """
    values, index = check_classes(probabilities, truth)
    owner, rows = np.asarray(case, np.int64), np.asarray(weights, np.float64)
    if values.shape[1] != len(classes) or owner.shape != index.shape or owner.max() >= rows.shape[1]:
        raise UsageError(
            f"{values.shape[1]} columns, {len(classes)} classes, cases {owner.shape}: give one case a tile"
        )
    size = len(classes)
    by_case = np.zeros((rows.shape[1], size, size))
    np.add.at(by_case, (owner, index, values.argmax(axis=1)), 1.0)
    table = (rows @ by_case.reshape(len(by_case), -1)).reshape(-1, size, size)
    chance = np.clip(values[np.arange(len(index)), index], np.finfo(np.float64).eps, 1)
    lost = np.bincount(owner, -np.log(chance), minlength=rows.shape[1])
    out = {
        "accuracy": c.accuracy_of(table),
        "balanced_accuracy": c.balanced_accuracy_of(table),
        "f1_macro": c.f1_macro_of(table),
        "f1_weighted": c.f1_weighted_of(table),
        "patient_accuracy": _patient_accuracy(by_case, rows),
        "log_loss": divide(rows @ lost, table.sum(axis=(1, 2))),
    }
    recall = c.recall_of(table)
    return out | _aurocs(values, index, owner, classes, rows) | _named("recall", recall, classes)


def patient_accuracy(
    probabilities: ArrayLike, truth: ArrayLike, case: ArrayLike, weights: ArrayLike | None = None
) -> Floats:
    """(B,) mean over patients of the share of their images that are right (Spanhol et al., IEEE TBME 2016)."""
    values, index = check_classes(probabilities, truth)
    owner = np.asarray(case, np.int64)
    by_case = np.zeros((int(owner.max()) + 1, values.shape[1], values.shape[1]))
    np.add.at(by_case, (owner, index, values.argmax(axis=1)), 1.0)
    rows = np.ones((1, len(by_case))) if weights is None else np.asarray(weights, np.float64)
    return _patient_accuracy(by_case, rows)


def _patient_accuracy(by_case: Floats, rows: Floats) -> Floats:
    tiles = by_case.sum(axis=(1, 2))
    right = divide(np.einsum("ckk->c", by_case), tiles, empty=0.0)
    return divide(rows @ right, rows @ (tiles > 0))


def _aurocs(
    values: Floats, index: Ints, owner: Ints, classes: Sequence[str], rows: Floats
) -> dict[str, Floats]:
    if len(classes) == 2:
        return {"auroc": _auroc(values[:, 1], index == 1, owner, rows)}
    each = {k: _auroc(values[:, k], index == k, owner, rows) for k in range(len(classes))}
    macro = np.mean([each[int(k)] for k in np.unique(index)], axis=0)
    return {"auroc": macro} | {f"auroc[{name}]": each[k] for k, name in enumerate(classes)}


def _auroc(score: Floats, positive: NDArray[np.bool_], owner: Ints, rows: Floats) -> Floats:
    if rows.shape[1] > _PAIRED_CASES:
        step = max(1, BLOCK // len(score))
        parts = [
            area(*split(score, positive, np.ascontiguousarray(rows[at : at + step, owner])))
            for at in range(0, len(rows), step)
        ]
        return np.concatenate(parts)
    wins = _wins(score, positive, owner, rows.shape[1])
    hits = rows @ np.bincount(owner[positive], minlength=rows.shape[1])
    misses = rows @ np.bincount(owner[~positive], minlength=rows.shape[1])
    return divide(((rows @ wins) * rows).sum(axis=1), hits * misses)


def _wins(score: Floats, positive: NDArray[np.bool_], owner: Ints, cases: int) -> Floats:
    """(C, C): pairs of a positive tile of case i above a negative one of case j, ties half."""
    level = np.unique(score, return_inverse=True)[1]
    below = np.zeros((int(level.max()) + 1, cases), np.float32)
    np.add.at(below, (level[~positive], owner[~positive]), 1.0)
    tied = below / 2
    np.cumsum(below, axis=0, out=below)
    below -= tied
    wins = np.zeros((cases, cases))
    for case in np.unique(owner[positive]):
        wins[case] = below[level[positive & (owner == case)]].sum(axis=0, dtype=np.float64)
    return wins


def _named(what: str, each: Floats, classes: Sequence[str]) -> dict[str, Floats]:
    return {f"{what}[{name}]": each[:, k] for k, name in enumerate(classes)}
