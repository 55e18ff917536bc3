"""Tiles that show nothing or are out of focus, and slides whose stain or vectors are unlike all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.search.sheet import tile_pixels
from beph_store.engine.search.table import SearchTable
from beph_store.search.quality import (
    FOCUS_FLOOR,
    OUTLIER_Z,
    TileQuality,
    measure,
    robust_z,
    slide_stain,
    stain_z,
)
from beph_store.search.slides import mean_vectors

Progress = Callable[[int, int], None]
F64 = NDArray[np.float64]

#: Fewer slides than these are no crowd that one could stand out from.
LEAST_SLIDES = 5
#: Least spread of the logarithm of distances that z is counted in: an outlier is at least 2.9 times as far as usual.
_DISTANCE_FLOOR = 0.3
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class PixelFindings:
    """What the sampled tiles that could be read back show.

    ``rows`` (n,) int64 rows of the table, rising; ``blank`` and ``blurred`` (n,) bool; ``focus_z`` (n,) float64,
    lower = less sharp than the cohort; ``density`` (S, 3) mean optical density of each slide's stain, NaN where no
    tile was read; ``unread`` numbers of the slides whose files have moved, changed or cannot be read.
    """

    rows: NDArray[np.int64]
    blank: NDArray[np.bool_]
    blurred: NDArray[np.bool_]
    focus_z: F64
    density: F64
    unread: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SlideFinding:
    """One slide: ``stain_z`` and ``embedding_z`` None where there was nothing, or too little, to compare with."""

    slide_id: str
    case_id: str
    tiles: int
    read: int
    blank: int
    blurred: int
    stain_z: float | None
    embedding_z: float | None

    @property
    def stain_outlier(self) -> bool:
        """Stained unlike the cohort."""
        return self.stain_z is not None and self.stain_z > OUTLIER_Z

    @property
    def embedding_outlier(self) -> bool:
        """Far from every slide of another case."""
        return self.embedding_z is not None and self.embedding_z > OUTLIER_Z

    @property
    def outlier(self) -> bool:
        """Either."""
        return self.stain_outlier or self.embedding_outlier


def look_at_pixels(
    table: SearchTable, sampled: Sequence[NDArray[np.int64]], progress: Progress | None = None
) -> PixelFindings:
    """Measure the sampled tiles, slide by slide, read from the slides' own files and at the recipe's scale."""
    seen: list[tuple[NDArray[np.int64], TileQuality]] = []
    density = np.full((len(sampled), 3), np.nan)
    unread = []
    for slide, rows in enumerate(sampled):
        pixels = _pixels(table, slide, rows)
        if pixels is None:
            unread.append(slide)
        elif len(rows):
            quality = measure(pixels)
            seen.append((rows, quality))
            stain = slide_stain(quality)
            density[slide] = np.nan if stain is None else stain
        if progress is not None:
            progress(slide + 1, len(sampled))
    rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in seen)])
    blank = np.concatenate([np.empty(0, bool), *(quality.blank for _, quality in seen)])
    focus = np.concatenate([np.empty(0), *(quality.focus for _, quality in seen)])
    focus_z = robust_z(focus, floor=FOCUS_FLOOR, reference=focus[~blank])
    return PixelFindings(rows, blank, ~blank & (focus_z < -OUTLIER_Z), focus_z, density, tuple(unread))


def _pixels(table: SearchTable, slide: int, rows: NDArray[np.int64]) -> NDArray[np.uint8] | None:
    """(n, H, W, 3) of a slide's tiles, or None where its file does not give them any more."""
    path = table.rows[table.flat.slide_ids[slide]].path
    if path is None or not Path(path).exists():
        return None
    if not len(rows):
        return np.empty((0, 1, 1, 3), np.uint8)
    found = tile_pixels(table, [table.hit(int(row), 0.0) for row in rows])
    return np.stack([tile for tile, _ in found]) if all(own for _, own in found) else None


def judge_slides(table: SearchTable, pixels: PixelFindings | None) -> tuple[SlideFinding, ...]:
    """One finding a slide, in the order of the table."""
    count = len(table.flat.slide_ids)
    embedding = embedding_z(table)
    stain, read, blank, blurred = np.full(count, np.nan), *(np.zeros(count, int) for _ in range(3))
    if pixels is not None:
        owner = table.slide_of[pixels.rows]
        read, blank, blurred = (
            np.bincount(owner[kept], minlength=count)
            for kept in (np.ones(len(owner), bool), pixels.blank, pixels.blurred)
        )
        if np.isfinite(pixels.density[:, 0]).sum() >= LEAST_SLIDES:
            stain = stain_z(pixels.density)
    return tuple(
        SlideFinding(
            name,
            table.case_of[i],
            int(np.diff(table.flat.spans[i])[0]),
            int(read[i]),
            int(blank[i]),
            int(blurred[i]),
            _number(stain[i]),
            _number(embedding[i]),
        )
        for i, name in enumerate(table.flat.slide_ids)
    )


def embedding_z(table: SearchTable) -> F64:
    """(S,) robust z of how far each slide's mean vector is from the nearest of another case; NaN without any."""
    means = mean_vectors(table.flat.vectors, table.flat.spans).astype(np.float64)
    cases = np.unique(np.array(table.case_of), return_inverse=True)[1]
    nearest = np.full(len(means), np.nan)
    there = np.isfinite(means).all(axis=1)
    known, own = means[there], cases[there]
    squares = np.einsum("ij,ij->i", known, known)
    away = np.full(len(known), np.inf)
    for at in range(0, len(known), _BLOCK):
        part = slice(at, at + _BLOCK)
        distance = squares[part, None] + squares - 2 * known[part] @ known.T
        distance[own[part, None] == own] = np.inf
        away[part] = np.sqrt(np.maximum(distance.min(axis=1, initial=np.inf), 0))
    nearest[there] = np.where(np.isfinite(away), away, np.nan)
    if np.isfinite(nearest).sum() < LEAST_SLIDES:
        return np.full(len(means), np.nan)
    # Slides that are copies of each other have distance 0: they are no yardstick, and no outliers.
    return robust_z(np.log(np.maximum(nearest, 1e-6)), floor=_DISTANCE_FLOOR)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
