"""Parquet, one file a slide: a row a tile, with the same columns as the store's own table.

``parquet`` has each vector as fixed-size bytes, which read many times faster; ``parquet_list`` as a list of floats,
which DuckDB and pandas take as it is. Metadata under ``beph_store`` say what the numbers are. Both are read alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beph_store.errors import SlideUnreadable
from beph_store.interop.features import Found, SlideFeatures
from beph_store.interop.hdf5 import write_aside
from beph_store.interop.places import no_places
from beph_store.records import READ_OK
from beph_store.regular import require_regular

_KEY = b"beph_store"
_VECTOR = "embedding"
#: Plain values of `SlideFeatures` that the metadata carry.
_STATED = ("footprint_l0", "tile_px", "stride_px", "mpp", "mpp_l0", "encoder", "tissue_min")
_BROKEN = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)


def find_parquet(root: Path) -> list[Found]:
    """Every slide of ``root``, a ``.parquet`` file or a folder of some."""
    paths = [root] if root.is_file() else sorted(root.glob("[!.]*.parquet"))
    return [Found(name, path) for path in paths for name in _names(path)]


def find_parquet_list(root: Path) -> list[Found]:
    """The same."""
    return find_parquet(root)


def _names(path: Path) -> list[str]:
    """The slides of a file; one that cannot be opened goes by its name, so that it fails by it."""
    try:
        require_regular(path)
        file = pq.ParquetFile(path)
        if _VECTOR not in file.schema_arrow.names:
            return []
        if "slide_id" not in file.schema_arrow.names or not file.metadata.num_rows:
            return [str(_stated(file.schema_arrow).get("slide_id") or path.stem)]
        found = file.read(columns=["slide_id"])["slide_id"].unique().to_pylist()
        return sorted(str(name) for name in found)
    except _BROKEN:
        return [path.stem]


def open_parquet(found: Found) -> SlideFeatures:
    """One slide, its rows in the file's order, unreadable tiles left out. SlideUnreadable where it is damaged."""
    try:
        named = "slide_id" in pq.read_schema(found.path).names
        where = [("slide_id", "=", found.slide_id)] if named else None
        table = pq.read_table(found.path, filters=where, partitioning=None)
        return _slide(found, table)
    except _BROKEN as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SlideUnreadable(
            f"{found.path.name}: {why}", slide_id=found.slide_id, path=found.path
        ) from error


def open_parquet_list(found: Found) -> SlideFeatures:
    """The same."""
    return open_parquet(found)


def _stated(schema: pa.Schema) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(_KEY)
    data = {} if raw is None else json.loads(raw)
    if not isinstance(data, dict):
        raise ValueError("its metadata are no object")
    return data


def _slide(found: Found, table: pa.Table) -> SlideFeatures:
    stated = _stated(table.schema)
    if "read_status" in table.column_names:
        table = table.filter(pa.compute.equal(table["read_status"], READ_OK))
    missing = {"x", "y", _VECTOR} - set(table.column_names)
    if missing:
        raise ValueError(f"it has no column {sorted(missing)[0]!r}")
    x, y = (table[name].cast(pa.int32()).to_numpy() for name in ("x", "y"))
    size = stated.get("size_l0")
    plain = {name: stated.get(name) for name in _STATED}
    return SlideFeatures(
        slide_id=found.slide_id,
        vectors=_vectors(table[_VECTOR].combine_chunks(), stated),
        origin_l0=np.stack([x, y], axis=1),
        footprint_l0=plain["footprint_l0"],
        tile_px=plain["tile_px"],
        mpp=plain["mpp"],
        mpp_l0=plain["mpp_l0"],
        size_l0=None if size is None else (int(size[0]), int(size[1])),
        encoder=plain["encoder"],
        path=found.path,
        attributes=dict(stated.get("attributes") or {}),
        stride_px=plain["stride_px"],
        tissue=table["tissue"].to_numpy().astype(np.float32) if "tissue" in table.column_names else None,
        tissue_min=plain["tissue_min"],
    )


def _vectors(column: Any, stated: Mapping[str, Any]) -> NDArray[Any]:
    """(N, D) of fixed-size bytes, or of lists of one length."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    if column.null_count:
        raise ValueError("a tile that is not marked unreadable has no vector")
    kind, n = column.type, len(column)
    if pa.types.is_fixed_size_binary(kind):
        dtype = np.dtype(str(stated.get("dtype")))
        if dtype not in (np.float16, np.float32) or kind.byte_width % dtype.itemsize:
            raise ValueError(f"vectors of {kind.byte_width} bytes of {stated.get('dtype')!r}")
        raw = np.frombuffer(column.buffers()[1], np.uint8)[column.offset * kind.byte_width :]
        return (
            raw[: n * kind.byte_width].view(dtype).reshape(n, -1 if n else kind.byte_width // dtype.itemsize)
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    dim = kind.list_size if pa.types.is_fixed_size_list(kind) else int(stated.get("dim") or 0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = np.unique(np.diff(column.offsets.to_numpy()))
        if len(lengths) > 1:
            raise ValueError("its vectors are of several lengths")
        dim = int(lengths[0]) if len(lengths) else dim
    return np.asarray(values.reshape(n, dim))


def place_parquet(root: Path, slide: SlideFeatures) -> Path:
    """The file of the slide."""
    return root / f"{slide.slide_id}.parquet"


def place_parquet_list(root: Path, slide: SlideFeatures) -> Path:
    """The same."""
    return place_parquet(root, slide)


def write_parquet(root: Path, slide: SlideFeatures) -> Path:
    """Vectors as bytes, in the type that they have."""
    vectors = np.ascontiguousarray(slide.vectors)
    width = vectors.dtype.itemsize * slide.dim
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(slide), [None, pa.py_buffer(vectors)])
    return _write(root, slide, column)


def write_parquet_list(root: Path, slide: SlideFeatures) -> Path:
    """Vectors as lists of float32, which holds all that float16 does and every tool takes."""
    values = pa.array(np.asarray(slide.vectors, np.float32).reshape(-1))
    return _write(root, slide, pa.FixedSizeListArray.from_arrays(values, slide.dim))


def _write(root: Path, slide: SlideFeatures, column: pa.Array) -> Path:
    if slide.origin_l0 is None:
        raise no_places(slide)
    n = len(slide)
    columns = {
        "slide_id": pa.array([slide.slide_id] * n, pa.string()),
        "tile": pa.array(np.arange(n, dtype=np.int32)),
        "x": pa.array(slide.origin_l0[:, 0].astype(np.int32)),
        "y": pa.array(slide.origin_l0[:, 1].astype(np.int32)),
        "read_status": pa.array([READ_OK] * n, pa.string()),
        _VECTOR: column,
    }
    if slide.tissue is not None:
        columns["tissue"] = pa.array(slide.tissue.astype(np.float32))
    plain = {k: v for k, v in slide.attributes.items() if isinstance(v, (str, bool, int, float))}
    stated = {
        **{name: getattr(slide, name) for name in _STATED},
        "slide_id": slide.slide_id,
        "size_l0": slide.size_l0,
        "dim": slide.dim,
        "dtype": str(slide.vectors.dtype),
        "attributes": plain,
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(stated).encode()})
    path = place_parquet(root, slide)

    def fill(aside: Path) -> None:
        # Embeddings do not compress, and byte stream splits cost more than they save.
        pq.write_table(
            table, aside, compression={_VECTOR: "none"}, use_dictionary=["slide_id", "read_status"]
        )

    write_aside(path, fill)
    return path
