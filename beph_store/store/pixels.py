"""The tiles' own pixels, kept beside their embeddings for those who train on them: how they are written.

A slide's archive is a zarr v3 group of two arrays, for any zarr reader:

    tiles  (N, H, W, 3) uint8 RGB in tile order, zero where a tile could not be read; one shard, a tile a chunk,
           zstd with a checksum: a batch drawn at random reads its own tiles and nothing else
    ok     (N,) bool, False where a tile could not be read

The order of chunks in a shard is free, so tiles are appended to it as they come and nothing is written twice.
While a slide is in progress its shard grows in the staging folder; each part of the spool says where the pixels
of its tiles lie, and is written after they are on the disk. What the last part does not know of is cut off and
read again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import StoreError
from beph_store.store.durable import sync_file, sync_folder
from beph_store.store.place import Place, put_folder
from beph_store.store.zarrs import GROUP, is_group, new_group

#: Version of the archive; another one is not read.
FORMAT = 1
#: Fast, and its checksum is tested with every tile that is read. Higher levels gain 2 % and cost four times as much.
_LEVEL = 1
#: Where the only shard of ``tiles`` lies, and what its index says of a chunk that is not there.
SHARD = Path("tiles", "c", "0", "0", "0", "0")
ABSENT = np.iinfo(np.uint64).max
_NOWHERE = -1

Map = Callable[[Callable[[NDArray[np.uint8]], bytes], Iterable[NDArray[np.uint8]]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Packed:
    """Compressed tiles, and the (n,) uint32 CRC-32 of the pixels of each."""

    chunks: tuple[bytes, ...]
    crc32: NDArray[np.uint32]


def pack(pixels: NDArray[np.uint8], map_: Map = map) -> Packed:
    """Compress (n, H, W, 3) tiles; ``map_`` may spread them over threads."""
    chunks = tuple(map_(_compress, pixels))
    return Packed(chunks, np.array([crc32(tile) for tile in pixels], np.uint32))


def _compress(tile: NDArray[np.uint8]) -> bytes:
    from numcodecs import Zstd

    return bytes(Zstd(level=_LEVEL, checksum=True).encode(tile))


def crc32(tile: NDArray[np.uint8]) -> int:
    """CRC-32 of a contiguous tile."""
    return zlib.crc32(tile.reshape(-1).data)


def digest(ok: NDArray[np.bool_], crcs: NDArray[np.uint32]) -> str:
    """SHA-256 that names (N,) tiles: which of them could be read, and the CRC-32 of each that could."""
    found = hashlib.sha256(np.ascontiguousarray(ok, "|u1").data)
    found.update(np.where(ok, crcs, 0).astype("<u4").data)
    return found.hexdigest()


class PixelLog:
    """The shard of a slide in progress, in its staging folder.

    ``spans`` (N, 3) int64: where a tile's chunk begins, how long it is, and the CRC-32 of its pixels; -1 for none.
    """

    def __init__(self, folder: Path, tiles: int, tile_px: int) -> None:
        self._log = folder / "pixels.log"
        self.archive = folder / "pixels.zarr"
        self._tile_px = tile_px
        self._file: BufferedRandom | None = None
        self._end = 0
        self.spans: NDArray[np.int64] = np.full((tiles, 3), _NOWHERE, np.int64)

    def find(self) -> int:
        """Bytes that an earlier run left; an archive that it did not live to seal is a log again."""
        if (self.archive / SHARD).exists():
            (self.archive / SHARD).replace(self._log)
        shutil.rmtree(self.archive, ignore_errors=True)
        return self._log.stat().st_size if self._log.exists() else 0

    def start(self) -> None:
        """Begin to write, after the last tile that ``spans`` knows."""
        self._end = int(max(0, (self.spans[:, 0] + self.spans[:, 1]).max(initial=0)))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.touch()
        self._file = self._log.open("r+b")
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def add(self, tile_index: NDArray[np.int32], packed: Packed) -> None:
        """Append tiles; a tile that is there already is not taken again."""
        for tile, chunk, crc in zip(tile_index.tolist(), packed.chunks, packed.crc32.tolist(), strict=True):
            if self.spans[tile, 0] == _NOWHERE:
                self._writable().write(chunk)
                self.spans[tile] = self._end, len(chunk), crc
                self._end += len(chunk)

    def sync(self) -> None:
        """Flush to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let the file go; what was not flushed by ``sync`` may be lost to a power cut."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, ok: NDArray[np.bool_], attributes: dict[str, Any]) -> str:
        """Make the archive of (N,) tiles, all of it on the disk; returns its digest.

        Raises StoreError where a tile that could be read was never added.
        """
        from numcodecs.checksum32 import CRC32C

        missing = int((ok & (self.spans[:, 0] == _NOWHERE)).sum())
        if missing:
            raise StoreError(f"the pixels of {missing} tiles were never kept")
        index = np.where(ok[:, None], self.spans[:, :2].astype(np.uint64), ABSENT).astype("<u8")
        self._writable().write(CRC32C(location="end").encode(index))
        self.sync()
        self.close()
        name = digest(ok, self.spans[:, 2].astype(np.uint32))
        self._write_archive(ok, {"format": FORMAT, **attributes, "pixels_sha256": name})
        return name

    def _write_archive(self, ok: NDArray[np.bool_], attributes: dict[str, Any]) -> None:
        from zarr.codecs import ZstdCodec

        group = new_group(self.archive, attributes)
        shape = (len(ok), self._tile_px, self._tile_px, 3)
        group.create_array(
            "tiles",
            shape=shape,
            dtype=np.uint8,
            chunks=(1, *shape[1:]),
            shards=shape,
            compressors=[ZstdCodec(level=_LEVEL, checksum=True)],
            fill_value=0,
        )
        group.create_array("ok", data=ok, chunks=(len(ok),))
        shard = self.archive / SHARD
        shard.parent.mkdir(parents=True)
        self._log.replace(shard)
        for path in (self.archive, *self.archive.rglob("*")):
            if path.is_dir():
                sync_folder(path)
            elif path != shard:
                sync_file(path)

    def _writable(self) -> BufferedRandom:
        if self._file is None:
            raise StoreError("tiles were kept before the slide was opened, or after it was sealed")
        return self._file


def place(staged: Path, archive: Place) -> bool:
    """Move a finished archive to where the registry will name it; whether it is there now. Twice is once."""
    if not isinstance(archive, Path):
        if staged.exists() and not is_group(archive):
            put_folder(staged, archive, last=GROUP)
        return is_group(archive)
    if staged.exists() and not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(archive)
        sync_folder(archive.parent)
    return archive.exists()
