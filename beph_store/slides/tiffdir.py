"""TIFF directories, read with suspicion, before any C library sees the file.

OpenSlide aborts the process on a header that promises a tile of 2²⁰ × 2²⁰ px, and other readers
follow a loop of directories for ever. Nothing here allocates or seeks by a number that was not first
held against the size of the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.geometry import Size

MAX_TILE_PX = 8192
MAX_SIDE_PX = 1 << 22
MAX_DIRECTORIES = 4096
MAX_ENTRIES = 4096

JPEG = 7
RGB, YCBCR = 2, 6

_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_DTYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_NDPI_FLAG = 65420
_WANTED = {
    254: "subfile_type", 256: "width", 257: "height", 258: "bits", 259: "compression", 262: "photometric",
    270: "description", 273: "strip_offsets", 277: "samples", 278: "rows_per_strip", 279: "strip_counts",
    282: "x_resolution", 283: "y_resolution", 284: "planar", 296: "resolution_unit", 305: "software",
    322: "tile_width", 323: "tile_height", 324: "tile_offsets", 325: "tile_counts", 330: "sub_ifds",
    338: "extra_samples", 347: "jpeg_tables", _NDPI_FLAG: "ndpi",
}  # fmt: skip

Value = bytes | NDArray[np.unsignedinteger] | tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """One image of a TIFF.

    ``size`` (width, height) px; ``tile`` (width, height) px, of strips (width, rows); ``tiled`` says which;
    ``offsets``, ``counts`` (N,) uint64 bytes in the file, row by row; ``resolution`` px per unit (x, y), 0
    where not stated; ``resolution_unit`` 1 none, 2 inch, 3 cm; ``alpha`` 0 none, 1 the colours are
    multiplied by it, 2 they are not.
    """

    size: Size
    tile: Size
    tiled: bool
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    compression: int
    photometric: int
    bits: tuple[int, ...]
    samples: int
    planar: int
    reduced: bool
    description: str
    jpeg_tables: bytes
    resolution: tuple[float, float]
    resolution_unit: int
    sub_ifds: tuple[int, ...]
    alpha: int

    @property
    def grid(self) -> Size:
        """(columns, rows) of tiles."""
        return -(-self.size[0] // self.tile[0]), -(-self.size[1] // self.tile[1])


@dataclass(frozen=True, slots=True, eq=False)
class TiffLayout:
    """``pages`` of the main chain; ``sub_pages`` of the first page (an OME pyramid keeps its levels there).

    ``pages`` is empty for a Hamamatsu NDPI, whose 64-bit variant of TIFF only OpenSlide reads.
    """

    pages: tuple[Page, ...]
    sub_pages: tuple[Page, ...] = ()


def read_layout(path: Path, fetch: Callable[[int, int], None] | None = None) -> TiffLayout:
    """The layout of a TIFF or BigTIFF file. Raises SlideUnreadable where it cannot be what it says.

    ``fetch`` (offset, bytes) is called for every part of every directory before it is read, the values of tags that
    mean nothing here too: other readers of the same file look at those.
    """
    with path.open("rb") as file:
        return _Parser(file, path, fetch).layout()


class _Parser:
    def __init__(self, file: BinaryIO, path: Path, fetch: Callable[[int, int], None] | None) -> None:
        self._file = file
        self._path = path
        self._fetch = fetch
        self._size = os.fstat(file.fileno()).st_size
        head = self._bytes(0, 16, "header")
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(self._order + "H", head[2:4])[0] if self._order else 0
        if version not in (42, 43):
            raise self._refusal("not a TIFF file")
        self._big = version == 43
        self._first = self._unpack("Q" if self._big else "I", head[8 if self._big else 4 :])
        self._seen: set[int] = set()
        if not self._big and self._size > 2**32:
            # Hamamatsu writes 64-bit offsets into classic TIFF.
            wide = self._unpack("Q", head[4:])
            self._first = wide if wide < self._size else self._first

    def layout(self) -> TiffLayout:
        tags, after = self._directory(self._first)
        if "ndpi" in tags and "tile_offsets" not in tags:
            return TiffLayout(())
        pages = [self._page(tags)]
        while after:
            tags, after = self._directory(after)
            pages.append(self._page(tags))
        sub_pages = tuple(self._page(self._directory(offset)[0]) for offset in pages[0].sub_ifds)
        return TiffLayout(tuple(pages), sub_pages)

    def _directory(self, offset: int) -> tuple[dict[str, Value], int]:
        """The wanted tags of the directory at ``offset``, and where the next one is (0: nowhere)."""
        if offset in self._seen:
            raise self._refusal("its directories form a loop")
        self._seen.add(offset)
        if len(self._seen) > MAX_DIRECTORIES:
            raise self._refusal(f"more than {MAX_DIRECTORIES} directories")
        count_format, entry, link = ("Q", 20, "Q") if self._big else ("H", 12, "I")
        width = struct.calcsize(count_format)
        count = self._unpack(count_format, self._bytes(offset, width, "directory"))
        if not 1 <= count <= MAX_ENTRIES:
            raise self._refusal(f"a directory of {count} entries")
        block = self._bytes(offset + width, count * entry, "directory")
        tags = {}
        for start in range(0, len(block), entry):
            tag, kind = struct.unpack_from(self._order + "HH", block, start)
            if tag in _WANTED and kind in _SIZES:
                tags[_WANTED[tag]] = self._value(tag, kind, block[start + 4 : start + entry])
            elif self._fetch is not None and kind in _SIZES:
                self._value(tag, kind, block[start + 4 : start + entry])
        at = offset + width + len(block)
        if at + struct.calcsize(link) > self._size:
            raise self._refusal("truncated in a directory")
        return tags, self._unpack(link, self._bytes(at, struct.calcsize(link), "directory"))

    def _value(self, tag: int, kind: int, field: bytes) -> Value:
        word = "Q" if self._big else "I"
        width = struct.calcsize(word)
        count = self._unpack(word, field)
        size = count * _SIZES[kind]
        if size > self._size:
            raise self._refusal(f"tag {tag} claims {count} values")
        if size <= width:
            data = field[width : width + size]
        else:
            data = self._bytes(self._unpack(word, field[width:]), size, f"tag {tag}")
        if kind in _DTYPES:
            return np.frombuffer(data, self._order + _DTYPES[kind])
        if kind == 5:
            pairs = np.frombuffer(data, self._order + "u4").reshape(-1, 2).tolist()
            return tuple(a / b if b else 0.0 for a, b in pairs)
        return data

    def _page(self, tags: Mapping[str, Value]) -> Page:
        tiled = "tile_offsets" in tags
        size = _number(tags, "width", 0), _number(tags, "height", 0)
        if tiled:
            tile = _number(tags, "tile_width", 0), _number(tags, "tile_height", 0)
        else:
            tile = size[0], min(_number(tags, "rows_per_strip", size[1]), size[1])
        samples, planar = _number(tags, "samples", 1), _number(tags, "planar", 1)
        self._check_sizes(size, tile, tiled)
        pieces = -(-size[0] // tile[0]) * -(-size[1] // tile[1]) * (samples if planar == 2 else 1)
        names = ("tile_offsets", "tile_counts") if tiled else ("strip_offsets", "strip_counts")
        offsets, counts = (_numbers(tags, name)[:pieces] for name in names)
        self._check_pieces(offsets, counts, pieces)
        return Page(
            size=size,
            tile=tile,
            tiled=tiled,
            offsets=offsets,
            counts=counts,
            compression=_number(tags, "compression", 1),
            photometric=_number(tags, "photometric", 0),
            bits=tuple(_numbers(tags, "bits").tolist()) or (1,),
            samples=samples,
            planar=planar,
            reduced=bool(_number(tags, "subfile_type", 0) & 1),
            description=_text(tags, "description"),
            jpeg_tables=_raw(tags, "jpeg_tables"),
            resolution=(_ratio(tags, "x_resolution"), _ratio(tags, "y_resolution")),
            resolution_unit=_number(tags, "resolution_unit", 2),
            sub_ifds=tuple(_numbers(tags, "sub_ifds").tolist()),
            alpha=_number(tags, "extra_samples", 0),
        )

    def _check_sizes(self, size: Size, tile: Size, tiled: bool) -> None:
        if not all(1 <= side <= MAX_SIDE_PX for side in size):
            raise self._refusal(f"an image of {size[0]} × {size[1]} px")
        if tiled and not all(1 <= side <= MAX_TILE_PX for side in tile):
            raise self._refusal(f"tiles of {tile[0]} × {tile[1]} px (at most {MAX_TILE_PX} are read)")
        if min(tile) < 1:
            raise self._refusal("strips without rows")

    def _check_pieces(self, offsets: NDArray[np.uint64], counts: NDArray[np.uint64], pieces: int) -> None:
        if min(len(offsets), len(counts)) < pieces or pieces == 0:
            raise self._refusal(f"{min(len(offsets), len(counts))} tiles or strips listed of {pieces}")
        if int(counts.max()) > self._size:
            raise self._refusal("corrupt, or cut short: a tile or strip is longer than the file")
        beyond = (offsets > self._size) | (offsets + counts > self._size)
        missing = int((beyond & (counts > 0)).sum())
        if missing:
            raise self._refusal(f"cut short: {missing} of {pieces} tiles or strips lie beyond its end")

    def _bytes(self, offset: int, count: int, what: str) -> bytes:
        if offset + count > self._size:
            raise self._refusal("empty" if self._size == 0 else f"truncated: no {what} where one should be")
        if self._fetch is not None:
            self._fetch(offset, count)
            return os.pread(self._file.fileno(), count, offset)  # a buffer would hold what was not there yet
        self._file.seek(offset)
        return self._file.read(count)

    def _unpack(self, code: str, data: bytes) -> int:
        return int(struct.unpack_from(self._order + code, data)[0])

    def _refusal(self, reason: str) -> SlideUnreadable:
        return SlideUnreadable(f"{self._path.name} is not a readable TIFF: {reason}", path=self._path)


def _numbers(tags: Mapping[str, Value], name: str) -> NDArray[np.uint64]:
    value = tags.get(name)
    return value.astype(np.uint64) if isinstance(value, np.ndarray) else np.zeros(0, np.uint64)


def _number(tags: Mapping[str, Value], name: str, default: int) -> int:
    values = _numbers(tags, name)
    return int(values[0]) if len(values) else default


def _ratio(tags: Mapping[str, Value], name: str) -> float:
    value = tags.get(name)
    return float(value[0]) if isinstance(value, tuple) and value else 0.0


def _raw(tags: Mapping[str, Value], name: str) -> bytes:
    value = tags.get(name)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value if isinstance(value, bytes) else b""


def _text(tags: Mapping[str, Value], name: str) -> str:
    return _raw(tags, name).rstrip(b"\0").decode("utf-8", "replace")
