"""What the formats share: file names as slide ids, coordinates as whole level-0 px."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideError
from beph_store.interop.features import SlideFeatures
from beph_store.interop.hdf5 import H5Slide

_INT32 = np.iinfo(np.int32)


def stems(folder: Path, suffix: str) -> dict[str, Path]:
    """The files of a folder with that suffix, by name without it; none where there is no such folder."""
    if not folder.is_dir():
        return {}
    found = (path for path in folder.iterdir() if path.suffix == suffix and not path.name.startswith("."))
    return {path.name.removesuffix(suffix): path for path in sorted(found)}


def whole(h5: H5Slide, coords: NDArray[Any]) -> NDArray[np.int32]:
    """(N, 2) int32, or SlideUnreadable: level-0 px must be whole numbers."""
    if coords.ndim != 2 or coords.shape[1] < 2:
        raise h5.refuse(f"coordinates of shape {coords.shape}, not (tiles, 2)")
    xy = coords[:, :2]
    if xy.dtype.kind == "f" and not (np.isfinite(xy).all() and (xy == np.rint(xy)).all()):
        raise h5.refuse("coordinates are no whole numbers of px: are they in µm, or of another level?")
    if xy.size and (xy.min() < _INT32.min or xy.max() > _INT32.max):
        raise h5.refuse(f"a coordinate of {xy.max():g} px is beyond any slide")
    return np.ascontiguousarray(xy, np.int32)


def no_places(slide: SlideFeatures) -> SlideError:
    """The error of an export that needs to know where the tiles lie."""
    return SlideError("its tiles have no places, which this format needs", slide_id=slide.slide_id)
