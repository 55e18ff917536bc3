"""Slides like a slide, and how well a search by embeddings finds what has the same label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.search.ask import Exclude, Question, left_out
from beph_store.engine.search.sheet import tile_pixels
from beph_store.engine.search.table import SearchTable
from beph_store.errors import UsageError
from beph_store.halves import widened
from beph_store.search import top_k
from beph_store.search.retrieval import RetrievalScores, evaluate, neighbours
from beph_store.search.slides import LIKENESSES, mean_vectors, mosaic, rank_by_mean, rank_by_mosaic

#: ``mean`` compares centred mean vectors, the others mosaics of typical tiles.
Measure = Literal["mean", "maxsim", "median-of-minima"]
MEASURES: tuple[str, ...] = ("mean", *LIKENESSES)
#: Tiles judged at most; more say no more, and each is compared with all.
_TILES = 20_000


@dataclass(frozen=True, slots=True)
class SlideHit:
    """A slide like the one asked about; higher ``score`` = more alike."""

    slide_id: str
    case_id: str
    tiles: int
    score: float


def similar_slides(
    table: SearchTable,
    slide_id: str,
    *,
    measure: str = "maxsim",
    top: int = 10,
    exclude: Exclude | None = None,
) -> list[SlideHit]:
    """Stored slides most like a stored slide, by default none of its case."""
    number = table.slide(slide_id)
    out = left_out(table, Question(np.empty((0, 0), np.float32), slide_id, number), exclude)
    place = {name: i for i, name in enumerate(table.flat.slide_ids)}
    spans, vectors = table.flat.spans, table.flat.vectors
    if measure == "mean":
        means = mean_vectors(vectors, spans)
        ranked = rank_by_mean(means[number], means, [place[name] for name in out])
    elif measure in LIKENESSES:
        mosaics = [mosaic(vectors, (a, b)) if b > a else None for a, b in spans.tolist()]
        asked = mosaics[number]
        if asked is None:
            raise UsageError(f"slide {slide_id} has no readable tile to compare by")
        ranked = rank_by_mosaic(asked, mosaics, measure, [place[name] for name in out])
    else:
        raise UsageError(f"no measure {measure!r}: choose from {', '.join(MEASURES)}")
    found = zip(ranked.slide[:top].tolist(), ranked.score[:top].tolist(), strict=True)
    return [
        SlideHit(table.flat.slide_ids[i], table.case_of[i], int(spans[i, 1] - spans[i, 0]), score)
        for i, score in found
    ]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Scores at each k of ``vectors``: embeddings, or colour alone for comparison."""

    vectors: str
    scores: tuple[RetrievalScores, ...]


def judge_tiles(
    table: SearchTable, target: str, *, ks: Sequence[int] = (1, 3, 5), colour: bool = False, seed: int = 0
) -> list[Retrieval]:
    """mMV@k, P@k and mAP@k of tiles by a label column, no neighbour of the own case; see ``search.retrieval``.

    ``colour`` adds the same by mean and spread of each tile's RGB, read from the slides' files: what an encoder has to
    beat. At most 20,000 tiles, drawn with ``seed``.
    """
    labels = _labels(table, target)
    known = np.flatnonzero([labels[i] is not None for i in table.slide_of])
    if len(known) > _TILES:
        known = np.sort(np.random.default_rng(seed).choice(known, _TILES, replace=False))
    own = [str(labels[i]) for i in table.slide_of[known]]
    cases = [table.case_of[i] for i in table.slide_of[known]]
    found = [Retrieval("embeddings", _scores(table.flat.vectors[known], own, cases, ks))]
    if colour:
        found.append(Retrieval("colour alone", _scores(_colours(table, known), own, cases, ks)))
    return found


def judge_slides(table: SearchTable, target: str, *, ks: Sequence[int] = (1, 3, 5)) -> list[Retrieval]:
    """The same of slides, by every measure."""
    labels = _labels(table, target)
    spans, vectors = table.flat.spans, table.flat.vectors
    kept = [i for i, (a, b) in enumerate(spans.tolist()) if b > a and labels[i] is not None]
    own, cases = [str(labels[i]) for i in kept], [table.case_of[i] for i in kept]
    means = mean_vectors(vectors, spans[kept])
    mosaics = [mosaic(vectors, (int(a), int(b))) for a, b in spans[kept].tolist()]
    found = []
    for measure in MEASURES:
        table_of = np.full((len(kept), len(kept)), np.nan)
        for i in range(len(kept)):
            ranked = (
                rank_by_mean(means[i], means)
                if measure == "mean"
                else rank_by_mosaic(mosaics[i], mosaics, measure)
            )
            table_of[i, ranked.slide] = ranked.score
        ranks = neighbours(table_of, cases)
        found.append(Retrieval(measure, tuple(evaluate(ranks, own, cases, k) for k in ks)))
    return found


def _labels(table: SearchTable, target: str) -> list[str | None]:
    frame = table.slide_frame()
    if target not in frame.columns:
        have = ", ".join(name for name in frame.columns if not name.startswith("_"))
        raise UsageError(f"no column {target!r} for the slides: pass --labels with it, or choose from {have}")
    return [None if value is None else str(value) for value in frame[target].to_list()]


def _scores(
    vectors: NDArray[np.float16], labels: list[str], cases: list[str], ks: Sequence[int]
) -> tuple[RetrievalScores, ...]:
    """Asked case by case, each among the tiles of all others: a case may hold thousands of tiles alike."""
    owner = np.array(cases)
    ranked: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(cases)
    for case in np.unique(owner):
        own = np.flatnonzero(owner == case)
        found = top_k(widened(vectors[own]), vectors, max(ks), allowed=owner != case)
        for item, rows in zip(own.tolist(), found.index, strict=True):
            ranked[item] = rows
    return tuple(evaluate(ranked, labels, cases, k) for k in ks)


def _colours(table: SearchTable, rows: NDArray[np.int64]) -> NDArray[np.float16]:
    """(n, 6) mean and standard deviation of R, G and B, each column standardised."""
    values = []
    for slide in np.unique(table.slide_of[rows]):
        own = rows[table.slide_of[rows] == slide]
        for pixels, _ in tile_pixels(table, [table.hit(int(row), 0.0) for row in own]):
            flat = pixels.reshape(-1, 3).astype(np.float32)
            values.append(np.concatenate([flat.mean(axis=0), flat.std(axis=0)]))
    colours = np.array(values)
    spread: NDArray[np.float16] = ((colours - colours.mean(axis=0)) / (colours.std(axis=0) + 1e-6)).astype(
        np.float16
    )
    return spread
