"""Work in progress: the vectors of a slide that is not finished, so that a kill costs seconds.

A slide's folder under ``staging`` holds ``plan.json`` (which grid the vectors belong to), numbered
parts, and at the end ``ready.json`` (a written but not yet committed Lance fragment). Every file is
written aside, flushed and renamed, so what is listed is whole. Where pixels are kept their log grows
beside the parts, see `pixels`.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import ObjectStorageError, StoreError
from beph_store.records import SlideInfo, TileSet
from beph_store.store.durable import write_atomic, write_json
from beph_store.store.pixels import FORMAT as PIXELS_FORMAT
from beph_store.store.pixels import Packed, PixelLog
from beph_store.store.place import Place, children, remove_tree
from beph_store.store.registry import SlideRow
from beph_store.store.vectors import to_float16

_Part = tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.float16]]
_COLUMNS = ("index", "ok", "vectors")

#: Seconds of vectors kept in memory only; what a kill can cost, beside the batches in flight.
FLUSH_SECONDS = 8.0


def plan_of(info: SlideInfo, tiles: TileSet, *, pixels: bool = False) -> dict[str, Any]:
    """What must be equal for staged vectors to belong to these tiles, and for their pixels to lie beside them."""
    digest = hashlib.sha256(np.ascontiguousarray(tiles.origin_l0, "<i4").data)
    digest.update(np.ascontiguousarray(tiles.tissue, "<f4").data)
    return {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "mpp": [info.mpp_x, info.mpp_y],
        "tiles": len(tiles),
        "grid_sha256": digest.hexdigest(),
        **({"pixels": PIXELS_FORMAT} if pixels else {}),
    }


@dataclass(frozen=True, slots=True)
class Ready:
    """A slide whose fragment is on disk and waits for the commit."""

    row: SlideRow
    fragments: list[dict[str, Any]]

    def data_files(self) -> list[str]:
        """Names of the data files under the table's ``data`` folder."""
        return [file["path"] for fragment in self.fragments for file in fragment["files"]]


class Spool:
    """The vectors of one slide as they come, in any order, some of them perhaps from an earlier run.

    With ``pixels`` a tile is done only if its pixels are on the disk as well: ``keep`` them before its vector is
    added. What was done without them (another plan) is done again.
    """

    def __init__(
        self, folder: Place, plan: dict[str, Any], dim: int, *, pixels: PixelLog | None = None
    ) -> None:
        self._folder = folder
        self._pixels = pixels
        self._dim = dim
        self._slide_id: str = plan["slide_id"]
        self.done: NDArray[np.bool_] = np.zeros(plan["tiles"], dtype=bool)
        self._pending: list[_Part] = []
        self._flushed = time.monotonic()
        if staged_plan(folder) != plan:
            remove_tree(folder)
            write_json(folder / "plan.json", plan)
        self._resume()

    def _resume(self) -> None:
        kept = self._pixels.find() if self._pixels else 0
        for path, part in self._files():
            if self._pixels:
                spans = part.get("spans", np.full((len(part["index"]), 3), -1))
                if _lost(spans, part["ok"], kept):
                    path.unlink()
                    continue
                self._pixels.spans[part["index"]] = spans
            self.done[part["index"]] = True
        if self._pixels:
            self._pixels.start()

    @property
    def resumed(self) -> int:
        """Number of tiles that are already there."""
        return int(self.done.sum())

    def keep(self, tile_index: NDArray[np.int32], packed: Packed) -> None:
        """Take the pixels of (n,) tiles, if this spool keeps any."""
        if self._pixels:
            self._pixels.add(tile_index, packed)

    def add(self, tile_index: NDArray[np.int32], ok: NDArray[np.bool_], vectors: NDArray[np.float32]) -> None:
        """Take (B,) indices, (B,) ok and the (B, D) vectors; rows that are not ok are ignored.

        Raises VectorInvalid for a vector that must not be stored.
        """
        half = np.zeros((len(tile_index), self._dim), np.float16)
        half[ok] = to_float16(vectors[ok], slide_id=self._slide_id)
        self._pending.append((tile_index.astype(np.int32), ok.copy(), half))
        self.done[tile_index] = True
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def mark(self, tile_index: NDArray[np.int32]) -> None:
        """Parts with these (n,) tiles lie in the folder: another process has put them there with `write_part`.

        StoreError where pixels are kept, which such parts cannot vouch for.
        """
        if self._pixels:
            raise StoreError("parts of another process have no pixels", slide_id=self._slide_id)
        self.done[tile_index] = True

    def flush(self) -> None:
        """Put what is in memory on the disk, for good."""
        self._flushed = time.monotonic()
        if not self._pending:
            return
        index, ok, vectors = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        spans = {}
        if self._pixels:
            self._pixels.sync()  # first: a part vouches for the pixels of its tiles
            spans["spans"] = self._pixels.spans[index]
        buffer = io.BytesIO()
        np.savez(buffer, index=index, ok=ok, vectors=vectors, **spans)
        numbers = (path.stem.removeprefix("part-") for path in self._folder.glob("part-*.npz"))
        taken = [int(number) for number in numbers if number.isdigit()]
        write_atomic(self._folder / f"part-{max(taken, default=-1) + 1:05d}.npz", buffer.getvalue())
        self._pending.clear()

    def close(self) -> None:
        """``flush``, and hold no file open any more."""
        self.flush()
        if self._pixels:
            self._pixels.close()

    def finish_pixels(self, ok: NDArray[np.bool_], attributes: dict[str, Any]) -> str | None:
        """Make the archive of the (N,) tiles, in the staging folder; its digest, or None where none are kept."""
        return self._pixels.finish(ok, attributes) if self._pixels else None

    def collect(self) -> tuple[NDArray[np.bool_], NDArray[np.float16]]:
        """((N,) ok, (N, D) float16 vectors) of the whole slide in tile order; StoreError while tiles are missing."""
        ok, there = np.zeros(len(self.done), bool), np.zeros(len(self.done), bool)
        vectors = np.zeros((len(self.done), self._dim), np.float16)
        for index, part_ok, part in (*self._parts(), *self._pending):
            ok[index] = part_ok
            vectors[index] = part
            there[index] = True
        if not there.all():
            self.done &= there  # a part was lost or damaged: its tiles are to be encoded again
            raise StoreError(f"{int((~there).sum())} tiles were never encoded", slide_id=self._slide_id)
        return ok, vectors

    def _parts(self) -> Iterator[_Part]:
        for _, part in self._files():
            yield part["index"], part["ok"], part["vectors"]

    def _files(self) -> Iterator[tuple[Place, dict[str, NDArray[Any]]]]:
        for path in children(self._folder, "part-*.npz"):
            try:
                with np.load(_opened(path), allow_pickle=False) as file:
                    part = {name: file[name] for name in file.files}
                if not part.keys() >= set(_COLUMNS):
                    raise ValueError("columns are missing")
            except ObjectStorageError:
                raise  # not damaged, only out of reach
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)  # damaged: its tiles are simply encoded again
                continue
            yield path, part


def write_part(
    folder: Place,
    tile_index: NDArray[np.int32],
    ok: NDArray[np.bool_],
    vectors: NDArray[np.float32],
    *,
    slide_id: str,
) -> None:
    """Put the vectors of (n,) tiles into a slide's staging folder, for good: any process on any machine may.

    ``ok`` (n,), ``vectors`` (n, D); rows that are not ok are ignored. Tell the slide's spool of them with `Spool.mark`.
    The same tiles twice are there once. Raises VectorInvalid for a vector that must not be stored.
    """
    half = np.zeros(vectors.shape, np.float16)
    half[ok] = to_float16(vectors[ok], slide_id=slide_id)
    buffer = io.BytesIO()
    np.savez(buffer, index=tile_index.astype(np.int32), ok=ok, vectors=half)
    first = int(tile_index[0]) if len(tile_index) else 0
    write_atomic(folder / f"part-{first:07d}-{uuid.uuid4().hex}.npz", buffer.getvalue())


def _opened(path: Place) -> Any:
    return path if isinstance(path, Path) else io.BytesIO(path.read_bytes())


def _lost(spans: NDArray[np.int64], ok: NDArray[np.bool_], kept: int) -> bool:
    """Whether the pixels of a readable tile are not among the ``kept`` bytes."""
    own = spans[ok]
    return bool((own[:, 0] < 0).any() or (own[:, 0] + own[:, 1]).max(initial=0) > kept)


def staged_plan(folder: Place) -> Any:
    """What is staged in a folder belongs to, see `plan_of`; None where nothing is."""
    return _read_json(folder / "plan.json")


def write_ready(folder: Place, ready: Ready) -> None:
    """Record a finished fragment; from here on the slide needs no more work, only a commit."""
    write_json(folder / "ready.json", {"row": ready.row.to_json(), "fragments": ready.fragments})
    for part in folder.glob("part-*.npz"):
        part.unlink(missing_ok=True)


def read_ready(folder: Place) -> Ready | None:
    """The finished fragment that an earlier run left uncommitted, if any."""
    data = _read_json(folder / "ready.json")
    if data is None:
        return None
    return Ready(SlideRow.from_json(data["row"]), data["fragments"])


def discard(folder: Place) -> None:
    """Forget a slide's work in progress."""
    remove_tree(folder)


def _read_json(path: Place) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ObjectStorageError:
        raise  # not absent, only out of reach
    except (OSError, ValueError):
        return None
