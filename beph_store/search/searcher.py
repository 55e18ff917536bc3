"""The one door: which rows count, exact or by index, and the answer in row numbers of the flat table.

A filter always acts before the ranking. It arrives as a mask over the rows, as slides to leave out, or both. How
the answer is found follows from how many rows are left, see `Searcher.search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SearchError
from beph_store.search.ann import Candidates, TileIndex, not_in
from beph_store.search.exact import Progress, TopK, best, score_rows, top_k, unit_queries

#: Up to this many rows left, comparing all of them takes about 10 ms on one core, and misses nothing.
EXACT_ROWS = 100_000
#: So many queries together share the reading of the vectors: up to so many rows that costs each no more than an index.
EXACT_BATCH = 16
EXACT_BATCH_ROWS = 200_000
#: Rows that no index covers yet are compared by Lance, ten times as slowly as here.
_MANY_UNINDEXED = 20_000
#: More slides than this are left out by mask: as SQL they would cost more than they save.
_LISTED_SLIDES = 500
#: The most candidates worth asking an index for.
_MANY_CANDIDATES = 2_000
#: Partitions looked into; twice as many where the nearest ones may be largely left out.
_PROBES, _PROBES_FILTERED = 8, 16
_REFINE = 5


class FlatTable(Protocol):
    """What the store's flat vectors are: slides one after the other, a slide's tiles in their order.

    ``spans`` (S, 2) int64, the [start, stop) rows of each of ``slide_ids`` (S,); ``tile_index`` (T,) int32, rising
    within a slide; ``vectors`` (T, D) float16.
    """

    @property
    def slide_ids(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def spans(self) -> NDArray[np.int64]: ...  # noqa: D102

    @property
    def tile_index(self) -> NDArray[np.int32]: ...  # noqa: D102

    @property
    def vectors(self) -> NDArray[np.float16]: ...  # noqa: D102


class Searcher:
    """Search over one flat table, with an index on the same tiles where there is one.

    The flat table says what exists: rows that only the index knows (replaced, or not listed yet) are never found, and
    scores come from the flat vectors.
    """

    def __init__(
        self, flat: FlatTable, index: TileIndex | None = None, *, threads: int | None = None
    ) -> None:
        self._flat, self._index, self._threads = flat, index, threads
        self._number = {slide_id: number for number, slide_id in enumerate(flat.slide_ids)}

    def search(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        mask: NDArray[np.bool_] | None = None,
        exclude: Sequence[str] = (),
        exact: bool = False,
        progress: Progress | None = None,
    ) -> TopK:
        """The ``k`` rows nearest to each of ``queries`` (Q, D), by cosine, among the rows that count.

        ``mask`` (T,) bool, True = counts; ``exclude`` slide ids that do not count, ids the table lacks included.
        Exact where asked, where there is no index, where few rows are left, and for large batches; else the index
        is asked for candidates, with the slides left out by its own filter and the mask allowed for by asking for
        more; a query for which too few come back is answered exactly.
        """
        allowed = self._allowed(mask, exclude)
        count = len(self._flat.vectors) if allowed is None else int(np.count_nonzero(allowed))
        if exact or self._index is None or not self._worth_it(self._index, len(queries), count):
            return top_k(
                queries, self._flat.vectors, k, allowed=allowed, threads=self._threads, progress=progress
            )
        return self._by_index(self._index, queries, k, allowed, exclude)

    def _allowed(self, mask: NDArray[np.bool_] | None, exclude: Sequence[str]) -> NDArray[np.bool_] | None:
        rows = len(self._flat.vectors)
        if mask is not None and mask.shape != (rows,):
            raise SearchError(f"the mask has shape {mask.shape}, there are {rows} tiles: one bool a tile")
        spans = [self._flat.spans[self._number[slide]] for slide in exclude if slide in self._number]
        if mask is None and not spans:
            return None
        allowed = np.ones(rows, bool) if mask is None else mask.copy()
        for start, stop in spans:
            allowed[start:stop] = False
        return allowed

    def _worth_it(self, index: TileIndex, queries: int, count: int) -> bool:
        if count <= EXACT_ROWS or (queries >= EXACT_BATCH and count <= EXACT_BATCH_ROWS):
            return False
        info = index.info()
        return info is not None and info.rows_unindexed <= max(_MANY_UNINDEXED, count // 50)

    def _by_index(
        self,
        index: TileIndex,
        queries: NDArray[np.floating],
        k: int,
        allowed: NDArray[np.bool_] | None,
        exclude: Sequence[str],
    ) -> TopK:
        unit = unit_queries(queries, self._flat.vectors.shape[1])
        listed = [slide for slide in exclude if slide in self._number][: _LISTED_SLIDES + 1]
        where = not_in("slide_id", listed) if len(listed) <= _LISTED_SLIDES else None
        wanted = self._wanted(k, allowed, listed if where else [])
        probes = _PROBES if allowed is None else _PROBES_FILTERED
        found = TopK(
            np.full((len(unit), k), np.nan, np.float32), np.full((len(unit), k), -1, np.int64), False
        )
        again = []
        for number, query in enumerate(unit):
            rows = np.empty(0, np.int64)
            if wanted <= _MANY_CANDIDATES:
                hits = index.candidates(
                    query.astype(np.float32), wanted, refine=_REFINE, nprobes=probes, where=where
                )
                rows = self.rows_of(hits)
                rows = rows if allowed is None else rows[allowed[rows]]
            if len(rows) < k:
                again.append(number)
                continue
            scores = score_rows(query, self._flat.vectors, rows)
            chosen = best(rows, scores, k)
            found.index[number, : len(chosen)], found.score[number, : len(chosen)] = (
                rows[chosen],
                scores[chosen],
            )
        if again:
            exact = top_k(unit[again], self._flat.vectors, k, allowed=allowed, threads=self._threads)
            found.index[again], found.score[again] = exact.index, exact.score
        return found if len(again) < len(unit) else TopK(found.score, found.index)

    def _wanted(self, k: int, allowed: NDArray[np.bool_] | None, listed: Sequence[str]) -> int:
        """How many candidates to ask for, so that about k and a half remain when the mask has been applied."""
        spare = k + k // 4 + 4  # some may be of a slide that was replaced since
        if allowed is None:
            return spare
        reach = len(allowed) - sum(int(np.diff(self._flat.spans[self._number[slide]])[0]) for slide in listed)
        share = np.count_nonzero(allowed) / max(1, reach)
        return spare if share >= 1 else int(np.ceil(1.5 * k / max(share, 1e-9))) + 10

    def rows_of(self, hits: Candidates) -> NDArray[np.int64]:
        """Flat row numbers of ``hits``, rising and each once; those that the flat table lacks are left out."""
        rows = []
        for slide, tile in zip(hits.slide_id, hits.tile.tolist(), strict=True):
            number = self._number.get(slide)
            if number is None:
                continue
            start, stop = self._flat.spans[number].tolist()
            at = start + int(np.searchsorted(self._flat.tile_index[start:stop], tile))
            if at < stop and self._flat.tile_index[at] == tile:
                rows.append(at)
        return np.unique(np.asarray(rows, np.int64))
