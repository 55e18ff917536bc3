"""All levels of a slide in one pass over level 0, with one row of tiles a level in memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import UsageError
from beph_store.geometry import Size
from beph_store.testing.tiff import Coding, Level, TiledTiff

Pixels = NDArray[np.uint8]
#: Value of the pixels beyond the edge of the slide, which only padding holds.
WHITE = 244


def check_downsamples(downsamples: tuple[int, ...]) -> None:
    """Raise UsageError unless they start with 1 and each is a multiple of the one before."""
    grows = all(b > a and b % a == 0 for a, b in pairwise(downsamples))
    if not downsamples or downsamples[0] != 1 or not grows:
        raise UsageError("downsamples start with 1 and each is a multiple of the one before")


def shrunk(pixels: Pixels, factor: int) -> Pixels:
    """Mean over ``factor`` × ``factor`` px, rounded; what is left at the right and below is dropped."""
    h, w = pixels.shape[0] // factor, pixels.shape[1] // factor
    part = pixels[: h * factor, : w * factor]
    rows = np.zeros((h, w * factor, 3), np.uint32)
    for i in range(factor):
        rows += part[i::factor]
    total = np.full((h, w, 3), factor * factor // 2, np.uint32)
    for i in range(factor):
        total += rows[:, i::factor]
    return (total // (factor * factor)).astype(np.uint8)


class _Strip:
    """One row of tiles of one level, filled from above; a full one is stored and passed down."""

    def __init__(self, tiff: TiledTiff, level: Level, factor: int, below: _Strip | None) -> None:
        self._tiff, self._level, self._factor, self._below = tiff, level, factor, below
        self._pixels = np.full((level.tile_px, level.across * level.tile_px, 3), WHITE, np.uint8)
        self._filled, self._row = 0, 0

    def add(self, lines: Pixels) -> None:
        """Append lines (h, w, 3); h divides the height of a tile, w is at most the strip's."""
        width = min(lines.shape[1], self._pixels.shape[1])
        self._pixels[self._filled : self._filled + len(lines), :width] = lines[:, :width]
        self._filled += len(lines)
        if self._filled >= len(self._pixels):
            self._store()

    def finish(self) -> None:
        """Store what is left, then the same below."""
        if self._filled and self._row < self._level.down:
            self._store()
        if self._below is not None:
            self._below.finish()

    def _store(self) -> None:
        level, side = self._level, self._level.tile_px
        if self._row < level.down:
            for col in range(level.across):
                self._tiff.put(
                    level, self._row * level.across + col, self._pixels[:, col * side : (col + 1) * side]
                )
        if self._below is not None:
            self._below.add(shrunk(self._pixels[: self._filled], self._factor))
        self._pixels[:] = WHITE
        self._row, self._filled = self._row + 1, 0


def write_pyramid(
    tiff: TiledTiff,
    size: Size,
    downsamples: tuple[int, ...],
    coding: Coding,
    region: Callable[[int, int], Pixels],
) -> None:
    """Write every level; ``region(x, y)`` draws the 256 px square at level-0 (x, y).

    A level is the mean of the pixels of the one above; its size is rounded down.
    """
    levels = [tiff.add_level((size[0] // d, size[1] // d), coding) for d in downsamples]
    below = None
    factors = [b // a for a, b in pairwise(downsamples)]
    for level, factor in zip(reversed(levels), [1, *reversed(factors)], strict=True):
        below = _Strip(tiff, level, factor, below)
    top, side = levels[0], levels[0].tile_px
    if below is None:
        return
    line = np.empty((side, top.across * side, 3), np.uint8)
    for row in range(top.down):
        for col in range(top.across):
            line[:, col * side : (col + 1) * side] = region(col * side, row * side)
        below.add(line)
    below.finish()
