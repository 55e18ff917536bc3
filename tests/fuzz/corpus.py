"""Slides that somebody broke, by accident or on purpose: made from good ones, the same for the same seed.

Each is a name and its bytes; `strange_files` makes those that are no bytes at all: folders, pipes, links in a circle.
"""

import os
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
_VALUES = (0, 1, 3, 255, 65535, 2**20, 2**31 - 1, 2**32 - 1, 2**40, 2**63)


@dataclass(frozen=True)
class Entry:
    """One field of a TIFF directory: where its tag, type, count and value lie in the file."""

    at: int
    tag: int
    kind: int
    count: int
    big: bool
    order: str

    def with_kind(self, data: bytes, kind: int) -> bytes:
        return _put(data, self.at + 2, struct.pack(f"{self.order}H", kind))

    def with_count(self, data: bytes, count: int) -> bytes:
        return _put(data, self.at + 4, _number(count, 8 if self.big else 4, self.order))

    def with_value(self, data: bytes, value: int) -> bytes:
        width = 8 if self.big else 4
        return _put(data, self.at + 4 + width, _number(value, width, self.order))


def directories(data: bytes) -> list[tuple[int, list[Entry]]]:
    """(where the pointer to the next directory lies, the fields) of every directory of a TIFF; [] for another file."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return []
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    at, found = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0], []
    while 0 < at < len(data) - 8 and len(found) < 20:
        count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)[0]
        first, step = at + (8 if big else 2), 20 if big else 12
        entries = [_entry(data, first + n * step, big, order) for n in range(min(count, 200))]
        after = first + count * step
        found.append((after, entries))
        if after + 8 > len(data):
            break
        at = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, after)[0]
    return found


def _entry(data: bytes, at: int, big: bool, order: str) -> Entry:
    tag, kind = struct.unpack_from(f"{order}HH", data, at)
    return Entry(
        at, tag, kind, struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, at + 4)[0], big, order
    )


def _number(value: int, width: int, order: str) -> bytes:
    return (value % (1 << (8 * width))).to_bytes(width, "little" if order == "<" else "big")


def _put(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]


# ---- the ways to break one -------------------------------------------------------------------------------------------


def truncated(data: bytes, _: random.Random) -> Iterator[tuple[str, bytes]]:
    """Cut at every 64th, and just behind the header."""
    for part in range(64):
        yield f"cut-{part:02d}-of-64", data[: len(data) * part // 64]
    for end in (1, 4, 8, 9, 15, 16):
        yield f"cut-after-{end}", data[:end]


def fields(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Every field of the first directories with values, types and counts that cannot be meant."""
    for page, (_, entries) in enumerate(directories(data)[:4]):
        for entry in entries:
            name = f"page-{page}-tag-{entry.tag}"
            for value in chance.sample(_VALUES, 3):
                yield f"{name}-value-{value}", entry.with_value(data, value)
            yield f"{name}-count", entry.with_count(data, chance.choice(_VALUES))
            yield f"{name}-type", entry.with_kind(data, chance.choice([0, 2, 5, 12, 16, 99]))


def loops(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """The chain of directories bent back, out of the file, into the pixels."""
    found = directories(data)
    big = data[2:4] in (b"\x2b\x00", b"\x00\x2b")
    order = "<" if data[:2] == b"II" else ">"
    for page, (pointer, _) in enumerate(found):
        targets = {
            "self": pointer - 12,
            "head": 8,
            "end": len(data) - 2,
            "beyond": 2**31,
            "odd": chance.randrange(len(data)),
        }
        for name, target in targets.items():
            yield f"page-{page}-next-{name}", _put(data, pointer, _number(target, 8 if big else 4, order))


def flipped(data: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Bits turned over anywhere, one or many, and stretches zeroed or filled."""
    for number in range(60):
        changed = bytearray(data)
        for _ in range(chance.choice([1, 4, 64, 4096])):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        yield f"flips-{number}", bytes(changed)
    for number in range(20):
        start, size = chance.randrange(len(data)), chance.choice([16, 512, 65536])
        yield (
            f"blank-{number}",
            _put(data, start, chance.choice([b"\0", b"\xff"]) * min(size, len(data) - start)),
        )


def scales(data: bytes, _: random.Random) -> Iterator[tuple[str, bytes]]:
    """µm/px that cannot be: in an Aperio description, and in the resolution fields."""
    where = re.search(rb"MPP = ([0-9.]+)", data)
    if where:
        for text in ("0", "-0.5", "nan", "inf", "1e9", "1e-9", "0,5", "0x1", "499999999999999999999", "a"):
            piece = text.encode()[: len(where[1])].ljust(len(where[1]))
            yield f"mpp-{text[:8]}", _put(data, where.start(1), piece)
    for page, (_, entries) in enumerate(directories(data)[:1]):
        for entry in entries:
            if entry.tag in (282, 283, 296):
                for value in _VALUES:
                    yield f"page-{page}-resolution-{entry.tag}-{value}", entry.with_value(data, value)


BREAKERS: tuple[Callable[[bytes, random.Random], Iterator[tuple[str, bytes]]], ...] = (
    truncated,
    fields,
    loops,
    flipped,
    scales,
)


def broken(good: Path, seed: int) -> Iterator[tuple[str, bytes]]:
    """Everything above done to one slide; names end in its suffix."""
    data, chance = good.read_bytes(), random.Random(f"{seed}-{good.name}")
    for breaker in BREAKERS:
        for name, changed in breaker(data, chance):
            yield f"{good.stem[:12]}-{name}{good.suffix}", changed


# ---- files that are not what they are called -------------------------------------------------------------------------


def impostors() -> Iterator[tuple[str, bytes]]:
    """Small files of other kinds, empty ones, and bombs: little on disk, very much when it is unpacked."""
    yield "empty.svs", b""
    yield "zero.tif", b"\0"
    yield "text.ndpi", b"this is not a slide\n" * 50
    yield "page.svs", b"<html><script>alert(1)</script></html>"
    yield "zip.mrxs", b"PK\x03\x04" + bytes(200)
    yield "elf.tif", b"\x7fELF" + bytes(500)
    yield "header.tif", b"II*\0" + struct.pack("<I", 8)
    yield "bigheader.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 16)
    yield "dicm.dcm", bytes(128) + b"DICM"
    yield "png-bomb.png", _png(60_000, 60_000)
    for side in (1024, 16384, 2**20, 2**31 - 1):
        yield f"tiff-bomb-{side}.tif", _tiff(side, zlib.compress(bytes(1 << 24), 9))
    for side in (0, 1, 2**16 - 1, 2**32 - 1):
        yield f"tiff-size-{side}.tif", _tiff(side, b"x" * 64)


def _tiff(side: int, tile: bytes) -> bytes:
    """One deflated tile of ``side`` × ``side`` px that says it is a whole slide."""
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 8), (262, 3, 2), (277, 3, 3), (284, 3, 1)]
    tags += [(322, 4, side), (323, 4, side), (324, 4, 8 + 2 + 12 * 11 + 4), (325, 4, len(tile))]
    body = struct.pack("<H", len(tags))
    body += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(4) + tile


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 24), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def strange_files(folder: Path, good: Path) -> list[Path]:
    """Folders, pipes, links that lead nowhere or in a circle, and names that few expect; what was made."""
    made = []

    def place(name: str | bytes, make: Callable[[Path], object]) -> None:
        path = folder / os.fsdecode(name)
        make(path)
        made.append(path)

    place("folder.svs", Path.mkdir)
    place("pipe.svs", lambda path: os.mkfifo(path))
    place("nowhere.svs", lambda path: path.symlink_to("not there"))
    place("circle.svs", lambda path: path.symlink_to(path.name))
    names: list[str | bytes] = [
        "ünïcødé 滑 🔬.svs",
        "new\nline.svs",
        "quote\"'<img src=x>.svs",
        "n" * 240 + ".svs",
    ]
    names += [
        "-rf.svs",
        " lead.svs",
        "trail .svs",
        "%2e%2e.svs",
        "a;b&c$(d).svs",
        b"not-utf8-\xff.svs",
        "UPPER.SVS",
    ]
    for name in names:
        place(name, lambda path: path.write_bytes(good.read_bytes()))
    return made
