"""TRIDENT: ``<mag>x_<px>px_<overlap>px_overlap/features_<encoder>/<slide>.h5``; ``patches/<slide>_patches.h5`` beside.

The features' file holds level-0 coordinates, too, with a copy of the attributes that say how the tiles were cut.
Magnifications are labels there; the scale in µm per px is not stated.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import Dataset, H5Slide, attributes_of, open_slide_h5, write_h5
from beph_store.interop.places import no_places, stems, whole

_FEATURES = re.compile(r"features_(?P<encoder>.+)")
_PATCHES = "_patches.h5"
#: Rows to a chunk. TRIDENT's own files have one, which takes five times as long to write; its readers take any.
_FEATURE_ROWS, _COORD_ROWS = 32, 256


def find_trident(root: Path) -> list[Found]:
    """Every slide of every ``features_<encoder>`` at, or up to two folders below, ``root``."""
    folders = [root, *(path for depth in ("*", "*/*") for path in sorted(root.glob(depth)) if path.is_dir())]
    found = []
    for folder in folders:
        match = _FEATURES.fullmatch(folder.name)
        if match is None:
            continue
        scale = folder.resolve().parent
        for name, path in stems(folder, ".h5").items():
            beside = scale / "patches" / f"{name}{_PATCHES}"
            others = {"patches": beside} if beside.is_file() else {}
            found.append(Found(name, path, others, match["encoder"], scale.name))
    return found


def open_trident(found: Found) -> SlideFeatures:
    """One slide; coordinates from the features' file, or from ``patches`` where that has none."""
    with open_slide_h5(found.path, found.slide_id) as h5:
        vectors = h5.read("features")
        named = attributes_of(h5.dataset("features")).get("encoder")
        if "coords" in h5.file:
            return _slide(found, h5, vectors, named)
    if "patches" not in found.others:
        raise h5.refuse("no dataset 'coords', and no file of coordinates in the folder patches beside")
    with open_slide_h5(found.others["patches"], found.slide_id) as beside:
        return _slide(found, beside, vectors, named)


def _slide(found: Found, h5: H5Slide, vectors: Any, named: Any) -> SlideFeatures:
    stated = attributes_of(h5.dataset("coords"))
    origin = whole(h5, h5.read("coords"))
    tile_px, footprint = h5.whole(stated, "patch_size"), h5.whole(stated, "patch_size_level0")
    if tile_px is None:
        raise h5.refuse("coords lack the attribute patch_size")
    if footprint is None:
        footprint = _footprint(h5, stated, tile_px)
    overlap = h5.number(stated, "overlap")
    width, height = h5.whole(stated, "level0_width"), h5.whole(stated, "level0_height")
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=vectors,
        origin_l0=origin,
        footprint_l0=footprint,
        tile_px=tile_px,
        size_l0=(width, height) if width and height else None,
        encoder=named if isinstance(named, str) and named != "None" else found.encoder,
        path=found.path,
        attributes=stated,
        stride_px=None if overlap is None else max(1, tile_px - int(overlap)),
        group=found.group,
    )


def _footprint(h5: H5Slide, stated: dict[str, Any], tile_px: int) -> int:
    """Of files that lack the level-0 side: from the two magnifications, or of level 0 itself in CLAM's attributes."""
    slide, tile = h5.number(stated, "level0_magnification"), h5.number(stated, "target_magnification")
    if slide and tile:
        return max(1, int(tile_px * slide // tile))
    if h5.number(stated, "patch_level") == 0:
        return max(1, round(tile_px * (h5.number(stated, "custom_downsample") or 1)))
    raise h5.refuse("coords say nothing of the tile's side in level-0 px (patch_size_level0)")


def place_trident(root: Path, slide: SlideFeatures) -> Path:
    """The features' file, in the folders of the slide's scale and encoder."""
    if slide.tile_px is None or slide.mpp is None:
        raise no_places(slide)
    overlap = slide.tile_px - (slide.stride_px or slide.tile_px)
    scale = root / f"{label(slide.mpp):g}x_{slide.tile_px}px_{overlap}px_overlap"
    return scale / f"features_{slide.encoder}" / f"{slide.slide_id}.h5"


def write_trident(root: Path, slide: SlideFeatures) -> Path:
    """The features' and the coordinates' file of a slide. A gap between tiles is an overlap below 0."""
    if slide.origin_l0 is None or slide.footprint_l0 is None or slide.tile_px is None or slide.mpp is None:
        raise no_places(slide)
    made = place_trident(root, slide)
    tile_px, stride, scale = slide.tile_px, slide.stride_px or slide.tile_px, made.parent.parent
    name, size = slide.slide_id, slide.size_l0 or (None, None)
    stated = {
        "patch_size": tile_px,
        "patch_size_level0": slide.footprint_l0,
        "level0_magnification": label(slide.mpp * tile_px / slide.footprint_l0),
        "target_magnification": label(slide.mpp),
        "overlap": tile_px - stride,
        "name": name,
        "savetodir": str(scale),
        "level0_width": size[0],
        "level0_height": size[1],
    }
    coords = Dataset(slide.origin_l0.astype(np.int64), _COORD_ROWS, stated)
    write_h5(scale / "patches" / f"{name}{_PATCHES}", {"coords": coords})
    about = {"name": name, "savetodir": str(made.parent), "encoder": slide.encoder}
    features = Dataset(np.asarray(slide.vectors, np.float32), _FEATURE_ROWS, about)
    write_h5(made, {"features": features, "coords": coords})
    return made


def label(mpp: float) -> int | float:
    """The magnification that a scanner of ``mpp`` µm/px is called by: a name for it, whole where it is near one."""
    exact = 10.0 / mpp
    return round(exact) if exact >= 0.95 and abs(exact - round(exact)) < 0.1 * exact else round(exact, 3)
