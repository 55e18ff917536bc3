"""AtlasPatch: ``patches/<slide>.h5`` with ``coords`` int32 (N, 5) and one ``features/<encoder>`` for each encoder.

Columns of ``coords``: x, y in level-0 px, then the size and the level that were read. The scale in µm per px is not
stated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import Dataset, H5Slide, attributes_of, open_slide_h5, write_h5
from beph_store.interop.places import no_places, stems, whole
from beph_store.interop.trident import label
from beph_store.regular import require_regular

_FEATURE_ROWS, _COORD_ROWS = 32, 8192


def find_atlaspatch(root: Path) -> list[Found]:
    """Every slide of ``patches`` (or of the folder itself), once for each encoder in its file."""
    files = {root.stem: root} if root.is_file() else stems(root / "patches", ".h5") or stems(root, ".h5")
    return [Found(name, path, {}, encoder) for name, path in files.items() for encoder in _encoders(path)]


def _encoders(path: Path) -> list[str | None]:
    """Of a file that cannot be opened one, unnamed: opening it will say why."""
    import h5py

    try:
        require_regular(path)
        with h5py.File(path, "r") as file:
            return sorted(key for key in file.get("features", {}) if not key.startswith("__tmp_")) or [None]
    except (OSError, RuntimeError, AttributeError, TypeError):
        return [None]


def open_atlaspatch(found: Found) -> SlideFeatures:
    """One slide's features of one encoder."""
    with open_slide_h5(found.path, found.slide_id) as h5:
        if found.encoder is None:
            raise h5.refuse("no features of any encoder: run the tool's `process` on the slide first")
        stated = {**attributes_of(h5.dataset("coords")), **attributes_of(h5.file)}
        origin, vectors = whole(h5, h5.read("coords")), h5.read(f"features/{found.encoder}")
        tile_px, footprint = (_stated(h5, stated, name) for name in ("patch_size", "patch_size_level0"))
        overlap = h5.number(stated, "overlap")
        width, height = h5.whole(stated, "level0_width"), h5.whole(stated, "level0_height")
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=vectors,
        origin_l0=origin,
        footprint_l0=footprint,
        tile_px=tile_px,
        size_l0=(width, height) if width and height else None,
        encoder=found.encoder,
        path=found.path,
        attributes=stated,
        # A gap between tiles is stated as an overlap of 0, so that 0 says nothing of the step.
        stride_px=tile_px - int(overlap) if overlap and 0 < overlap < tile_px else None,
    )


def _stated(h5: H5Slide, stated: dict[str, Any], name: str) -> int:
    value = h5.whole(stated, name)
    if value is None:
        raise h5.refuse(f"lacks the attribute {name}")
    return value


def place_atlaspatch(root: Path, slide: SlideFeatures) -> Path:
    """The file that ``write_atlaspatch`` makes, or adds to."""
    return root / "patches" / f"{slide.slide_id}.h5"


def _others(made: Path, slide: SlideFeatures) -> dict[str, Dataset]:
    """The features of other encoders that the file has already; they must be of the same tiles."""
    kept = {}
    with open_slide_h5(made, slide.slide_id) as h5:
        if slide.origin_l0 is None or not np.array_equal(whole(h5, h5.read("coords")), slide.origin_l0):
            raise h5.refuse("is there already, with other tiles: choose another folder")
        for name in h5.file.get("features", {}):
            if name != slide.encoder:
                of = h5.dataset(f"features/{name}")
                kept[f"features/{name}"] = Dataset(
                    h5.read(f"features/{name}"), _FEATURE_ROWS, attributes_of(of)
                )
    return kept


def write_atlaspatch(root: Path, slide: SlideFeatures) -> Path:
    """A file with the features of one encoder, tiles as read from level 0."""
    if slide.origin_l0 is None or slide.footprint_l0 is None or slide.tile_px is None or slide.mpp is None:
        raise no_places(slide)
    side, tile_px = slide.footprint_l0, slide.tile_px
    target, level0 = label(slide.mpp), label(slide.mpp * tile_px / side)
    width, height = slide.size_l0 or (0, 0)
    read = np.broadcast_to(np.array([side, side, 0], np.int32), (len(slide), 3))
    made = place_atlaspatch(root, slide)
    others = _others(made, slide) if made.exists() else {}
    about = {"name": slide.encoder, "embedding_dim": slide.dim}
    own = Dataset(np.asarray(slide.vectors, np.float32), _FEATURE_ROWS, about)
    coords = Dataset(np.concatenate([slide.origin_l0, read], axis=1).astype(np.int32), _COORD_ROWS)
    write_h5(
        made,
        {"coords": coords, **others, f"features/{slide.encoder}": own},
        {
            "patch_size": tile_px,
            "patch_size_level0": side,
            "level0_magnification": level0,
            "target_magnification": target,
            "overlap": max(0, tile_px - (slide.stride_px or tile_px)),
            "level0_width": width,
            "level0_height": height,
            "wsi_path": str(slide.attributes.get("slide_path", "")),
            "num_patches": len(slide),
        },
    )
    return made
