"""AnnData, LazySlide and Parquet: what goes out comes back, as other tools see it, and damage is one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beph_store.errors import SlideError, UsageError
from beph_store.interop import FORMATS, SlideFeatures, format_named
from beph_store.interop.regions import signed_area
from beph_store.interop.scales import read_stated, slide_properties, tile_spec
from beph_store.records import TissueMask

from .grown import SIDE, SIZE, tiles_of, tissue, vectors_of

pytest.importorskip("anndata", reason="no anndata: pip install 'beph-store[interop]'")

KINDS = ("wsidata", "anndata", "anndata_zarr", "parquet", "parquet_list")
EXACT16 = ("parquet",)


def features(
    slide_id: str = "a", n: int | None = None, dtype: type = np.float16, **other: object
) -> SlideFeatures:
    tiles = tiles_of(slide_id)
    n = len(tiles) if n is None else n
    vectors = vectors_of(slide_id, len(tiles))[:n].astype(dtype)
    made = SlideFeatures(
        slide_id=slide_id,
        vectors=vectors,
        path=Path(),
        origin_l0=tiles.origin_l0[:n],
        footprint_l0=SIDE,
        tile_px=224,
        mpp=0.5,
        mpp_l0=0.25,
        size_l0=SIZE,
        encoder="toy",
        attributes={"slide_path": "/slides/a.svs", "recipe": "0123"},
        stride_px=224,
        tissue=tiles.tissue[:n],
        tissue_min=0.25,
    )
    return dataclasses.replace(made, **other)  # type: ignore[arg-type]


def same(back: SlideFeatures, slide: SlideFeatures) -> None:
    np.testing.assert_array_equal(back.vectors, slide.vectors)
    np.testing.assert_array_equal(back.origin_l0, slide.origin_l0)
    for name in ("footprint_l0", "tile_px", "stride_px", "mpp", "mpp_l0", "size_l0", "encoder", "tissue_min"):
        assert getattr(back, name) == getattr(slide, name), name
    np.testing.assert_array_equal(back.tissue, slide.tissue)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["half", "single"])
def test_what_goes_out_comes_back(kind: str, dtype: type, tmp_path: Path) -> None:
    form = format_named(kind)
    assert form.reads
    assert form.writes
    for name in ("a", "b"):
        slide = features(name, dtype=dtype)
        made = form.write(tmp_path, slide)
        assert made == form.place(tmp_path, slide)
        assert made.is_file()
    found = form.find(tmp_path)
    assert [one.slide_id for one in found] == ["a", "b"]
    assert all(path.is_file() for one in found for path in one.files)
    for one in found:
        slide = features(one.slide_id, dtype=dtype)
        back = form.open(one)
        same(back, slide)
        assert back.vectors.dtype == (dtype if kind in EXACT16 else np.float32)
        assert back.attributes["recipe"] == "0123"
    again = form.write(tmp_path, features("a", 5))
    assert len(form.open(form.find(tmp_path)[0])) == 5
    assert [path for path in again.parent.glob(".*") if path.name not in (".zattrs", ".zgroup")] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if FORMATS[kind].empty])
def test_a_slide_without_tiles(kind: str, tmp_path: Path) -> None:
    form = format_named(kind)
    form.write(tmp_path, features("a", 0))
    (one,) = form.find(tmp_path)
    back = form.open(one)
    assert back.vectors.shape == (0, 12)
    assert back.slide_id == "a"


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_any_vectors_and_places_come_back(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    n, dim = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    bits = data.draw(st.lists(st.integers(0, 0x7BFF), min_size=n * dim, max_size=n * dim))
    sign = data.draw(st.lists(st.booleans(), min_size=n * dim, max_size=n * dim))
    raw = np.array([b | (0x8000 if s else 0) for b, s in zip(bits, sign, strict=True)], np.uint16)
    vectors = raw.view(np.float16).reshape(n, dim)
    places = data.draw(st.lists(st.integers(0, 400_000), min_size=2 * n, max_size=2 * n))
    side, px = data.draw(st.integers(1, 5000)), data.draw(st.integers(1, 1024))
    slide = features(
        "s",
        n,
        vectors=vectors,
        origin_l0=np.array(places, np.int32).reshape(n, 2),
        footprint_l0=side,
        tile_px=px,
    )
    folder = tmp_path / kind
    shutil.rmtree(folder, ignore_errors=True)
    form = format_named(kind)
    form.write(folder, slide)
    same(form.open(form.find(folder)[0]), slide)


def test_lazyslides_reader_cuts_tiles_of_the_true_side() -> None:
    for side in range(1, 2000, 7):
        for px in (1, 96, 224, 256, 299, 512):
            spec = tile_spec(dataclasses.replace(features(), footprint_l0=side, tile_px=px))
            assert int(px * spec["base_downsample"]) == side == int(px * spec["ops_downsample"])
            assert read_stated(spec, None).footprint_l0 == side
    assert read_stated(None, slide_properties(features())).size_l0 == SIZE


def test_what_is_not_stated_stays_none(tmp_path: Path) -> None:
    bare = features("a", mpp=None, mpp_l0=None, size_l0=None, tissue=None, tissue_min=None, encoder=None)
    for kind in ("anndata", "parquet"):
        form = format_named(kind)
        form.write(tmp_path, bare)
        back = form.open(form.find(tmp_path)[0])
        for name in ("mpp", "mpp_l0", "size_l0", "tissue", "tissue_min", "encoder"):
            assert getattr(back, name) is None, (kind, name)
        for nowhere in (dataclasses.replace(bare, origin_l0=None),):
            with pytest.raises(SlideError, match="no places"):
                form.write(tmp_path, nowhere)


def test_anndata_as_its_users_see_it(tmp_path: Path) -> None:
    import anndata

    slide = features()
    data = anndata.read_h5ad(format_named("anndata").write(tmp_path, slide))
    assert data.X.dtype == np.float32
    assert {"slide_id", "tile", "x", "y", "tissue", "read_status"} <= set(data.obs.columns)
    assert data.obs_names[0] == "a:0"
    np.testing.assert_array_equal(data.obsm["spatial"], slide.origin_l0)
    assert data.uns["beph_store"]["encoder"] == "toy"
    both = anndata.concat([data, anndata.read_h5ad(format_named("anndata").write(tmp_path, features("b")))])
    both.write_h5ad(tmp_path / "both.h5ad")
    found = format_named("anndata").find(tmp_path / "both.h5ad")
    assert [one.slide_id for one in found] == ["a", "b"]
    np.testing.assert_array_equal(format_named("anndata").open(found[1]).vectors, features("b").vectors)


def test_anndata_of_lazyslide(tmp_path: Path) -> None:
    """What ``features_anndata`` makes: no slide id, tile_spec and slide_properties in uns."""
    import anndata
    import pandas as pd

    slide = features()
    corners = slide.origin_l0
    assert corners is not None
    obs = pd.DataFrame({"tile_id": range(len(slide)), "x": corners[:, 0], "y": corners[:, 1], "tissue_id": 0})
    obs.index = obs.index.astype(str)
    uns = {
        "tile_spec": tile_spec(slide),
        "slide_properties": slide_properties(slide),
    }
    anndata.AnnData(np.asarray(slide.vectors, np.float32), obs=obs, uns=uns).write_h5ad(tmp_path / "s1.h5ad")
    (one,) = format_named("anndata").find(tmp_path)
    back = format_named("anndata").open(one)
    assert (one.slide_id, back.footprint_l0, back.mpp, back.size_l0, back.encoder) == (
        "s1",
        SIDE,
        0.5,
        SIZE,
        None,
    )


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda d: d.obs.drop(columns="x", inplace=True), "obs has no x and y"),
        (lambda d: d.obs.insert(0, "y", d.obs.pop("y") + 0.5), "no whole level-0 px"),
        (lambda d: d.uns["tile_spec"].__setitem__("height", 3), "not square"),
    ],
)
def test_anndata_that_cannot_be_used(tmp_path: Path, damage: object, match: str) -> None:
    import anndata

    path = format_named("anndata").write(tmp_path, features())
    data = anndata.read_h5ad(path)
    damage(data)  # type: ignore[operator]
    data.write_h5ad(path)
    with pytest.raises(SlideError, match=match):
        format_named("anndata").open(format_named("anndata").find(tmp_path)[0])


def test_parquet_as_its_users_see_it(tmp_path: Path) -> None:
    slide = features()
    path = format_named("parquet").write(tmp_path / "bytes", slide)
    frame = pl.read_parquet(path)
    assert frame.columns == ["slide_id", "tile", "x", "y", "read_status", "embedding", "tissue"]
    raw = b"".join(frame["embedding"].to_list())
    np.testing.assert_array_equal(np.frombuffer(raw, np.float16).reshape(len(frame), -1), slide.vectors)
    lists = pl.read_parquet(format_named("parquet_list").write(tmp_path / "lists", slide))
    np.testing.assert_array_equal(np.stack(lists["embedding"].to_list()), slide.vectors)
    assert json.loads(pq.read_schema(path).metadata[b"beph_store"])["dtype"] == "float16"


def test_parquet_of_others(tmp_path: Path) -> None:
    """Lists of any kind, several slides a file, unreadable rows; nothing stated."""
    table = pa.table(
        {
            "slide_id": ["b", "a", "b", "b"],
            "x": [0, 1, 2, 3],
            "y": pa.array([0, 1, 2, 3], pa.int64()),
            "read_status": ["ok", "ok", "unreadable", "ok"],
            "embedding": pa.array([[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]], pa.list_(pa.float64())),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = format_named("parquet").find(tmp_path)
    assert [one.slide_id for one in found] == ["a", "b"]
    back = format_named("parquet").open(found[1])
    assert back.vectors.tolist() == [[1, 2], [5, 6]]
    assert back.origin_l0.tolist() == [[0, 0], [3, 3]]  # type: ignore[union-attr]
    assert back.mpp is None
    ragged = table.filter([True, True, False, True]).set_column(
        4, "embedding", pa.array([[1.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float64()))
    )
    pq.write_table(ragged, tmp_path / "t.parquet")
    with pytest.raises(SlideError, match="several lengths"):
        format_named("parquet").open(found[1])
    pq.write_table(table.drop_columns(["read_status"]), tmp_path / "t.parquet")
    with pytest.raises(SlideError, match="has no vector"):
        format_named("parquet").open(found[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["cut", "garbage", "gone"])
def test_damage_is_one_line(kind: str, how: str, tmp_path: Path) -> None:
    form = format_named(kind)
    form.write(tmp_path, features())
    (found,) = form.find(tmp_path)
    chunks = [path for path in found.files if path.name not in ("zarr.json", "shapes.parquet")]
    hurt = chunks[0] if chunks else found.path
    if how == "gone" and not chunks[0].name.endswith((".h5ad", ".parquet")):
        hurt = found.path
    data = hurt.read_bytes()
    if how == "gone":
        hurt.unlink()
    else:
        hurt.write_bytes(data[: len(data) // 2] if how == "cut" else b"\x00nonsense" * 40)
    with pytest.raises(SlideError) as caught:
        form.open(found)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_holds_none(kind: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"holds no .*: name the folder with .*\*\.",
    ):
        format_named(kind).find(tmp_path)


def attributes(path: Path) -> Mapping[str, object]:
    return json.loads((path / "zarr.json").read_bytes())["attributes"]


def test_the_layout_of_a_spatialdata_folder(tmp_path: Path) -> None:
    """What spatialdata 0.7 and wsidata 0.12 write, dataset for dataset."""
    mask = tissue()
    slide = features("a", attributes={"tissue_mask": mask, "recipe": "0123"})
    format_named("wsidata").write(tmp_path, slide)
    top = tmp_path / "a.zarr"
    about = attributes(top)
    assert about["spatialdata_attrs"]["version"] == "0.2"  # type: ignore[index]
    assert about["slide_properties"]["shape"] == [SIZE[1], SIZE[0]]  # type: ignore[index]
    spec = about["tile_spec"]["tiles"]  # type: ignore[index]
    assert (spec["width"], spec["base_downsample"], spec["tissue_name"]) == (224, 2.0, "tissues")
    table = attributes(top / "tables" / "toy_tiles")
    assert table["encoding-type"] == "anndata"
    assert table["spatialdata-encoding-type"] == "ngff:regions_table"
    assert (table["region"], table["region_key"], table["instance_key"]) == ("tiles", "library_id", "tile_id")
    for name in ("tiles", "tissues"):
        shape = attributes(top / "shapes" / name)
        assert shape["encoding-type"] == "ngff:shapes"
        assert shape["spatialdata_attrs"] == {"version": "0.3"}
        assert shape["coordinateTransformations"][0]["type"] == "identity"  # type: ignore[index]
    tiles = pq.read_table(top / "shapes" / "tiles" / "shapes.parquet")
    assert tiles.column_names == ["tile_id", "x", "y", "tissue_id", "geometry"]
    assert json.loads(tiles.schema.metadata[b"geo"])["columns"]["geometry"]["encoding"] == "WKB"
    first = tiles["geometry"][0].as_py()
    assert struct.unpack_from("<BIII", first) == (1, 3, 1, 5)
    x, y = tiles["x"][0].as_py(), tiles["y"][0].as_py()
    ring = np.frombuffer(first[13:], "<f8").reshape(5, 2)
    assert ring[0].tolist() == ring[-1].tolist() == [x, y]
    assert abs(signed_area(ring[:-1])) == SIDE**2
    assert set(tiles["tissue_id"].to_pylist()) == {0, 1}
    assert len(pq.read_table(top / "shapes" / "tissues" / "shapes.parquet")) == 2
    assert "consolidated_metadata" in json.loads((top / "zarr.json").read_bytes())


def test_tiles_of_lazyslide_may_stand_in_another_order(tmp_path: Path) -> None:
    format_named("wsidata").write(tmp_path, features())
    path = tmp_path / "a.zarr" / "shapes" / "tiles" / "shapes.parquet"
    table = pq.read_table(path)
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.take(order), path)
    found = format_named("wsidata").find(tmp_path)[0]
    same(format_named("wsidata").open(found), features())
    pq.write_table(table.slice(3), path)
    with pytest.raises(SlideError, match="not those of its tiles"):
        format_named("wsidata").open(found)


def test_a_mask_without_tissue_makes_no_tissues(tmp_path: Path) -> None:
    none = TissueMask(np.zeros((8, 8), bool), 8.0, 8.0, "none")
    format_named("wsidata").write(tmp_path, features("a", attributes={"tissue_mask": none}))
    assert not (tmp_path / "a.zarr" / "shapes" / "tissues").exists()
