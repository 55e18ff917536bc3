"""slide2vec: ``tile_embeddings/<slide>.pt|npz`` with ``.meta.json``, ``tiles/<slide>.coordinates.npz`` with the same.

Its metadata state everything that an import needs. A slide without tiles has metadata alone.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import write_aside
from beph_store.interop.places import no_places
from beph_store.interop.tensors import read_pt, write_pt

_META = ".meta.json"


def find_slide2vec(root: Path) -> list[Found]:
    """Every ``.meta.json`` under ``tile_embeddings``; a folder below it (a class that was sampled) is a group."""
    home = root.parent if root.name == "tile_embeddings" else root
    found = []
    for meta in sorted((home / "tile_embeddings").rglob(f"*{_META}")):
        group = meta.parent.relative_to(home / "tile_embeddings").as_posix()
        name = meta.name.removesuffix(_META)
        tiles = home / "tiles" / group
        others = {"meta": meta, "tiles": tiles / f"{name}.coordinates{_META}"}
        data = [path for suffix in (".pt", ".npz") if (path := meta.with_name(name + suffix)).is_file()]
        if (npz := tiles / f"{name}.coordinates.npz").is_file():
            others["coordinates"] = npz
        path = data[0] if data else meta
        found.append(Found(name, path, others, None, None if group == "." else group))
    return found


def open_slide2vec(found: Found) -> SlideFeatures:
    """One slide, whose two files of metadata must agree with its arrays."""
    meta, tiling = _json(found, found.others["meta"]), _json(found, found.others["tiles"])
    try:
        count, name = int(meta["num_tiles"]), str(meta["encoder_name"])
        spacing, tile_px = (
            float(tiling["tiling"]["requested_spacing_um"]),
            int(meta["requested_tile_size_px"]),
        )
        footprint, slide = int(tiling["tiling"]["tile_size_lv0"]), tiling["slide"]
        step = tiling["tiling"].get("step_px_lv0")
        width, height = (int(side) for side in slide["dimensions"])
        mpp_l0 = slide.get("base_spacing_um")
        least = tiling["tiling"].get("min_tissue_fraction")
    except (KeyError, TypeError, ValueError) as error:
        raise _refuse(found, found.others["meta"], f"its metadata lack or misstate {error}") from error
    vectors, order = _vectors(found, meta)
    origin, tissue = _places(found, count)
    if order is not None:
        if len(order) != len(vectors) or (len(order) and not 0 <= order.min() <= order.max() < count):
            raise _refuse(found, found.path, "its tile_index does not number the tiles")
        origin, tissue = origin[order], tissue[order]
    if len(vectors) != count:
        raise _refuse(found, found.path, f"{len(vectors)} vectors, its metadata say {count}")
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=vectors,
        origin_l0=origin,
        footprint_l0=footprint,
        tile_px=tile_px,
        mpp=spacing,
        mpp_l0=float(mpp_l0) if mpp_l0 else None,
        size_l0=(width, height),
        encoder=name,
        path=found.path,
        attributes={"slide_path": meta.get("image_path"), **tiling["tiling"]},
        stride_px=None if step is None else max(1, round(float(step) * tile_px / footprint)),
        tissue=tissue,
        group=found.group,
        tissue_min=None if least is None else float(least),
    )


def _vectors(found: Found, meta: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(N, D), and which tile each row is where the file says so."""
    if found.path == found.others["meta"]:
        if meta["num_tiles"]:
            raise _refuse(found, found.path, "its metadata are there, its vectors are not")
        return np.empty((0, meta.get("feature_dim") or 0), np.float32), None
    if found.path.suffix == ".pt":
        tensor = read_pt(found.path, found.slide_id)
        if isinstance(tensor, dict):
            raise _refuse(found, found.path, "a dict, where a tensor is expected")
        return tensor, None
    arrays = _npz(found, found.path)
    if "features" not in arrays:
        raise _refuse(found, found.path, "no array 'features'")
    return arrays["features"], arrays.get("tile_index")


def _places(found: Found, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    if "coordinates" not in found.others:
        if count:
            raise _refuse(found, found.path, "no file of coordinates in the folder tiles")
        return np.empty((0, 2), np.int32), np.empty(0, np.float32)
    path = found.others["coordinates"]
    arrays = _npz(found, path)
    missing = {"x", "y", "tissue_fractions"} - arrays.keys()
    if missing:
        raise _refuse(found, path, f"no array {sorted(missing)[0]!r}")
    if not len(arrays["x"]) == len(arrays["y"]) == len(arrays["tissue_fractions"]) == count:
        raise _refuse(found, path, f"{len(arrays['x'])} coordinates for {count} tiles")
    origin = np.column_stack([arrays["x"], arrays["y"]])
    return origin.astype(np.int32), arrays["tissue_fractions"].astype(np.float32)


def _npz(found: Found, path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _refuse(found, path, f"cannot be read: {str(error).splitlines()[0]}") from error


def _json(found: Found, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _refuse(found, path, "is not there") from None
    except (OSError, ValueError) as error:
        raise _refuse(found, path, f"is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise _refuse(found, path, "is no JSON object")
    return data


def _refuse(found: Found, path: Path, why: str) -> SlideUnreadable:
    return SlideUnreadable(f"{path.name}: {why}", slide_id=found.slide_id, path=path)


def place_slide2vec(root: Path, slide: SlideFeatures) -> Path:
    """The file of the slide's vectors; of one that is known to have none, that of its metadata."""
    suffix = _META if slide.attributes.get("tiles") == 0 else ".pt"
    return root / "tile_embeddings" / f"{slide.slide_id}{suffix}"


def write_slide2vec(root: Path, slide: SlideFeatures) -> Path:
    """Both arrays and both files of metadata; that of the embeddings last, which says that the slide is whole."""
    if slide.origin_l0 is None or slide.footprint_l0 is None or slide.tile_px is None or slide.mpp is None:
        raise no_places(slide)
    name, n = slide.slide_id, len(slide)
    tissue = np.full(n, np.nan, np.float32) if slide.tissue is None else slide.tissue
    arrays: dict[str, NDArray[Any]] = {
        "tile_index": np.arange(n, dtype=np.int32),
        "x": slide.origin_l0[:, 0].astype(np.int64),
        "y": slide.origin_l0[:, 1].astype(np.int64),
        "tissue_fractions": tissue.astype(np.float32),
    }
    places = root / "tiles" / f"{name}.coordinates.npz"
    if n:
        write_aside(places, lambda aside: _save_npz(aside, arrays))
    _save_json(root / "tiles" / f"{name}.coordinates{_META}", _tiling(slide))
    made = root / "tile_embeddings" / f"{name}.pt"
    if n:
        write_pt(made, np.asarray(slide.vectors))
    meta = root / "tile_embeddings" / f"{name}{_META}"
    _save_json(meta, _embedding(slide, root))
    return made if n else meta


#: What the tool's readers of the tiling's metadata insist on, beyond what is ours to state; all null.
_UNSAID = {
    "provenance": ("mask_path", "mask_backend", "requested_mask_backend"),
    "tiling": ("tolerance",),
    "segmentation": (
        *("tissue_method", "requested_seg_downsample", "seg_downsample", "seg_level", "seg_spacing_um"),
        *("sthresh", "sthresh_up", "mthresh", "close", "mask_path", "ref_tile_size_px"),
        *("tissue_mask_tissue_value", "mask_level", "mask_spacing_um"),
    ),
    "filtering": (
        *("a_t", "a_h", "filter_white", "filter_black", "white_threshold", "black_threshold"),
        *("fraction_threshold", "filter_grayspace", "grayspace_saturation_threshold"),
        *("grayspace_fraction_threshold", "filter_blur", "blur_threshold", "qc_spacing_um"),
    ),
    "artifact": ("annotation", "selection_strategy", "output_mode"),
}


def _tiling(slide: SlideFeatures) -> dict[str, Any]:
    """How the tiles were cut. What only the tool's own segmentation could say is null."""
    assert slide.footprint_l0 is not None
    assert slide.tile_px is not None
    stride = slide.stride_px or slide.tile_px
    said: dict[str, dict[str, Any]] = {
        "provenance": {
            "sample_id": slide.slide_id,
            "image_path": slide.attributes.get("slide_path"),
            "backend": "beph-store",
            "requested_backend": "beph-store",
        },
        "slide": {
            "dimensions": list(slide.size_l0) if slide.size_l0 else None,
            "base_spacing_um": slide.mpp_l0,
            "level_downsamples": [1.0],
        },
        "tiling": {
            "requested_tile_size_px": slide.tile_px,
            "requested_spacing_um": slide.mpp,
            "read_level": 0,
            "read_tile_size_px": slide.footprint_l0,
            "read_spacing_um": slide.mpp_l0,
            "tile_size_lv0": slide.footprint_l0,
            "step_px_lv0": round(stride * slide.footprint_l0 / slide.tile_px),
            "overlap": max(0.0, 1 - stride / slide.tile_px),
            "min_tissue_fraction": slide.tissue_min,
            "is_within_tolerance": True,
            "n_tiles": len(slide),
        },
        "artifact": {"coordinate_space": "level0_px", "tile_order": "as stored"},
    }
    return {
        section: {**dict.fromkeys(_UNSAID.get(section, ())), **said.get(section, {})}
        for section in (*said, "segmentation", "filtering")
    }


def _embedding(slide: SlideFeatures, root: Path) -> dict[str, Any]:
    name = slide.slide_id
    return {
        "sample_id": name,
        "artifact_type": "tile_embeddings",
        "backend": "beph-store",
        "coordinates_meta_path": str(root / "tiles" / f"{name}.coordinates{_META}"),
        "coordinates_npz_path": str(root / "tiles" / f"{name}.coordinates.npz"),
        "encoder_level": "tile",
        "encoder_name": slide.encoder,
        "feature_dim": slide.dim if len(slide) else None,
        "feature_dtype": "fp16" if slide.vectors.dtype == np.float16 else "fp32",
        "format": "pt",
        "image_path": slide.attributes.get("slide_path"),
        "num_tiles": len(slide),
        "requested_tile_size_px": slide.tile_px,
        "encoder_input_size_px": slide.tile_px if len(slide) else None,
        "requested_spacing_um": slide.mpp,
        "tile_size_lv0": slide.footprint_l0,
    }


def _save_npz(aside: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with aside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _save_json(path: Path, data: dict[str, Any]) -> None:
    raw = json.dumps(data, indent=2, sort_keys=True).encode()

    def fill(aside: Path) -> None:
        aside.write_bytes(raw)

    write_aside(path, fill)
