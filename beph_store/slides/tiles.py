"""Tiles of a slide: from origins in level-0 px to pixels at the wanted scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.geometry import level_for, to_level0
from beph_store.records import TileSet
from beph_store.slides.backend import UInt8
from beph_store.slides.reader import SlideReader
from beph_store_kernels import resize_area

_IntArray = NDArray[np.int32] | NDArray[np.int64]


class TileReader:
    """Reads the tiles of one slide.

    A tile is a square of one pyramid level (the smallest not coarser than the spec's mpp), read as it is
    where it has ``tile_px`` px there, else resampled once by exact area averaging. ``errors`` says why a
    tile could not be read, by its index.
    """

    def __init__(self, slide: SlideReader, tiles: TileSet) -> None:
        self.slide_id = tiles.slide_id
        self.tile_px = tiles.spec.tile_px
        self.errors: dict[int, str] = {}
        self._slide = slide
        info = slide.info
        self.level = level_for(tiles.spec.mpp / info.mpp, info.level_sizes)
        downsample = slide.downsamples[self.level]
        width, height = info.level_sizes[self.level]
        side = round(to_level0(self.tile_px, tiles.spec.mpp, info.mpp) / downsample)
        #: Side of a tile in px of the level.
        self.region_px = max(1, min(side, width, height))
        corner = np.rint(tiles.origin_l0 / downsample).astype(np.int64)
        # A level is up to one px smaller than its share of level 0: stay inside.
        self._corner = np.minimum(corner, [width - self.region_px, height - self.region_px])

    def read(self, indices: Sequence[int] | _IntArray, out: UInt8) -> NDArray[np.bool_]:
        """Read tiles into ``out`` (≥ B, tile_px, tile_px, 3) uint8 RGB, in the order of ``indices`` (B,).

        Returns (B,) bool: False where a tile could not be read; its pixels in ``out`` then mean nothing.
        """
        ok = np.ones(len(indices), np.bool_)
        for position, index in enumerate(indices):
            try:
                self._read_one(int(index), out[position])
            except SlideUnreadable as error:
                ok[position] = False
                self.errors[int(index)] = str(error)
        return ok

    def _read_one(self, index: int, out: UInt8) -> None:
        x, y = self._corner[index].tolist()
        if self.region_px == self.tile_px:
            self._slide.read_into(self.level, x, y, out)
            return
        region = self._slide.read_level(self.level, x, y, self.region_px, self.region_px)
        out[...] = resize_area(region, (self.tile_px, self.tile_px))

    def order(self, indices: Sequence[int] | _IntArray | None = None) -> NDArray[np.int32]:
        """``indices`` (all of them if None) in the order that decodes each macro-tile once.

        Row by row; where the macro-tiles under one row of tiles would not fit the cache, in vertical
        strips that do (macro-tiles on the border of two strips are then decoded twice). From now on the
        slide holds no more than this order needs.
        """
        chosen = np.arange(len(self._corner)) if indices is None else np.asarray(indices, np.int64)
        macro = self._slide.macro_tile(self.level)
        if not len(chosen) or macro is None:
            return np.sort(chosen).astype(np.int32)
        x, y = self._corner[chosen].T
        column_bytes = (-(-self.region_px // macro[1]) + 1) * macro[0] * macro[1] * 3
        columns = max(1, self._slide.cache_bytes * 2 // 3 // column_bytes - 1)
        widest = int(x.max() + self.region_px - x.min()) // macro[0] + 2
        # Memory that was just let go is still in the processor's cache: a third faster than a large heap.
        self._slide.hold((min(columns, widest) + 1) * column_bytes * 5 // 4)
        return chosen[np.lexsort((x, y, x // (columns * macro[0])))].astype(np.int32)

    def fetch_ahead(self, indices: Sequence[int] | _IntArray) -> None:
        """Begin to fetch what these tiles need, in a thread; nothing where the slide is all here."""
        if self._slide.in_parts and len(indices):
            self._slide.want(self.level, self._macro_tiles(np.asarray(indices, np.int64)), wait=False)

    def want(self) -> None:
        """Fetch what all tiles need; nothing where the slide is all here."""
        if self._slide.in_parts and len(self._corner):
            self._slide.want(self.level, self._macro_tiles(np.arange(len(self._corner))))

    def common_macro_tiles(self, some: _IntArray, others: _IntArray) -> int:
        """How many macro-tiles tiles of both sides lie on; 0 where the file has none that are known."""
        return len(self._macro_tiles(some) & self._macro_tiles(others))

    def _macro_tiles(self, indices: _IntArray) -> set[tuple[int, int]]:
        macro = self._slide.macro_tile(self.level)
        if macro is None or not len(indices):
            return set()
        first = self._corner[indices] // macro
        last = (self._corner[indices] + self.region_px - 1) // macro
        across, down = (int(v) + 1 for v in (last - first).max(axis=0))
        places = [np.minimum(first + np.array([i, j]), last) for i in range(across) for j in range(down)]
        return set(map(tuple, np.unique(np.concatenate(places), axis=0).tolist()))
