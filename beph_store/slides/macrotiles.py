"""Backends that decode macro-tiles themselves: the grid, the cache, the pasting.

A macro-tile is what the file compresses as one. Each is decoded once as long as the tiles are read in an
order whose frontier fits the cache; `tiles.TileReader.order` gives one.
"""

from __future__ import annotations

import os
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.geometry import Size
from beph_store.slides.backend import Backend, Fetcher, UInt8

Key = tuple[int, int, int]
"""(level, column, row) of a macro-tile."""
Entry = UInt8 | str | None
"""Decoded pixels; None for one that the file leaves out (white); or why it cannot be read."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Macro-tiles of one level: level and tile (width, height) in px of that level."""

    size: Size
    tile: Size

    @property
    def columns(self) -> int:
        """Macro-tiles side by side."""
        return -(-self.size[0] // self.tile[0])

    @property
    def rows(self) -> int:
        """Macro-tiles above one another."""
        return -(-self.size[1] // self.tile[1])

    def touched(self, x: int, y: int, w: int, h: int) -> Iterator[tuple[int, int]]:
        """(column, row) of every macro-tile that the region overlaps, row by row."""
        for row in range(y // self.tile[1], (y + h - 1) // self.tile[1] + 1):
            for column in range(x // self.tile[0], (x + w - 1) // self.tile[0] + 1):
                yield column, row


class MacroTileCache:
    """Least recently used, bounded by bytes, locked. Counts what is decoded."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.decodes = 0
        self.distinct: set[Key] = set()
        self._held: OrderedDict[Key, Entry] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key, decode: Callable[[Key], Entry], counting: bool) -> Entry:
        """The macro-tile, decoded now unless it is held. Decoding goes on outside the lock."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        entry = decode(key)
        with self._lock:
            if counting and entry is not None:
                self.decodes += 1
                self.distinct.add(key)
            if key not in self._held:
                self._held[key] = entry
                self._bytes += _nbytes(entry)
        self.trim(self.limit_bytes)
        return entry

    def trim(self, keep_bytes: int) -> None:
        """Drop the least recently used until at most ``keep_bytes`` are held."""
        with self._lock:
            while self._held and self._bytes > keep_bytes:
                self._bytes -= _nbytes(self._held.popitem(last=False)[1])


def _nbytes(entry: Entry) -> int:
    return entry.nbytes if isinstance(entry, np.ndarray) else 256


class MacroTiled(Backend):
    """A backend that knows its macro-tiles; a subclass says how one is decoded.

    It sets ``grids`` (one a level, ``level_sizes`` follow) and calls ``_open``.
    """

    grids: tuple[Grid, ...]
    #: Whether the file is a copy that is not all there.
    in_parts: bool = False

    def _open(self, grids: tuple[Grid, ...], cache_bytes: int) -> None:
        self.grids = grids
        self.level_sizes = tuple(grid.size for grid in grids)
        self.cache_bytes = cache_bytes
        self._cache = MacroTileCache(cache_bytes)

    @abstractmethod
    def _decode(self, level: int, column: int, row: int) -> UInt8 | None:
        """Pixels (h, w, 3), at least as large as what of the macro-tile lies in the level.

        None where the file leaves it out. Raises SlideUnreadable.
        """

    def read(self, level: int, x: int, y: int, out: UInt8) -> None:
        """See `Backend.read`."""
        grid = self.grids[level]
        height, width = out.shape[:2]
        if self.in_parts:
            self.want(level, list(grid.touched(x, y, width, height)))
        for column, row in grid.touched(x, y, width, height):
            entry = self._cache.get((level, column, row), self._entry, self.counting)
            if isinstance(entry, str):
                raise SlideUnreadable(entry)
            left, top = column * grid.tile[0] - x, row * grid.tile[1] - y
            to_x = slice(max(left, 0), min(left + grid.tile[0], width))
            to_y = slice(max(top, 0), min(top + grid.tile[1], height))
            if entry is None:
                out[to_y, to_x] = 255
            else:
                out[to_y, to_x] = entry[
                    to_y.start - top : to_y.stop - top, to_x.start - left : to_x.stop - left
                ]

    def _entry(self, key: Key) -> Entry:
        try:
            return self._decode(*key)
        except SlideUnreadable as error:
            level, column, row = key
            return f"macro-tile {column}, {row} of level {level}: {error}"

    def macro_tile(self, level: int) -> Size | None:
        """See `Backend.macro_tile`."""
        return self.grids[level].tile

    def hold(self, most_bytes: int) -> None:
        """See `Backend.hold`."""
        self._cache.limit_bytes = min(most_bytes, self.cache_bytes)

    def trim(self, keep_bytes: int) -> None:
        """See `Backend.trim`."""
        self._cache.trim(keep_bytes)

    @property
    def counts(self) -> tuple[int, int] | None:
        """See `Backend.counts`."""
        return self._cache.decodes, len(self._cache.distinct)


class BlockFile:
    """Reads byte ranges of a file from any thread.

    Not a memory map: a file that is cut short under one kills the process.
    """

    def __init__(self, path: Path, fetcher: Fetcher | None = None) -> None:
        self.path = path
        self.fetcher = fetcher
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes at ``offset``. Raises SlideUnreadable where the file does not have them.

        What cannot be fetched raises something else: it is no damage of the file.
        """
        if self.fetcher is not None:
            self.fetcher.ensure(offset, count)
        try:
            data = os.pread(self._descriptor, count, offset)
        except OSError as error:
            raise SlideUnreadable(
                f"{error.strerror} while reading {self.path.name}", path=self.path
            ) from error
        if len(data) != count:
            raise SlideUnreadable("beyond the end of the file", path=self.path)
        return data

    def close(self) -> None:
        """Close the file; again is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def padded(image: NDArray[np.uint8], tile: Size) -> UInt8:
    """``image`` (h, w, 3) with white below and to the right up to ``tile`` (width, height)."""
    if image.shape[1] >= tile[0] and image.shape[0] >= tile[1]:
        return image
    out = np.full((tile[1], tile[0], 3), 255, np.uint8)
    out[: image.shape[0], : image.shape[1]] = image[: tile[1], : tile[0]]
    return out
