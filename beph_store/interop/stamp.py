"""STAMP: ``<extractor>-<hash>/<path of the slide>.h5`` with ``feats`` and with ``coords`` in µm.

The tile's side is stated in µm and in px, so its scale is known; level 0's is not, and is needed to turn µm into px.
Files from before version 2 give coordinates without a unit, and are refused.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import Dataset, H5Slide, attributes_of, open_slide_h5, write_h5
from beph_store.interop.places import no_places

_FOLDER = re.compile(r"(?P<encoder>.+)-[0-9a-f]{8}")
#: What a file of ours states where STAMP has the hash of its own code.
_CODE_HASH = "00000000"


def find_stamp(root: Path) -> list[Found]:
    """Every ``.h5`` under ``root``; the id is its path below the extractor's folder, without the suffix."""
    found = []
    for path in [root] if root.is_file() else sorted(root.rglob("*.h5")):
        if path.name.startswith("."):
            continue
        parts = (root.name, *path.relative_to(root).parts) if root.is_dir() else (path.name,)
        top = next((at for at, part in enumerate(parts[:-1]) if _FOLDER.fullmatch(part)), None)
        match = None if top is None else _FOLDER.fullmatch(parts[top])
        below = parts[1 if top is None and root.is_dir() else (top or 0) + (top is not None) :]
        name = "/".join(below).removesuffix(".h5")
        found.append(Found(name, path, {}, match["encoder"] if match else None))
    return found


def open_stamp(found: Found) -> SlideFeatures:
    """One slide of tile features; coordinates stay in µm (``coords_um``) until level 0's mpp is known."""
    with open_slide_h5(found.path, found.slide_id) as h5:
        stated = attributes_of(h5.file)
        kind = stated.get("feat_type", "tile")
        if kind != "tile":
            raise h5.refuse(f"holds {kind} features, one vector a {kind}: `import table` takes such")
        side_um = _side_um(h5, stated)
        tile_px = h5.whole(stated, "tile_size_px")
        vectors, coords = h5.read("feats"), np.asarray(h5.read("coords"), np.float32)
        if coords.ndim != 2 or coords.shape != (len(vectors), 2) or not np.isfinite(coords).all():
            raise h5.refuse(f"coords of shape {coords.shape} for {len(vectors)} tiles, or not finite")
    encoder = stated.get("extractor")
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=vectors,
        tile_px=tile_px,
        mpp=None if tile_px is None else side_um / tile_px,
        encoder=encoder if isinstance(encoder, str) else found.encoder,
        path=found.path,
        attributes={**stated, "tile_size_um": side_um},
        coords_um=coords,
    )


def _side_um(h5: H5Slide, stated: dict[str, object]) -> float:
    side = h5.number(stated, "tile_size_um")
    if side is None and stated.get("unit") == "um":
        side = h5.number(stated, "tile_size")
    if side is None or side <= 0:
        raise h5.refuse(
            "states no unit and no side of its tiles in µm (STAMP before 2.0): preprocess it again"
        )
    if stated.get("unit", "um") != "um":
        raise h5.refuse(f"coordinates in {stated['unit']!r}, not in µm")
    return side


def place_stamp(root: Path, slide: SlideFeatures) -> Path:
    """The slide's file in the folder of its extractor."""
    return root / f"{slide.encoder}-{_CODE_HASH}" / f"{slide.slide_id}.h5"


def write_stamp(root: Path, slide: SlideFeatures) -> Path:
    """The file of a slide: feats float16, coords float32 in µm from the top left of level 0."""
    if slide.origin_l0 is None or slide.mpp is None or slide.tile_px is None or slide.mpp_l0 is None:
        raise no_places(slide)
    made = place_stamp(root, slide)
    write_h5(
        made,
        {
            "coords": Dataset((slide.origin_l0 * slide.mpp_l0).astype(np.float32)),
            "feats": Dataset(np.asarray(slide.vectors, np.float16)),
        },
        {
            "stamp_version": "2.1.0",  # the first that names the attributes so
            "extractor": slide.encoder,
            "unit": "um",
            "tile_size_um": slide.mpp * slide.tile_px,
            "tile_size_px": slide.tile_px,
            "code_hash": _CODE_HASH,
            "feat_type": "tile",
        },
    )
    return made
