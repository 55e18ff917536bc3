"""A small writer of tiled pyramidal TIFF and BigTIFF, for test slides.

Tiles of all levels are appended as they come and only their table is kept, so that memory
does not grow with the picture; several tiles may share one piece of data, so that a huge
slide can be a small file. The directories follow at the end of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from beph_store.errors import UsageError
from beph_store.geometry import Size

_SHORT, _LONG, _RATIONAL, _ASCII, _BYTES, _LONG8 = 3, 4, 5, 2, 7, 16
_CODES = {_SHORT: "H", _LONG: "I", _RATIONAL: "I", _ASCII: "B", _BYTES: "B", _LONG8: "Q"}
_COMPRESSIONS = {"none": 1, "jpeg": 7, "deflate": 8}
_SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}


@dataclass(frozen=True, slots=True)
class Coding:
    """How tiles are stored: ``compression`` jpeg, deflate or none; the rest is for jpeg.

    ``colour`` ycbcr or rgb (as some scanners store it); ``tables`` True keeps the
    quantisation and Huffman tables once a level instead of in every tile.
    """

    compression: str = "jpeg"
    quality: int = 85
    subsampling: str = "420"
    colour: str = "ycbcr"
    tables: bool = True

    def __post_init__(self) -> None:
        if self.compression not in _COMPRESSIONS:
            raise UsageError(f"no such compression: {self.compression} (have {', '.join(_COMPRESSIONS)})")
        if self.subsampling not in _SUBSAMPLING or self.colour not in ("ycbcr", "rgb"):
            raise UsageError(f"no such JPEG: {self.colour} {self.subsampling}")

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """One whole tile (H, W, 3) uint8 RGB as bytes."""
        if self.compression == "none":
            return pixels.tobytes()
        if self.compression == "deflate":
            return bytes(imagecodecs.zlib_encode(pixels.tobytes(), level=1))
        if self.colour == "rgb":
            return bytes(
                imagecodecs.jpeg8_encode(pixels, level=self.quality, colorspace="RGB", outcolorspace="RGB")
            )
        return bytes(
            imagecodecs.jpeg8_encode(
                pixels,
                level=self.quality,
                colorspace="RGB",
                outcolorspace="YCBCR",
                subsampling=self.subsampling,
            )
        )


def split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """A JPEG stream as (tables alone, the stream without them), each with its own SOI."""
    tables, rest, at = b"", b"", 2
    while True:
        marker, length = struct.unpack(">HH", jpeg[at : at + 4])
        if marker == 0xFFDA:
            break
        segment = jpeg[at : at + 2 + length]
        if marker in (0xFFDB, 0xFFC4):
            tables += segment
        else:
            rest += segment
        at += 2 + length
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + jpeg[at:]


@dataclass(slots=True, eq=False)
class Level:
    """One level under construction: ``offsets``, ``counts`` (tiles,), row by row; 0 = not written."""

    size: Size
    tile_px: int
    coding: Coding
    offsets: NDArray[np.uint64] = field(init=False)
    counts: NDArray[np.uint64] = field(init=False)
    jpeg_tables: bytes = b""

    def __post_init__(self) -> None:
        self.offsets = np.zeros(self.across * self.down, np.uint64)
        self.counts = np.zeros(self.across * self.down, np.uint64)

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.size[0] // self.tile_px)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.size[1] // self.tile_px)


class TiledTiff:
    """Writes ``path``; use as a context manager, the file is complete after it.

    ``mpp`` µm/px of level 0 goes into the resolution tags (None: no tags); ``big`` BigTIFF.
    """

    def __init__(
        self, path: str | Path, mpp: float | None, *, big: bool = False, description: str = ""
    ) -> None:
        self._mpp, self._big, self._description = mpp, big, description
        self._levels: list[Level] = []
        self._file: BinaryIO = Path(path).open("wb")  # noqa: SIM115 - closed by __exit__
        big_head, classic_head = (
            struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0),
            struct.pack("<2sHI", b"II", 42, 0),
        )
        self._file.write(big_head if big else classic_head)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def add_level(self, size: Size, coding: Coding, tile_px: int = 256) -> Level:
        """The next coarser level, of ``size`` (width, height) px; ``tile_px`` a multiple of 16."""
        self._levels.append(Level(size, tile_px, coding))
        return self._levels[-1]

    def put(self, level: Level, index: int, pixels: NDArray[np.uint8]) -> None:
        """Store a whole tile (tile_px, tile_px, 3) at ``index`` (row by row)."""
        data = level.coding.encode(np.ascontiguousarray(pixels))
        if level.coding.compression == "jpeg" and level.coding.tables:
            tables, data = split_tables(data)
            if level.jpeg_tables not in (b"", tables):
                raise UsageError("tiles of one level have different JPEG tables")
            level.jpeg_tables = tables
        if self._file.tell() % 2:
            self._file.write(b"\0")
        level.offsets[index], level.counts[index] = self._file.tell(), len(data)
        self._file.write(data)

    def repeat(self, level: Level, index: NDArray[np.int64], source: int) -> None:
        """Let the tiles ``index`` show the same data as the tile ``source``."""
        level.offsets[index], level.counts[index] = level.offsets[source], level.counts[source]

    def _finish(self) -> None:
        """Write the directories and link them."""
        link = 8 if self._big else 4
        for number, level in enumerate(self._levels):
            at = self._file.seek(0, 2)
            at += at % 2
            body, next_link = self._directory(self._tags(level, number), at)
            self._file.seek(at)
            self._file.write(body)
            self._file.seek(link)
            self._file.write(struct.pack("<Q" if self._big else "<I", at))
            link = at + next_link

    def _tags(self, level: Level, number: int) -> list[tuple[int, int, NDArray[np.uint64] | bytes]]:
        """(tag, type, values) in ascending order."""
        coding = level.coding
        jpeg = coding.compression == "jpeg"
        wide = _LONG8 if self._big else _LONG
        rows: list[tuple[int, int, list[int] | bytes | NDArray[np.uint64]]] = [
            (254, _LONG, [int(number > 0)]),
            (256, _LONG, [level.size[0]]),
            (257, _LONG, [level.size[1]]),
            (258, _SHORT, [8, 8, 8]),
            (259, _SHORT, [_COMPRESSIONS[coding.compression]]),
            (262, _SHORT, [6 if jpeg and coding.colour == "ycbcr" else 2]),
        ]
        if self._description and number == 0:
            rows.append((270, _ASCII, self._description.encode() + b"\0"))
        rows.append((277, _SHORT, [3]))
        if self._mpp is not None:
            density = Fraction(10_000 * level.size[0] / (self._mpp * self._levels[0].size[0]))
            density = density.limit_denominator(50_000)
            rows += [(tag, _RATIONAL, [density.numerator, density.denominator]) for tag in (282, 283)]
        rows.append((284, _SHORT, [1]))
        if self._mpp is not None:
            rows.append((296, _SHORT, [3]))
        rows += [(322, _SHORT, [level.tile_px]), (323, _SHORT, [level.tile_px])]
        rows += [(324, wide, level.offsets), (325, _LONG, level.counts)]
        if level.jpeg_tables:
            rows.append((347, _BYTES, level.jpeg_tables))
        if jpeg and coding.colour == "ycbcr":
            rows.append((530, _SHORT, list(_SUBSAMPLING[coding.subsampling])))
        return [(tag, kind, v if isinstance(v, bytes) else np.asarray(v, np.uint64)) for tag, kind, v in rows]

    def _directory(
        self, tags: list[tuple[int, int, NDArray[np.uint64] | bytes]], at: int
    ) -> tuple[bytes, int]:
        """(bytes of the directory and its values, place of the link to the next within them)."""
        count, entry, inline = ("<Q", "<HHQ", 8) if self._big else ("<H", "<HHI", 4)
        head = struct.pack(count, len(tags))
        next_link = len(head) + len(tags) * (struct.calcsize(entry) + inline)
        tail_at = at + next_link + inline
        entries, tail = b"", b""
        for tag, kind, values in tags:
            raw = values if isinstance(values, bytes) else values.astype("<u" + str(_width(kind))).tobytes()
            entries += struct.pack(entry, tag, kind, len(raw) // (8 if kind == _RATIONAL else _width(kind)))
            if len(raw) <= inline:
                entries += raw.ljust(inline, b"\0")
                continue
            tail += b"\0" * (-(tail_at + len(tail)) % 8)
            entries += struct.pack("<Q" if self._big else "<I", tail_at + len(tail))
            tail += raw
        return head + entries + b"\0" * inline + tail, next_link


def _width(kind: int) -> int:
    """Bytes of one number of a TIFF type."""
    return struct.calcsize("<" + _CODES[kind])
