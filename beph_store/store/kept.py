"""The tiles' own pixels, kept beside their embeddings for those who train on them: how they are read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import StoreError, UnknownSlide
from beph_store.records import Recipe
from beph_store.store.layout import Layout
from beph_store.store.pixels import ABSENT, FORMAT, SHARD, crc32, digest
from beph_store.store.place import ObjectPath, Place, measure
from beph_store.store.registry import SlideRow
from beph_store.store.staging import read_ready
from beph_store.store.zarrs import array_of, is_group, read_group

#: An entry of the index: where a chunk begins, and its bytes.
_PAIR = struct.Struct("<QQ")
_ENTRY = _PAIR.size


def archive_of(layout: Layout, row: SlideRow) -> Place | None:
    """Where the kept tiles of a row are, None for a row without."""
    if row.status != "done" or row.pixels_sha256 is None or row.ingest_id is None:
        return None
    return layout.slide_pixels(row.recipe, row.slide_id, row.ingest_id)


@dataclass(frozen=True, slots=True)
class KeptTiles:
    """The slides of a recipe whose tiles are kept: ``rows`` of the registry, by slide id.

    ``without`` the finished slides that were ingested without ``--keep-tiles``, or have lost what was kept.
    """

    layout: Layout
    recipe: Recipe
    rows: tuple[SlideRow, ...]
    without: tuple[str, ...]

    @classmethod
    def find(cls, layout: Layout, recipe: Recipe, rows: list[SlideRow]) -> KeptTiles:
        """Those of the ``rows`` of one recipe."""
        done = [row for row in rows if row.status == "done"]
        there = _archives(layout, recipe.key) if any(row.pixels_sha256 for row in done) else set()
        kept = tuple(row for row in done if archive_of(layout, row) in there)
        names = {row.slide_id for row in kept}
        return cls(layout, recipe, kept, tuple(row.slide_id for row in done if row.slide_id not in names))

    @property
    def slides(self) -> tuple[str, ...]:
        """Ids of the slides."""
        return tuple(row.slide_id for row in self.rows)

    @property
    def counts(self) -> NDArray[np.int64]:
        """(S,) tiles of each slide, unreadable ones included."""
        return np.array([row.tiles for row in self.rows], np.int64)

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        return sum(measure(self._archive(row))[1] for row in self.rows)

    def row(self, slide_id: str) -> SlideRow:
        """The registry row of a slide; UnknownSlide for one whose tiles are not kept."""
        found = next((row for row in self.rows if row.slide_id == slide_id), None)
        if found is None:
            raise UnknownSlide(
                f"the tiles of slide {slide_id} are not kept: ingest it again with --keep-tiles --replace",
                slide_id=slide_id,
            )
        return found

    def open(self, row: SlideRow) -> Shard:
        """The tiles of one of the ``rows``; to be closed by the caller."""
        return Shard(self._archive(row), row.tiles, self.recipe.tile.tile_px, row.slide_id)

    def ok(self, slide_id: str) -> NDArray[np.bool_]:
        """(N,) False where a tile of the slide could not be read."""
        row = self.row(slide_id)
        if not row.unreadable:
            return np.ones(row.tiles, bool)
        with self.open(row) as shard:
            return shard.ok()

    def read(self, slide_id: str, index: ArrayLike) -> NDArray[np.uint8]:
        """(n, H, W, 3) uint8 RGB of the tiles of those numbers; zero where a tile could not be read.

        Raises UnknownSlide for a slide whose tiles are not kept, IndexError for a number that it does not have,
        StoreError where they are damaged.
        """
        numbers = np.atleast_1d(np.asarray(index, np.int64))
        row = self.row(slide_id)
        check_range(numbers, row.tiles)
        side = self.recipe.tile.tile_px
        out = np.empty((len(numbers), side, side, 3), np.uint8)
        with self.open(row) as shard:
            for at in np.argsort(numbers, kind="stable").tolist():
                shard.tile(int(numbers[at]), out[at])
        return out

    def _archive(self, row: SlideRow) -> Place:
        return self.layout.slide_pixels(row.recipe, row.slide_id, str(row.ingest_id))


def check_range(numbers: NDArray[np.int64], count: int) -> None:
    """IndexError for a number outside 0…count-1."""
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < count):
        raise IndexError(f"tile {numbers.min()} or {numbers.max()} of {count}")


class Shard:
    """Random access to the tiles of one archive, past zarr: forty times as fast for a batch drawn at random.

    Holds the file open and nothing in memory. Raises StoreError where the archive is missing or damaged.
    """

    def __init__(self, archive: Place, tiles: int, tile_px: int, slide_id: str) -> None:
        self._slide_id = slide_id
        self._archive = archive
        self._tiles = tiles
        self._shape = (tile_px, tile_px, 3)
        try:
            self._file = _open(archive / SHARD)
            size = self._file.size()
        except OSError as error:
            raise self._bad(f"cannot be opened: {error.strerror or error}") from error
        self._data = size - (_ENTRY * tiles + 4)  # what is not index
        self._entries: NDArray[np.uint64] | None = None  # of a bucket, where a look costs a request

    def index(self) -> NDArray[np.uint64]:
        """(N, 2) where each tile's chunk begins, and its bytes; the checksum of the whole index is tested."""
        from numcodecs.checksum32 import CRC32C

        try:
            raw = CRC32C(location="end").decode(self._at(self._data, _ENTRY * self._tiles + 4))
            return np.frombuffer(raw, "<u8").reshape(self._tiles, 2)
        except (RuntimeError, ValueError, OSError) as error:
            raise self._bad("have lost their index") from error

    def ok(self) -> NDArray[np.bool_]:
        """(N,) False where a tile could not be read."""
        there: NDArray[np.bool_] = self.index()[:, 0] != ABSENT
        return there

    def tile(self, number: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(H, W, 3) of one tile, into ``out`` where it is given; zero where it could not be read."""
        from numcodecs import Zstd

        out = np.empty(self._shape, np.uint8) if out is None else out
        try:
            offset, count = self._entry(number)
            if offset == ABSENT:
                out[...] = 0
                return out
            if offset + count > self._data:
                raise ValueError("beyond the last tile")
            pixels = Zstd().decode(self._at(offset, count))
            out[...] = np.frombuffer(pixels, np.uint8).reshape(self._shape)
        except (RuntimeError, ValueError, OSError, struct.error) as error:
            raise self._bad(f"are damaged at tile {number}") from error
        return out

    def _entry(self, number: int) -> tuple[int, int]:
        if isinstance(self._file, _Remote):
            if self._entries is None:
                self._entries = self.index()
            offset, count = self._entries[number].tolist()
        else:
            offset, count = _PAIR.unpack(self._at(self._data + _ENTRY * number, _ENTRY))
        return offset, count

    def _at(self, offset: int, count: int) -> bytes:
        return self._file.at(offset, count)

    def _bad(self, how: str) -> StoreError:
        return StoreError(
            f"the kept tiles of slide {self._slide_id} {how}: ingest it again with --keep-tiles --replace",
            slide_id=self._slide_id,
            path=str(self._archive),
        )

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pixel_problems(layout: Layout, row: SlideRow, tile_px: int, ok: NDArray[np.bool_]) -> Iterator[str]:
    """What is wrong with the kept tiles of a finished slide, every one of which is read; ``ok`` as its table says."""
    archive = archive_of(layout, row)
    if archive is None:
        return
    if not is_group(archive):
        yield "its kept tiles are missing: ingest it again with --keep-tiles --replace"
        return
    try:
        kept_ok = _metadata(archive, row, tile_px)
        with Shard(archive, row.tiles, tile_px, row.slide_id) as shard:
            crcs = _crcs(shard, row.tiles, tile_px)
            agree = np.array_equal(kept_ok, shard.ok()) and np.array_equal(kept_ok, ok)
    except StoreError as error:
        yield str(error)
        return
    if not agree:
        yield "its kept tiles and its embeddings do not agree on which tiles are unreadable"
    if digest(kept_ok, crcs) != row.pixels_sha256:
        yield "its kept tiles do not have the hash that was recorded when they were written"


def _metadata(archive: Place, row: SlideRow, tile_px: int) -> NDArray[np.bool_]:
    """What the archive says of itself to any zarr reader, tested; returns its ``ok``."""
    try:
        group = read_group(archive, but=SHARD)
        said: dict[str, Any] = group.attrs.asdict()
        tiles, ok = array_of(group, "tiles"), array_of(group, "ok")
        if ok.shape != (row.tiles,):
            raise ValueError("ok has not one value a tile")
        found = np.asarray(ok[...], bool)
    except (KeyError, ValueError, OSError) as error:
        raise StoreError(f"its kept tiles are damaged: {error}", path=str(archive)) from error
    want = (row.tiles, tile_px, tile_px, 3)
    if said.get("format") != FORMAT:
        raise StoreError(f"its kept tiles have format {said.get('format')!r}, this version reads {FORMAT}")
    if tiles.shape != want or tiles.dtype != np.uint8 or said.get("ingest_id") != row.ingest_id:
        raise StoreError("its kept tiles belong to another ingest, or have another form")
    return found


def _crcs(shard: Shard, tiles: int, tile_px: int) -> NDArray[np.uint32]:
    out = np.empty((tile_px, tile_px, 3), np.uint8)
    return np.array([crc32(shard.tile(number, out)) for number in range(tiles)], np.uint32)


def orphan_archives(layout: Layout, key: str, rows: list[SlideRow]) -> list[Place]:
    """Archives that neither a finished slide nor one that waits for its commit refers to."""
    ready = [read_ready(folder) for folder in layout.staging(key).glob("*")]
    live = {archive_of(layout, row) for row in (*rows, *(each.row for each in ready if each))}
    return sorted((path for path in _archives(layout, key) if path not in live), key=str)


def _archives(layout: Layout, key: str) -> set[Place]:
    folder = layout.pixels(key)
    if isinstance(folder, ObjectPath):
        # By the objects: some servers list folders for a while from which all is gone.
        return {folder / path.relative_to(folder).parts[0] for path in folder.rglob("*")}
    return {path for path in folder.iterdir() if path.suffix == ".zarr"} if folder.is_dir() else set()


class _Local:
    """Bytes of a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def at(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        self._file.seek(offset)
        return self._file.read(count)

    def close(self) -> None:
        self._file.close()


class _Remote:
    """Bytes of an object."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path

    def size(self) -> int:
        return self._path.stat().st_size

    def at(self, offset: int, count: int) -> bytes:
        return self._path.read_range(offset, count)

    def close(self) -> None:
        """Nothing is open."""


def _open(path: Place) -> _Local | _Remote:
    return _Local(path) if isinstance(path, Path) else _Remote(path)
