"""LazySlide (wsidata): a SpatialData folder ``<slide>.zarr`` a slide, opened with ``open_wsi(slide, store=FOLDER)``.

    shapes/tiles, shapes/tissues      parquet of polygons in level-0 px, as GeoPandas writes them
    tables/<encoder>_tiles            AnnData: the vectors, each row a tile by ``tile_id``
    attributes                        tile_spec, slide_properties

Written without SpatialData and GeoPandas; the layout is that of SpatialData 0.2 containers (zarr format 3).
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beph_store.errors import SlideUnreadable
from beph_store.interop.anndata import BROKEN, Opened, opened, whole_corners, write_folder, zarr_files
from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.geojson import square
from beph_store.interop.outlines import outlines, piece_of_tiles, pieces
from beph_store.interop.places import no_places
from beph_store.interop.regions import Polygon
from beph_store.interop.scales import read_stated, slide_properties, tile_spec
from beph_store.records import TissueMask
from beph_store.regular import require_regular

_TILES, _TISSUES = "tiles", "tissues"
#: What ``tables`` say of the polygons that their rows are of.
_REGION = {"region": _TILES, "region_key": "library_id", "instance_key": "tile_id"}


def find_wsidata(root: Path) -> list[Found]:
    """Every table of features of tiles in ``root``, a SpatialData folder or a folder of some."""
    folders = [root] if (root / "tables").is_dir() else sorted(root.glob("*.zarr"))
    found = []
    for folder in folders:
        for table in sorted((folder / "tables").glob("*")):
            key = _attributes(table).get("region")
            shapes = folder / "shapes" / str(key) / "shapes.parquet"
            if isinstance(key, str) and shapes.is_file() and (table / "X").is_dir():
                head, others = zarr_files(table)
                others = {**others, "shapes": shapes, "about": folder / "zarr.json"}
                encoder = table.name.removesuffix(f"_{key}")
                group = None if key == _TILES else key
                found.append(Found(folder.name.removesuffix(".zarr"), head, others, encoder, group))
    return found


def _attributes(group: Path) -> dict[str, Any]:
    """Of a zarr group of either format; none where it cannot be read."""
    for name in ("zarr.json", ".zattrs"):
        try:
            require_regular(group / name)
            data = json.loads((group / name).read_bytes())
            return dict(data.get("attributes", {}) if name == "zarr.json" else data)
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return {}


def open_wsidata(found: Found) -> SlideFeatures:
    """One slide: the rows of the table in the order of its tiles. SlideUnreadable where they do not fit each other."""
    try:
        with opened(found.path.parent) as table:
            return _slide(found, table, pq.read_table(found.others["shapes"]))
    except (*BROKEN, pa.ArrowException) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        path = found.path.parent
        raise SlideUnreadable(f"{path.name}: {why}", slide_id=found.slide_id, path=path) from error


def _slide(found: Found, table: Opened, shapes: pa.Table) -> SlideFeatures:
    about = _attributes(found.others["about"].parent)
    key = _attributes(found.path.parent)
    specs = about.get("tile_spec") or {}
    stated = read_stated(specs.get(found.group or _TILES), about.get("slide_properties"))
    instance, obs, ours = key["instance_key"], table.frame("obs"), table.said("beph_store")
    wanted = obs[instance].to_numpy()
    have = shapes[instance].to_numpy() if instance in shapes.column_names else np.arange(len(shapes))
    order = np.argsort(have, kind="stable")
    at = np.minimum(np.searchsorted(have[order], wanted), max(0, len(have) - 1))
    if len(have) != len(np.unique(have)) or (
        len(wanted) and (not len(have) or (have[order][at] != wanted).any())
    ):
        raise ValueError("its rows are not those of its tiles")
    rows = order[at]
    corners = np.stack([shapes[name].to_numpy().astype(np.float64) for name in ("x", "y")], axis=1)
    tissue = obs["tissue"].to_numpy(np.float32) if "tissue" in obs else None
    least = ours.get("tissue_min")
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=table.vectors(slice(None)),
        origin_l0=whole_corners(corners[rows]),
        footprint_l0=stated.footprint_l0,
        tile_px=stated.tile_px,
        mpp=stated.mpp,
        mpp_l0=stated.mpp_l0,
        size_l0=stated.size_l0,
        encoder=found.encoder,
        path=found.path,
        attributes={name: value for name, value in ours.items() if isinstance(value, (str, int, float))},
        stride_px=stated.stride_px,
        tissue=tissue,
        group=found.group,
        tissue_min=None if least is None else float(least),
    )


def place_wsidata(root: Path, slide: SlideFeatures) -> Path:
    """The file that stands for the table of the slide's vectors."""
    return root / f"{slide.slide_id}.zarr" / "tables" / f"{slide.encoder}_{_TILES}" / "zarr.json"


def write_wsidata(root: Path, slide: SlideFeatures) -> Path:
    """The slide's folder, anew. With ``attributes["tissue_mask"]``, a `TissueMask`, its pieces are the tissues."""
    if slide.origin_l0 is None or slide.footprint_l0 is None:
        raise no_places(slide)
    place = place_wsidata(root, slide)

    def fill(folder: Path) -> None:
        import zarr

        top = zarr.open_group(folder, mode="w", zarr_format=3)
        top.attrs.update(_about(slide))
        shapes = top.create_group("shapes")
        for name, table in _shapes(slide).items():
            shapes.create_group(name).attrs.update(_SHAPES)
            pq.write_table(table, folder / "shapes" / name / "shapes.parquet")
        _write_table(top.create_group("tables"), place.parent.name, slide)
        zarr.consolidate_metadata(folder)

    write_folder(place.parents[2], fill)
    return place


def _about(slide: SlideFeatures) -> dict[str, Any]:
    spec = tile_spec(slide) | {"tissue_name": _TISSUES if _mask(slide) is not None else None}
    return {
        "spatialdata_attrs": {"version": "0.2", "spatialdata_software_version": "written by beph-store"},
        "slide_properties": slide_properties(slide),
        "tile_spec": {_TILES: spec},
    }


def _mask(slide: SlideFeatures) -> TissueMask | None:
    mask = slide.attributes.get("tissue_mask")
    return mask if isinstance(mask, TissueMask) and slide.size_l0 is not None and mask.mask.any() else None


def _shapes(slide: SlideFeatures) -> dict[str, pa.Table]:
    """Tables of polygons by name."""
    assert slide.origin_l0 is not None
    assert slide.footprint_l0 is not None
    n, mask = len(slide), _mask(slide)
    made, tissue = {}, np.zeros(n, np.int64)
    if mask is not None:
        assert slide.size_l0 is not None
        labels, _ = pieces(mask.mask)
        tissue = piece_of_tiles(labels, slide.size_l0, slide.origin_l0, slide.footprint_l0)
        drawn = outlines(mask.mask, slide.size_l0)
        made[_TISSUES] = _polygons({"tissue_id": np.arange(len(drawn))}, drawn)
    corners = slide.origin_l0.astype(np.int64)
    columns = {"tile_id": np.arange(n), "x": corners[:, 0], "y": corners[:, 1], "tissue_id": tissue}
    squares = [(np.array(square(x, y, slide.footprint_l0)[:-1], np.float64),) for x, y in corners.tolist()]
    return {**made, _TILES: _polygons(columns, squares)}


def _polygons(columns: Mapping[str, Any], polygons: Sequence[Polygon]) -> pa.Table:
    """A table as GeoPandas writes it: well-known binary, and what it says of the file."""
    table = pa.table({name: pa.array(np.asarray(values, np.int64)) for name, values in columns.items()})
    table = table.append_column("geometry", pa.array([b"".join(_wkb(p)) for p in polygons], pa.binary()))
    corners = np.concatenate([p[0] for p in polygons]) if polygons else np.zeros((1, 2))
    box = [*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()]
    geometry = {"encoding": "WKB", "crs": None, "geometry_types": ["Polygon"], "bbox": box}
    about = {
        "primary_column": "geometry",
        "columns": {"geometry": geometry},
        "version": "1.1.0",
        "creator": {"library": "beph-store", "version": "1"},
    }
    return table.replace_schema_metadata({"geo": json.dumps(about)})


def _wkb(polygon: Polygon) -> Iterator[bytes]:
    """Well-known binary, little endian, of a polygon with its rings closed."""
    yield struct.pack("<BII", 1, 3, len(polygon))
    for ring in polygon:
        yield struct.pack("<I", len(ring) + 1)
        yield np.concatenate([ring, ring[:1]]).astype("<f8").tobytes()


def _axes(name: str) -> dict[str, Any]:
    return {"name": name, "axes": [{"name": axis, "type": "space", "unit": "unit"} for axis in ("x", "y")]}


#: Attributes of a group of shapes: their coordinates are the slide's own.
_SHAPES: dict[str, Any] = {
    "encoding-type": "ngff:shapes",
    "axes": ["x", "y"],
    "coordinateTransformations": [{"type": "identity", "input": _axes("xy"), "output": _axes("global")}],
    "spatialdata_attrs": {"version": "0.3"},
}


def _write_table(tables: Any, name: str, slide: SlideFeatures) -> None:
    from anndata import AnnData
    from anndata.io import write_elem

    pd: Any = importlib.import_module("pandas")  # it comes with anndata, without types

    n = len(slide)
    columns: dict[str, Any] = {
        "tile_id": np.arange(n, dtype=np.int64),
        "library_id": pd.Categorical.from_codes(np.zeros(n, np.int8), [_TILES]),
    }
    if slide.tissue is not None:
        columns["tissue"] = slide.tissue.astype(np.float32)
    index = pd.Index([str(i) for i in range(n)], dtype=object)
    plain = {k: v for k, v in slide.attributes.items() if isinstance(v, (str, bool, int, float))}
    least = {} if slide.tissue_min is None else {"tissue_min": slide.tissue_min}
    made = AnnData(
        np.asarray(slide.vectors, np.float32),
        obs=pd.DataFrame(columns, index=index),
        var=pd.DataFrame(index=pd.Index([str(i) for i in range(slide.dim)], dtype=object)),
        uns={"spatialdata_attrs": dict(_REGION), "beph_store": {**plain, **least}},
    )
    write_elem(tables, name, made)
    said = {"spatialdata-encoding-type": "ngff:regions_table", **_REGION, "version": "0.2"}
    tables[name].attrs.update(said)
