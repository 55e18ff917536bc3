"""What one encoder's vectors are worth on tiles of cases not learned from: each figure with its draws of the cases.

All encoders are measured on the same tiles, folds, draws of few cases and draws of cases, so that any two can be
compared draw by draw. A figure is (1 + B,): its value, then its draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.leaderboard.columns import K
from beph_store.engine.probe.draws import draws_by_group, group_rows, mean_draws
from beph_store.engine.probe.run import Fold, Method, ProbeOptions, ProbeResult, few_draws, probe
from beph_store.engine.probe.tiles import LabelledTiles, ProbeTiles
from beph_store.metrics import with_point
from beph_store.metrics.tiles import case_draws
from beph_store.search.retrieval import per_item

F64 = NDArray[np.float64]
Figures = dict[str, F64]

_BLOCK = 1 << 24  # cosines held at a time, 64 MB


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """``figures`` by column; the ``folds`` of the linear probe with their penalties; ``taken`` cases by shots."""

    figures: Figures
    folds: tuple[Fold, ...]
    taken: dict[int, dict[str, int]]
    warnings: tuple[str, ...]


def weights_of(tiles: LabelledTiles, options: ProbeOptions) -> NDArray[np.int16]:
    """(1 + B, C) each case once, then the draws."""
    return with_point(case_draws(tiles.truth, tiles.case, options.draws, options.seed))


def measure(
    tiles: ProbeTiles,
    options: ProbeOptions,
    shots: Sequence[int],
    weights: NDArray[np.int16],
    step: Callable[[int], None],
) -> Measured:
    """Linear probe, neighbours, few cases and retrieval of one encoder."""
    linear = _held_out(tiles, options, "linear")
    step(options.folds)
    said = _figures(linear, weights)
    figures = {f"linear.{name}": said[name] for name in ("balanced_accuracy", "accuracy", "auroc")}
    voted = _figures(_held_out(tiles, options, "knn"), weights)
    step(options.folds)
    figures["knn.balanced_accuracy"] = voted["balanced_accuracy"]
    taken = {}
    for n in shots:
        counts, values = few_draws(tiles, options, n, weights, step)
        taken[n] = dict(zip(tiles.classes, counts, strict=True))
        stack = values["balanced_accuracy"]
        figures[f"shots.{n}"] = np.concatenate([[stack[:, 0].mean()], stack[:, 1:].ravel()])
    figures |= retrieval(tiles, weights)
    step(1)
    return Measured(figures, linear.folds, taken, linear.warnings)


def retrieval(tiles: ProbeTiles, weights: NDArray[np.int16]) -> Figures:
    """mMV, P and mAP at ``K`` of each tile's neighbours of other cases, in its own group; means over tiles."""
    parts = []
    for rows in group_rows(tiles):
        truth, case = tiles.truth[rows], tiles.case[rows]
        ranked = nearest(tiles.vectors[rows], tiles.vectors[rows], case, case, K)
        labels, cases = [tiles.classes[i] for i in truth], [tiles.case_ids[i] for i in case]
        table, judged = per_item(list(ranked), labels, cases, K)
        names = f"retrieval.mmv{K}", f"retrieval.p{K}", f"retrieval.map{K}"
        owner, own = case[judged], truth[judged]
        part = {name: mean_of(table[:, i], owner, weights) for i, name in enumerate(names)}
        by_class = [
            mean_of(table[own == k, 2], owner[own == k], weights) for k in np.unique(own)
        ]  # of the classes that a draw holds
        part[f"retrieval.map{K}_macro"] = _nanmean(np.array(by_class))
        parts.append(part)
    return mean_draws(parts)


def nearest(
    asked: NDArray[np.float32],
    vectors: NDArray[np.float32],
    asked_case: NDArray[np.int64],
    case: NDArray[np.int64],
    k: int,
) -> NDArray[np.int64]:
    """(q, k) the rows of ``vectors`` (n, D) with the largest cosine to each of ``asked`` (q, D), none of its own case.

    Best first, equal cosines in order of row; -1 where there are fewer.
    """
    unit, found = _unit(vectors), []
    step = max(1, _BLOCK // max(1, len(unit)))
    k_found = min(k, len(unit))
    for at in range(0, len(asked), step):
        cosines = _unit(asked[at : at + step]) @ unit.T
        cosines[asked_case[at : at + step, None] == case[None, :]] = -np.inf
        order = _best(cosines, k_found)
        order[np.isneginf(np.take_along_axis(cosines, order, axis=1))] = -1
        found.append(np.pad(order, ((0, 0), (0, k - k_found)), constant_values=-1))
    return np.concatenate(found).astype(np.int64)


def mean_of(values: F64, owner: NDArray[np.int64], weights: NDArray[np.int16]) -> F64:
    """(B,) mean of ``values`` (m,), each of the case ``owner`` (m,), in draws ``weights`` (B, C) of the cases."""
    size = weights.shape[1]
    total = weights @ np.bincount(owner, values, minlength=size)
    count = weights @ np.bincount(owner, minlength=size).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / count, np.float64)


def _held_out(tiles: ProbeTiles, options: ProbeOptions, method: Method) -> ProbeResult:
    """What was said of each tile; its figures are made from the draws that all encoders share."""
    return probe(tiles, dataclasses.replace(options, method=method, shots=(), draws=1))


def _figures(result: ProbeResult, weights: NDArray[np.int16]) -> Figures:
    return mean_draws(draws_by_group(result.tiles, result.probabilities, weights))


def _best(cosines: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(q, k) columns of the k largest, equal ones by their number: all that reach the k-th are put in order."""
    floor = np.partition(cosines, -k, axis=1)[:, -k]
    order = np.empty((len(cosines), k), np.int64)
    for i, row in enumerate(cosines):
        reach = np.flatnonzero(row >= floor[i])
        order[i] = reach[np.argsort(-row[reach], kind="stable")][:k]
    return order


def _nanmean(stack: F64) -> F64:
    """(B,) mean of the rows (m, B) that are defined."""
    known = ~np.isnan(stack)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, stack, 0).sum(axis=0) / known.sum(axis=0), np.float64)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), np.float32)
