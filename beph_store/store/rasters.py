"""Rasters of a slide in zarr v3: what is small, two-dimensional and looked at."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import StoreError, UnknownSlide
from beph_store.records import Rasters, TissueMask
from beph_store.store.durable import sync_file
from beph_store.store.place import Place, put_folder
from beph_store.store.zarrs import GROUP, array_of, group_files, is_group, read_group

if TYPE_CHECKING:
    import zarr

#: Bytes of a raster in memory: a file that says more was not made by us.
_LARGEST = 1 << 30


def write_rasters(path: Place, rasters: Rasters) -> None:
    """Write aside and rename; rasters that are there are replaced. Into a bucket: write here and put all of it."""
    if not isinstance(path, Path):
        with TemporaryDirectory(prefix="beph-store-") as folder:
            local = Path(folder, "r.zarr")
            write_rasters(local, rasters)
            put_folder(local, path, last=GROUP)
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        for name, data in group_files(lambda group: _fill(group, rasters)).items():
            file = aside / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            sync_file(file)
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_rasters(path: Place) -> Rasters:
    """The rasters of a slide; UnknownSlide when there are none."""
    if not is_group(path):
        raise UnknownSlide(f"no rasters at {path.name}: the slide was not ingested", path=str(path))
    try:
        group = read_group(path)
        thumbnail, mask = _get(group, "thumbnail"), _get(group, "tissue")
        attrs: dict[str, Any] = group["tissue"].attrs.asdict()
    except (KeyError, ValueError, OSError) as error:
        raise StoreError(f"the rasters at {path.name} are damaged: {error}", path=str(path)) from error
    return Rasters(
        thumbnail, TissueMask(mask, float(attrs["mpp_x"]), float(attrs["mpp_y"]), str(attrs["method"]))
    )


def _get(group: zarr.Group, name: str) -> NDArray[Any]:
    array = array_of(group, name)
    if array.nbytes > _LARGEST:
        raise ValueError(f"{name} says that it has {array.nbytes:,} bytes")
    return np.asarray(array[...])


def _fill(group: zarr.Group, rasters: Rasters) -> None:
    tissue = rasters.tissue
    frame = {"method": tissue.method, "mpp_x": tissue.mpp_x, "mpp_y": tissue.mpp_y, "frame": "whole slide"}
    _put(group, "thumbnail", rasters.thumbnail, {})
    _put(group, "tissue", tissue.mask, frame)


def _put(group: zarr.Group, name: str, array: NDArray[np.generic], attributes: dict[str, Any]) -> None:
    chunks = tuple(max(1, min(1024, side)) if axis < 2 else side for axis, side in enumerate(array.shape))
    group.create_array(name, data=np.ascontiguousarray(array), chunks=chunks, attributes=attributes)
