"""zarr groups wherever they lie. A group in a bucket is small but for its shards: it is read whole, without those."""

from __future__ import annotations

from pathlib import Path

import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from beph_store.store.place import Place, each

#: The object that makes a group; put last, so that a group that has it is whole.
GROUP = "zarr.json"


def is_group(where: Place) -> bool:
    """Whether a whole group is there."""
    return where.exists() if isinstance(where, Path) else (where / GROUP).is_file()


def read_group(where: Place, *, but: Path | None = None) -> zarr.Group:
    """The group, to be read; without the object ``but`` where it lies in a bucket. zarr's and a disk's errors."""
    if isinstance(where, Path):
        return zarr.open_group(str(where), mode="r", zarr_format=3)
    paths = {str(path.relative_to(where)): path for path in where.rglob("*")}
    if but is not None:
        paths.pop(but.as_posix(), None)
    take = default_buffer_prototype().buffer.from_bytes
    found = each(lambda path: take(path.read_bytes()), paths.values())
    return zarr.open_group(MemoryStore(dict(zip(paths, found, strict=True))), mode="r", zarr_format=3)
