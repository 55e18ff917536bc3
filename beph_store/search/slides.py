"""Which slides look alike: by their mean vectors, or by sets of typical tiles; and hits spread over slides.

A slide's *mosaic* is a few of its tiles that stand for all: medoids of a k-means over its vectors, each with the share
of tiles it stands for. Comparing mosaics keeps rare tissue visible that a mean drowns.

Sources: the mosaic and the median of minima follow Yottixel (Kalra et al., Medical Image Analysis 2020), here with
cosine distance in place of barcodes; MaxSim follows ColBERT (Khattab & Zaharia, SIGIR 2020), here weighted by share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from beph_store.errors import SearchError
from beph_store.halves import widened
from beph_store.search.exact import TopK

#: Tiles of a slide that its k-means looks at.
_SAMPLE = 5000
_BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """Typical tiles of one slide: ``rows`` (P,) int64 in the flat table, rising; ``vectors`` (P, D) float32 of unit
    length; ``share`` (P,) float32, the part of the slide's tiles each stands for, adding up to 1.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    share: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class RankedSlides:
    """``slide`` (n,) int64 numbers, most alike first, equal scores by number; ``score`` (n,) float32."""

    slide: NDArray[np.int64]
    score: NDArray[np.float32]


#: How alike two mosaics are, larger = more: from their cosines (P, R), and the shares of the query's tiles (P,).
Likeness = Callable[[NDArray[np.float32], NDArray[np.float32]], float]


def median_of_minima(cosines: NDArray[np.float32], share: NDArray[np.float32]) -> float:
    """1 − the median, over the query's tiles, of the distance to the nearest tile of the other; shares do not count.

    Sensitive to the number of tiles in a mosaic: about 16 is what was measured to work, 64 was not.
    """
    return float(np.median(cosines.max(axis=1)))


def weighted_maxsim(cosines: NDArray[np.float32], share: NDArray[np.float32]) -> float:
    """Mean, over the query's tiles by their shares, of the cosine to the nearest tile of the other."""
    return float(share @ cosines.max(axis=1))


#: Set likenesses by name.
LIKENESSES: dict[str, Likeness] = {"median-of-minima": median_of_minima, "maxsim": weighted_maxsim}


def mean_vectors(vectors: NDArray[np.float16], spans: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean tile (S, D) of each slide; ``spans`` (S, 2) are [start, stop) rows; NaN for a slide without tiles."""
    means = np.full((len(spans), vectors.shape[1]), np.nan, np.float32)
    for number, (start, stop) in enumerate(spans.tolist()):
        if stop > start:
            parts = range(start, stop, _BLOCK)
            total = sum(vectors[at : min(at + _BLOCK, stop)].sum(axis=0, dtype=np.float64) for at in parts)
            means[number] = np.asarray(total) / (stop - start)
    return means


def rank_by_mean(
    query: NDArray[np.floating], means: NDArray[np.float32], leave_out: Sequence[int] = ()
) -> RankedSlides:
    """Slides by the cosine of their mean with ``query`` (D,), both centred by the mean of all ``means`` (S, D).

    Uncentred means all point the same way: embeddings lie in a narrow cone, and its axis drowns what differs. Slides
    without tiles and those of ``leave_out`` (numbers) are not ranked; the centre counts every slide with tiles.
    """
    there = np.isfinite(means).all(axis=1)
    if not there.any():
        raise SearchError("no slide has a tile to compare: ingest slides under this recipe first")
    centre = means[there].mean(axis=0, dtype=np.float64)
    moved = means.astype(np.float64) - centre
    asked = np.asarray(query, np.float64) - centre
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = moved @ asked / np.linalg.norm(moved, axis=1) / np.linalg.norm(asked)
    # A slide that is the centre itself has no direction: it is as like as unlike.
    return _ranked(np.where(there, np.nan_to_num(cosine, nan=0.0), np.nan), leave_out)


def mosaic(vectors: NDArray[np.float16], span: tuple[int, int], tiles: int = 16, *, seed: int = 0) -> Mosaic:
    """Typical tiles of the slide at rows [start, stop) of ``vectors`` (T, D): medoids of a spherical k-means.

    At most ``tiles`` of them; fewer where the slide has fewer, or where clusters share their medoid or run empty. A
    slide of more than 5,000 tiles is clustered by 5,000 drawn with ``seed``. SearchError for a slide without tiles.
    """
    start, stop = int(span[0]), int(span[1])
    if stop <= start or tiles < 1:
        raise SearchError("a mosaic needs a slide with tiles, and at least 1 of them")
    rows = np.arange(start, stop)
    if len(rows) > _SAMPLE:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _SAMPLE, replace=False))
    unit = widened(vectors[rows])
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    if len(rows) <= tiles:
        return Mosaic(rows, unit, np.full(len(rows), 1 / len(rows), np.float32))
    means = MiniBatchKMeans(tiles, n_init=1, batch_size=1024, max_iter=30, random_state=seed).fit(unit)
    return _medoids(rows, unit, np.asarray(means.labels_))


def _medoids(rows: NDArray[np.int64], unit: NDArray[np.float32], labels: NDArray[np.int64]) -> Mosaic:
    """The member of each cluster nearest to its own mean direction, with the share of the cluster."""
    medoid, size = [], []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        medoid.append(members[np.argmax(unit[members] @ unit[members].mean(axis=0))])
        size.append(len(members))
    order = np.argsort(medoid)
    chosen = np.asarray(medoid)[order]
    return Mosaic(rows[chosen], unit[chosen], (np.asarray(size)[order] / len(rows)).astype(np.float32))


def rank_by_mosaic(
    query: Mosaic,
    mosaics: Sequence[Mosaic | None],
    likeness: str = "maxsim",
    leave_out: Sequence[int] = (),
) -> RankedSlides:
    """Slides by how like their mosaics are to ``query``, by one of `LIKENESSES`; None = a slide without tiles.

    Not symmetric: it asks whether what the query shows is found in the other. One matrix product for all slides.
    """
    if likeness not in LIKENESSES:
        raise SearchError(f"no likeness {likeness!r}: choose from {', '.join(LIKENESSES)}")
    measure = LIKENESSES[likeness]
    sizes = [0 if other is None else len(other) for other in mosaics]
    scores = np.full(len(mosaics), np.nan)
    if any(sizes):
        cosines = query.vectors @ np.concatenate([other.vectors for other in mosaics if other is not None]).T
        stops = np.cumsum(sizes)
        for number in np.flatnonzero(sizes):
            part = cosines[:, stops[number] - sizes[number] : stops[number]]
            scores[number] = measure(part, query.share)
    return _ranked(scores, leave_out)


def diverse(top: TopK, spans: NDArray[np.int64], k: int, per_slide: int = 1) -> TopK:
    """The best ``k`` hits of each query with at most ``per_slide`` from one slide.

    ``spans`` (S, 2) int64, the rows of each slide, rising. Ask the search for several times ``k``: what it did not
    return cannot fill a place. Rows of the result as in `TopK`.
    """
    if per_slide < 1 or k < 1:
        raise SearchError("ask for at least 1 hit, and at least 1 of a slide")
    # Starts of empty slides equal the next one's: the last of them is the slide that has the row.
    slide = np.searchsorted(spans[:, 0], top.index, side="right") - 1
    score = np.full((len(top.index), k), np.nan, np.float32)
    index = np.full((len(top.index), k), -1, np.int64)
    for query in range(len(top.index)):
        taken: dict[int, int] = {}
        keep: list[int] = []
        for place in np.flatnonzero(top.index[query] >= 0).tolist():
            owner = int(slide[query, place])
            taken[owner] = taken.get(owner, 0) + 1
            if taken[owner] <= per_slide and len(keep) < k:
                keep.append(place)
        index[query, : len(keep)], score[query, : len(keep)] = top.index[query, keep], top.score[query, keep]
    return TopK(score, index, top.exact)


def _ranked(scores: NDArray[np.float64], leave_out: Sequence[int]) -> RankedSlides:
    left = np.isfinite(scores)
    left[list(leave_out)] = False
    numbers = np.flatnonzero(left)
    order = np.lexsort((numbers, -scores[numbers]))
    return RankedSlides(numbers[order], scores[numbers[order]].astype(np.float32))
