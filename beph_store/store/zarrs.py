"""zarr groups wherever they lie. A group in a bucket is small but for its shards: it is read whole, without those.

zarr is imported inside the functions: it takes a fifth of a second, and most commands never look at a raster.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beph_store.store.place import Place, each

if TYPE_CHECKING:
    import zarr

#: The object that makes a group; put last, so that a group that has it is whole.
GROUP = "zarr.json"


def is_group(where: Place) -> bool:
    """Whether a whole group is there."""
    return where.exists() if isinstance(where, Path) else (where / GROUP).is_file()


def read_group(where: Place, *, but: Path | None = None) -> zarr.Group:
    """The group, to be read; without the object ``but`` where it lies in a bucket. zarr's and a disk's errors."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    if isinstance(where, Path):
        return zarr.open_group(str(where), mode="r", zarr_format=3)
    paths = {str(path.relative_to(where)): path for path in where.rglob("*")}
    if but is not None:
        paths.pop(but.as_posix(), None)
    take = default_buffer_prototype().buffer.from_bytes
    found = each(lambda path: take(path.read_bytes()), paths.values())
    return zarr.open_group(MemoryStore(dict(zip(paths, found, strict=True))), mode="r", zarr_format=3)


def new_group(where: Path, attributes: dict[str, Any] | None = None) -> zarr.Group:
    """An empty group there, in place of whatever was."""
    import zarr

    return zarr.open_group(str(where), mode="w", zarr_format=3, attributes=attributes)


def group_files(fill: Callable[[zarr.Group], None]) -> dict[str, bytes]:
    """The files of the group that ``fill`` fills, by their names in its folder.

    It is made in memory: of small arrays, zarr's way to the disk costs more than all else.
    """
    import zarr
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    made: dict[str, Buffer] = {}
    fill(zarr.create_group(MemoryStore(made), zarr_format=3))
    return {name: buffer.to_bytes() for name, buffer in made.items()}


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group; KeyError where there is none, or a group in its place."""
    import zarr

    found = group[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(name)
    return found
