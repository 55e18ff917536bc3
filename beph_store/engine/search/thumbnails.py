"""Small pictures of many tiles, packed into JPEG sheets of 16 × 16."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from beph_store.engine.search.sheet import tile_pixels
from beph_store.engine.search.table import SearchTable
from beph_store.errors import BephStoreError

#: Cells along a side of a sheet: small sheets, so that a browser decodes only what is looked at.
SIDE = 16
#: Where a picture is from, as a page tells it.
NONE, OVERVIEW, TILE = 0, 1, 2
#: Px of a cell for so many tiles: 5,000 make a page of 10 MB. Multiples of 16, the block that a JPEG never mixes.
_SIZES = ((1500, 112), (6000, 64), (1 << 62, 48))
_QUALITY = 70
#: Full tiles held at once: 64 of 224 px are 10 MB.
_CHUNK = 64


@dataclass(frozen=True, slots=True, eq=False)
class Thumbnails:
    """``sheets``: JPEGs; tile i is on sheet i // 256 at cell i % 256, row by row, ``px`` a side.

    ``source`` (n,) uint8: NONE, OVERVIEW (cut from the stored overview, its slide has moved or changed) or TILE.
    """

    px: int
    sheets: tuple[bytes, ...]
    source: NDArray[np.uint8]

    def counts(self) -> dict[str, int]:
        """How many are from where."""
        found = np.bincount(self.source, minlength=3).tolist()
        return {"from_slides": found[TILE], "from_overviews": found[OVERVIEW], "none": found[NONE]}


def thumbnails(
    table: SearchTable, rows: NDArray[np.int64], progress: Callable[[int, int], None] | None = None
) -> Thumbnails:
    """Pictures of rows (n,) of the table, in their order, from the slides' files or where these have moved from the
    stored overviews. What neither has is left grey.
    """
    px = next(size for most, size in _SIZES if len(rows) <= most)
    cells = SIDE * SIDE
    canvas = np.full((-(-len(rows) // cells), SIDE * px, SIDE * px, 3), 128, np.uint8)
    source = np.zeros(len(rows), np.uint8)
    done = 0
    slides = table.slide_of[rows]
    for slide in np.unique(slides):
        own = np.flatnonzero(slides == slide)
        for chunk in np.split(own, range(_CHUNK, len(own), _CHUNK)):
            for number, (pixels, from_file) in zip(chunk.tolist(), _read(table, rows[chunk]), strict=False):
                sheet, cell = divmod(number, cells)
                y, x = (v * px for v in divmod(cell, SIDE))
                kernel = Image.Resampling.BOX if from_file else Image.Resampling.BICUBIC
                small = Image.fromarray(pixels).resize((px, px), kernel)
                canvas[sheet, y : y + px, x : x + px] = np.asarray(small)
                source[number] = TILE if from_file else OVERVIEW
            done += len(chunk)
            if progress:
                progress(done, len(rows))
    return Thumbnails(px, tuple(_jpeg(sheet) for sheet in canvas), source)


def _read(table: SearchTable, rows: NDArray[np.int64]) -> list[tuple[NDArray[np.uint8], bool]]:
    """Nothing where the store has lost its overview as well: the map is drawn all the same."""
    try:
        return tile_pixels(table, [table.hit(int(row), 0.0) for row in rows])
    except (BephStoreError, OSError):
        return []


def _jpeg(sheet: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
