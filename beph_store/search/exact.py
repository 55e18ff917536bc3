"""The truth: the k nearest vectors by cosine, every row compared.

Method: a fast kernel gives every row a cosine with a known error bound; rows that could still be among the
best k are kept, and only those are scored again in float64. The result is that of sorting all float32-rounded
cosines of the stored float16 values, whatever kernel and however many threads did the first pass.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SearchError
from beph_store.search.dots import Kernel, kernel

Progress = Callable[[int, int], None]

#: Queries of one pass: their cosines with one block of rows take 8 MB.
_QUERIES = 512
#: Rows that a thread must have for it to be worth starting.
_ROWS_PER_THREAD = 65536
#: Rows scored again at a time, in float64.
_RESCORE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The best rows of each query, best first.

    ``score`` (Q, k) float32 cosine; ``index`` (Q, k) int64 row numbers. Where fewer than k rows were allowed, the
    rest is −1 with score NaN. ``exact`` False where an index chose the candidates, so that a neighbour may be missing.
    """

    score: NDArray[np.float32]
    index: NDArray[np.int64]
    exact: bool = True


def top_k(
    queries: NDArray[np.floating],
    vectors: NDArray[np.float16],
    k: int,
    *,
    allowed: NDArray[np.bool_] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TopK:
    """The ``k`` rows of ``vectors`` with the largest cosine to each query, equal scores in order of row number.

    ``queries`` (Q, D) float; ``vectors`` (T, D) float16, a memory map is read in blocks and never copied whole;
    ``allowed`` (T,) bool, the rows that count: the others take no place among the k. Rows without a direction (zero,
    or not finite) are never found. ``threads`` defaults to the cores this process may use; ``progress`` is
    called with (rows compared, rows in all). Raises SearchError for queries that have no direction or another length.
    """
    unit = unit_queries(queries, vectors.shape[1])
    if k < 1:
        raise SearchError(f"k = {k}: ask for at least 1 neighbour")
    if vectors.dtype != np.float16:
        raise SearchError(f"vectors are {vectors.dtype}, exact search reads float16: convert them first")
    if allowed is not None and allowed.shape != (len(vectors),):
        raise SearchError(
            f"the mask has shape {allowed.shape}, there are {len(vectors)} vectors: one bool a row"
        )
    rows = None if allowed is None else np.flatnonzero(allowed)
    meter = _Meter(progress, (len(vectors) if rows is None else len(rows)) * -(-len(unit) // _QUERIES))
    parts = [
        _some_queries(unit[at : at + _QUERIES], vectors, k, rows, threads, meter)
        for at in range(0, len(unit), _QUERIES)
    ]
    if not parts:
        return TopK(np.empty((0, k), np.float32), np.empty((0, k), np.int64))
    return TopK(np.concatenate([p.score for p in parts]), np.concatenate([p.index for p in parts]))


def unit_queries(queries: NDArray[np.floating], dim: int) -> NDArray[np.float64]:
    """``queries`` (Q, D) at length 1 in float64; SearchError where one has no direction or another length."""
    wide = np.asarray(queries, np.float64)
    if wide.ndim != 2 or wide.shape[1] != dim:
        raise SearchError(
            f"queries of shape {wide.shape} against vectors of {dim}: pass (queries, {dim}), from the same recipe"
        )
    lengths = np.linalg.norm(wide, axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        raise SearchError(f"query {bad[0]} is zero or not finite: it has no direction to compare")
    return np.asarray(wide / lengths[:, None], np.float64)


def score_rows(
    query: NDArray[np.float64], vectors: NDArray[np.float16], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Cosine (n,) float32 of a unit ``query`` (D,) with the given ``rows``, from float64; NaN without direction.

    One row's score depends on that row alone, so equal vectors have equal scores.
    """
    scores = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _RESCORE):
        part = vectors[rows[at : at + _RESCORE]].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.sqrt(np.einsum("ij,ij->i", part, part))
            scores[at : at + _RESCORE] = np.einsum("ij,j->i", part, query) / length
    return scores


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the ``k`` best, equal scores in order of row number, NaN left out."""
    order = np.lexsort((rows, -scores))
    return np.asarray(order[np.isfinite(scores[order])][:k], np.int64)


def _some_queries(
    unit: NDArray[np.float64],
    vectors: NDArray[np.float16],
    k: int,
    rows: NDArray[np.int64] | None,
    threads: int | None,
    meter: _Meter,
) -> TopK:
    total = len(vectors) if rows is None else len(rows)
    workers = max(1, min(threads or _cores(), total // _ROWS_PER_THREAD))
    borders = np.linspace(0, total, workers + 1).astype(int)
    # A pool a thread: they share nothing but the vectors, and the kernels hold no lock while they compute.
    pools = [_Pool(kernel(unit.astype(np.float32)), k) for _ in range(workers)]

    def scan(number: int) -> None:
        pool = pools[number]
        for row, block, columns in _blocks(vectors, rows, borders[number], borders[number + 1], pool.rows):
            pool.add(row, block, columns)
            meter.add(len(row))

    if workers == 1:
        scan(0)
    else:
        with ThreadPoolExecutor(workers) as executor:
            list(executor.map(scan, range(workers)))
    result = _rescored(unit, vectors, pools, k)
    if result is not None:
        return result
    # Rows without a direction took places that others should have had: leave them out, and look again.
    keep = np.arange(len(vectors)) if rows is None else rows
    return _some_queries(unit, vectors, k, keep[_has_direction(vectors, keep)], threads, meter)


def _rescored(
    unit: NDArray[np.float64], vectors: NDArray[np.float16], pools: list[_Pool], k: int
) -> TopK | None:
    """The exact best k of all pools; None where a pool held a row without a direction."""
    found = TopK(np.full((len(unit), k), np.nan, np.float32), np.full((len(unit), k), -1, np.int64))
    held = [pool.candidates() for pool in pools]
    for number, query in enumerate(unit):
        rows = np.concatenate([h[number] for h in held])
        scores = score_rows(query, vectors, rows)
        if not np.isfinite(scores).all():
            return None
        chosen = best(rows, scores, k)
        found.index[number, : len(chosen)], found.score[number, : len(chosen)] = rows[chosen], scores[chosen]
    return found


def _has_direction(vectors: NDArray[np.float16], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    good = np.empty(len(rows), bool)
    for at in range(0, len(rows), _RESCORE):
        part = vectors[rows[at : at + _RESCORE]]
        good[at : at + _RESCORE] = np.isfinite(part).all(axis=1) & part.any(axis=1)
    return good


def _blocks(
    vectors: NDArray[np.float16], rows: NDArray[np.int64] | None, start: int, stop: int, size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16], NDArray[np.int64] | None]]:
    """(row numbers, block, which of its rows they are or None for all) over ``rows[start:stop]``, or those rows."""
    for at in range(start, stop, size):
        end = min(at + size, stop)
        if rows is None:
            yield np.arange(at, end), vectors[at:end], None
            continue
        chosen = rows[at:end]
        low, high = int(chosen[0]), int(chosen[-1]) + 1
        if high - low == len(chosen):
            yield chosen, vectors[low:high], None
        elif high - low <= 4 * len(chosen):  # copying a row takes as long as comparing four
            yield chosen, vectors[low:high], chosen - low
        else:
            yield chosen, vectors[chosen], None


class _Pool:
    """Rows that may still be among the best k of each query, by approximate score."""

    def __init__(self, compare: Kernel, k: int) -> None:
        self._compare, self._k = compare, k
        queries = len(compare.error)
        # A true member's approximate score is at least the k-th best approximate one, less twice the bound.
        self._floor = np.full(queries, -np.inf, np.float32)
        self._slack = 2 * compare.error
        self._query, self._row = np.empty(0, np.int64), np.empty(0, np.int64)
        self._score = np.empty(0, np.float32)
        self._new: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self._waiting = 0

    @property
    def rows(self) -> int:
        """Length of block that the kernel likes."""
        return self._compare.rows

    def add(
        self, row: NDArray[np.int64], block: NDArray[np.float16], columns: NDArray[np.int64] | None
    ) -> None:
        """Compare a block, and keep what may matter."""
        scores = self._compare(np.ascontiguousarray(block))
        if columns is not None:
            scores = scores[:, columns]
        if len(row) >= self._k and np.isneginf(self._floor).any():
            self._seed(scores)
        query, column = np.nonzero(scores >= self._floor[:, None])
        self._new.append((query, row[column], scores[query, column]))
        self._waiting += len(query)
        if self._waiting > max(4096, 2 * self._k * len(self._floor)):
            self._compact()

    def candidates(self) -> list[NDArray[np.int64]]:
        """The rows kept for each query."""
        self._compact()
        borders = np.searchsorted(self._query, np.arange(len(self._floor) + 1))
        return [self._row[a:b] for a, b in pairwise(borders)]

    def _seed(self, scores: NDArray[np.float32]) -> None:
        known = np.where(np.isnan(scores), -np.inf, scores)
        kth = np.partition(known, -self._k, axis=1)[:, -self._k]
        self._floor = np.maximum(self._floor, kth - self._slack)

    def _compact(self) -> None:
        new = [(self._query, self._row, self._score), *self._new]
        query, row, score = (np.concatenate(parts) for parts in zip(*new, strict=True))
        order = np.lexsort((-score, query))
        query, row, score = query[order], row[order], score[order]
        borders = np.searchsorted(query, np.arange(len(self._floor) + 1))
        full = np.flatnonzero(np.diff(borders) >= self._k)
        kth = score[borders[full] + self._k - 1]
        self._floor[full] = np.maximum(self._floor[full], kth - self._slack[full])
        keep = score >= self._floor[query]
        self._query, self._row, self._score = query[keep], row[keep], score[keep]
        self._new, self._waiting = [], 0


class _Meter:
    """Adds up what the threads have done, and tells one listener at a time."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._lock = threading.Lock()

    def add(self, rows: int) -> None:
        if self._progress is None:
            return
        with self._lock:
            self._done = min(self._done + rows, self._total)
            self._progress(self._done, self._total)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
