"""Which slides show the same tissue: tiles far more alike than any that merely look alike, lying as one piece would.

Method. Some tiles of every slide are looked up in all other slides. What counts is not how alike a tile and its hit are
but how much more so than the tile and the next best of *another* slide and case, or of its own slide at a distance:
the ratio test of Lowe (IJCV 2004, section 7.1), whose second neighbour is "known to come from a different object".
Cosines are taken about the mean of all tiles, because embeddings lie in a narrow cone. Whether the matched places
agree is judged in `placing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.halves import widened
from beph_store.search.searcher import Searcher

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: row_a, row_b, score, ratio, rank
_Row = tuple[int, int, float, float, int]

#: Tiles whose mean is taken for the middle of all.
_CENTRE = 20_000
#: A tile of the own slide is another object from so many tile sides on.
_ELSEWHERE = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the tiles of a table are: ``slide_of`` (T,) int32; ``case_of`` (S,) int64 numbers; ``middle_um`` (T, 2)
    float64, the middles in µm on their slides; ``side_um`` the side of a tile.
    """

    slide_of: NDArray[np.int32]
    case_of: NDArray[np.int64]
    middle_um: F64
    side_um: float


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Tiles of one slide and the most alike tile of another, best first.

    ``row_a``, ``row_b`` (M,) int64 rows of the table; ``score`` (M,) their cosine about the common mean; ``ratio`` (M,)
    their distance (1 − cosine) over that to the nearest tile that is neither: 1 or more is a chance look-alike;
    ``rank`` (M,) the place of the other slide among all found for the tile, 1 the nearest.
    """

    row_a: I64
    row_b: I64
    score: F64
    ratio: F64
    rank: I64

    def __len__(self) -> int:
        return len(self.row_a)


def centre_of(vectors: NDArray[np.float16], seed: int = 0) -> F64:
    """(D,) the mean of the unit vectors of at most 20,000 tiles."""
    rows = np.arange(len(vectors))
    if len(rows) > _CENTRE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _CENTRE, replace=False))
    mean: F64 = _unit(vectors[rows].astype(np.float64)).mean(axis=0)
    return mean


class LookAlikes:
    """Looks tiles up in other slides; see the module."""

    def __init__(
        self, searcher: Searcher, vectors: NDArray[np.float16], slide_ids: Sequence[str], places: Places
    ) -> None:
        self._searcher, self._vectors, self._ids, self._places = searcher, vectors, slide_ids, places
        self._centre = centre_of(vectors)

    def of(self, slide: int, rows: I64, k: int) -> dict[int, Matches]:
        """Matches of the tiles ``rows`` (n,) of ``slide`` among the ``k`` nearest in other slides, by slide."""
        queries = widened(self._vectors[rows])
        found = self._searcher.search(queries, k, exclude=[self._ids[slide]])
        asked = self._centred(rows)
        own = self._nearest_elsewhere(slide, rows, asked)
        by_slide: dict[int, list[_Row]] = {}
        for number, row in enumerate(rows.tolist()):
            hits = found.index[number][found.index[number] >= 0]
            if len(hits):
                scores = self._centred(hits) @ asked[number]
                for match in self._best_by_slide(slide, hits, scores, float(own[number])):
                    by_slide.setdefault(int(self._places.slide_of[match[0]]), []).append((row, *match))
        return {other: _matches(matched) for other, matched in by_slide.items()}

    def _best_by_slide(
        self, slide: int, hits: I64, scores: F64, own: float
    ) -> list[tuple[int, float, float, int]]:
        """The best hit of each slide, nearest first: its row, cosine, ratio and rank."""
        order = np.argsort(-scores, kind="stable")
        hits, scores = hits[order], scores[order]
        slides = self._places.slide_of[hits]
        cases = self._places.case_of[slides]
        mine = self._places.case_of[slide]
        _, first = np.unique(slides, return_index=True)
        best = []
        for rank, at in enumerate(np.sort(first).tolist(), 1):
            third = np.flatnonzero((cases != mine) & (cases != cases[at]))
            # None among the hits: the next one is at least as far as the last of them.
            next_best = max(float(scores[third[0]] if len(third) else scores[-1]), own)
            ratio = max(0.0, 1 - float(scores[at])) / max(1 - next_best, 1e-9)
            best.append((int(hits[at]), float(scores[at]), ratio, rank))
        return best

    def _nearest_elsewhere(self, slide: int, rows: I64, asked: F64) -> F64:
        """(n,) cosine of each tile with the nearest of its own slide that does not touch it; −1 without any."""
        own = np.flatnonzero(self._places.slide_of == slide)
        out = np.full(len(rows), -1.0)
        far = _ELSEWHERE * self._places.side_um
        vectors, where = self._centred(own), self._places.middle_um[own]
        for at in range(0, len(rows), 64):
            part = slice(at, at + 64)
            apart = np.abs(self._places.middle_um[rows[part], None] - where).max(axis=2) >= far
            cosines = np.where(apart, asked[part] @ vectors.T, -1.0)
            out[part] = cosines.max(axis=1)
        return out

    def _centred(self, rows: I64) -> F64:
        return _unit(_unit(self._vectors[rows].astype(np.float64)) - self._centre)


def _unit(vectors: F64) -> F64:
    unit: F64 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _matches(rows: list[_Row]) -> Matches:
    a, b, score, ratio, rank = (np.array(column) for column in zip(*sorted(rows, key=_order), strict=True))
    return Matches(
        a.astype(np.int64),
        b.astype(np.int64),
        score.astype(np.float64),
        ratio.astype(np.float64),
        rank.astype(np.int64),
    )


def _order(row: _Row) -> tuple[int, float, int, int]:
    return row[4], row[3], row[0], row[1]


def joined(one: Matches | None, back: Matches | None) -> Matches:
    """Matches of both directions as one list from the first slide to the second, each pair of tiles once."""
    best: dict[tuple[int, int], _Row] = {}
    for matches, turned in ((one, False), (back, True)):
        if matches is None:
            continue
        a, b = (matches.row_b, matches.row_a) if turned else (matches.row_a, matches.row_b)
        columns = (a, b, matches.score, matches.ratio, matches.rank)
        for row in zip(*(column.tolist() for column in columns), strict=True):
            known = best.get(row[:2])
            if known is None or _order(row) < _order(known):
                best[row[:2]] = row
    return _matches(list(best.values()))
