"""Bags: one ``.pt`` a slide, a bare tensor (N, D), or a dict with the features and perhaps the coordinates.

The form in which most training code wants features. It states neither encoder, scale nor, mostly, places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import attributes_of, open_slide_h5
from beph_store.interop.places import stems, whole
from beph_store.interop.tensors import read_pt, write_pt

_FEATURES = ("features", "feats", "embeddings")


def find_bags(root: Path, coords: Path | None = None) -> list[Found]:
    """Every ``.pt`` of the folder, of ``pt_files`` in it, or the one named. ``coords``: a folder of h5 files."""
    bags = {root.stem: root} if root.is_file() else stems(root, ".pt") or stems(root / "pt_files", ".pt")
    places: dict[str, Path] = {}
    if coords is not None:
        places = {name.removesuffix("_patches"): path for name, path in stems(coords, ".h5").items()}
    return [
        Found(name, path, {"coords": places[name]} if name in places else {}) for name, path in bags.items()
    ]


def open_bags(found: Found) -> SlideFeatures:
    """One slide. Coordinates of a dict, or of an h5 file with level-0 ``coords``, where there are any."""
    tensors = read_pt(found.path, found.slide_id)
    vectors = tensors if not isinstance(tensors, dict) else _of(found, tensors)
    origin: NDArray[np.int32] | None = None
    footprint = tile_px = None
    stated: dict[str, Any] = {}
    if "coords" in found.others:
        with open_slide_h5(found.others["coords"], found.slide_id) as h5:
            stated = attributes_of(h5.dataset("coords"))
            origin = whole(h5, h5.read("coords"))
            tile_px, footprint = h5.whole(stated, "patch_size"), h5.whole(stated, "patch_size_level0")
    elif isinstance(tensors, dict) and "coords" in tensors:
        origin = _integers(found, tensors["coords"])
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=vectors,
        origin_l0=origin,
        footprint_l0=footprint,
        tile_px=tile_px,
        path=found.path,
        attributes=stated,
    )


def _of(found: Found, tensors: dict[str, NDArray[Any]]) -> NDArray[Any]:
    for name in _FEATURES:
        if name in tensors:
            return tensors[name]
    have = ", ".join(sorted(tensors)[:6]) or "no tensor"
    raise SlideUnreadable(
        f"{found.path.name}: no features among its tensors ({have})", slide_id=found.slide_id, path=found.path
    )


def _integers(found: Found, coords: NDArray[Any]) -> NDArray[np.int32]:
    if coords.dtype.kind not in "iu" or coords.ndim != 2 or coords.shape[1] != 2:
        raise SlideUnreadable(
            f"{found.path.name}: coords are {coords.dtype} of shape {coords.shape}, not whole px (tiles, 2)",
            slide_id=found.slide_id,
            path=found.path,
        )
    return coords.astype(np.int32)


def place_bags(root: Path, slide: SlideFeatures) -> Path:
    """The slide's file."""
    return root / f"{slide.slide_id}.pt"


def write_bags(root: Path, slide: SlideFeatures) -> Path:
    """A bare float32 tensor (N, D)."""
    made = place_bags(root, slide)
    write_pt(made, np.asarray(slide.vectors, np.float32))
    return made
