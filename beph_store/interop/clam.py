"""CLAM: ``h5_files/<slide>.h5`` and ``pt_files/<slide>.pt`` of features, ``patches/<slide>.h5`` of coordinates.

Features and coordinates are usually in two folders, ``--feat_dir`` and ``--save_dir``; the second is looked for inside
and beside the first, or named. What CLAM calls a patch is a tile here. Its files state neither encoder nor mpp.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.geometry import Size
from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import Dataset, H5Slide, attributes_of, open_slide_h5, write_h5
from beph_store.interop.places import no_places, stems, whole
from beph_store.interop.tensors import read_pt, write_pt

#: Rows to a chunk: of features as CLAM has them; of its coordinates it has one, which is slow to write. It reads any.
_FEATURE_ROWS, _COORD_ROWS = 32, 256


def find_clam(root: Path, coords: Path | None = None) -> list[Found]:
    """Every ``h5_files/*.h5``, and every ``pt_files/*.pt`` without one. ``coords``: the folder ``patches``."""
    home = root.parent if root.name in ("h5_files", "pt_files") else root
    h5, pt = stems(home / "h5_files", ".h5"), stems(home / "pt_files", ".pt")
    places: dict[str, Path] = {}
    above = (home, home.parent) if coords is None else (coords, coords.parent)
    for folder in above:
        places = places or stems(folder if folder.name == "patches" else folder / "patches", ".h5")
    return [
        Found(name, path, {"patches": places[name]} if name in places else {})
        for name, path in {**pt, **h5}.items()
    ]


def open_clam(found: Found) -> SlideFeatures:
    """One slide: features float32 (N, D); coordinates of the features' file, in the frame of the tiles' file."""
    vectors, origin = _features(found)
    size: Size | None = None
    footprint = tile_px = None
    stated: dict[str, Any] = {}
    if "patches" in found.others:
        with open_slide_h5(found.others["patches"], found.slide_id) as h5:
            stated = attributes_of(h5.dataset("coords"))
            origin = _same(h5, origin)
            tile_px, footprint, size = _scale(h5, stated)
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=vectors,
        origin_l0=origin,
        footprint_l0=footprint,
        tile_px=tile_px,
        size_l0=size,
        path=found.path,
        attributes=stated,
    )


def _features(found: Found) -> tuple[NDArray[Any], NDArray[np.int32] | None]:
    if found.path.suffix == ".pt":
        tensor = read_pt(found.path, found.slide_id)
        if isinstance(tensor, dict):
            raise SlideUnreadable(
                f"{found.path.name}: a dict, where CLAM has a bare tensor: import it as bags",
                slide_id=found.slide_id,
                path=found.path,
            )
        return tensor, None
    with open_slide_h5(found.path, found.slide_id) as h5:
        return h5.read("features"), whole(h5, h5.read("coords"))


def _same(h5: H5Slide, origin: NDArray[np.int32] | None) -> NDArray[np.int32]:
    """The coordinates of the tiles' file, which those of the features' file must be."""
    places = whole(h5, h5.read("coords"))
    if origin is not None and not np.array_equal(places, origin):
        raise h5.refuse(
            f"its {len(places)} coordinates are not the {len(origin)} of the features: they are of another run"
        )
    return places


def _scale(h5: H5Slide, stated: dict[str, Any]) -> tuple[int, int, Size | None]:
    """(side in px of the level, side in level-0 px, slide size) from the attributes."""
    tile_px = h5.whole(stated, "patch_size")
    if tile_px is None or "downsample" not in stated:
        missing = "patch_size" if tile_px is None else "downsample"
        raise h5.refuse(f"coords lack the attribute {missing}")
    downsample = _pair(h5, stated, "downsample")
    if abs(downsample[0] - downsample[1]) > 0.01 * max(downsample):
        raise h5.refuse(f"its level is shrunk unequally, by {downsample[0]:g} and {downsample[1]:g}")
    footprint = max(1, round(tile_px * sum(downsample) / 2))
    # Level 0 itself is stated only where the tiles were cut from it; of another level it is a rounded size.
    exact = "level_dim" in stated and downsample == (1.0, 1.0)
    size = _pair(h5, stated, "level_dim") if exact else None
    return tile_px, footprint, None if size is None else (int(size[0]), int(size[1]))


def _pair(h5: H5Slide, stated: dict[str, Any], name: str) -> tuple[float, float]:
    try:
        values = np.asarray(stated[name], dtype=np.float64).reshape(-1)
        x, y = values if len(values) == 2 else (values.item(), values.item())
    except (TypeError, ValueError):
        x = y = float("nan")
    if not (np.isfinite((x, y)).all() and min(x, y) > 0):
        raise h5.refuse(f"the attribute {name} is {stated[name]!r}, not one or two numbers above 0")
    return float(x), float(y)


def place_clam(root: Path, slide: SlideFeatures) -> Path:
    """The h5 file of the slide's features."""
    return root / "h5_files" / f"{slide.slide_id}.h5"


def write_clam(root: Path, slide: SlideFeatures) -> Path:
    """All three files of a slide: features float32, tiles as cut from level 0 (``patch_level`` 0)."""
    vectors = np.asarray(slide.vectors, np.float32)
    if slide.origin_l0 is None or slide.footprint_l0 is None or slide.size_l0 is None:
        raise no_places(slide)
    origin, size = slide.origin_l0, np.asarray(slide.size_l0, np.int64)
    name = slide.slide_id
    stated = {
        "patch_size": slide.footprint_l0,
        "patch_level": 0,
        "downsample": np.ones(2),
        "downsampled_level_dim": size,
        "level_dim": size,
        "name": name,
        "save_path": str(root / "patches"),
    }
    write_h5(
        root / "patches" / f"{name}.h5", {"coords": Dataset(origin.astype(np.int64), _COORD_ROWS, stated)}
    )
    write_pt(root / "pt_files" / f"{name}.pt", vectors)
    made = place_clam(root, slide)
    write_h5(
        made,
        {
            "features": Dataset(vectors, _FEATURE_ROWS),
            "coords": Dataset(origin.astype(np.int32), _COORD_ROWS),
        },
    )
    return made
