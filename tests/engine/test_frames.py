"""A store in a notebook: its tables in every library's form, bags as tensors, and pictures that cannot run anything."""

from __future__ import annotations

import builtins
import importlib.util
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import beph_store
from beph_store.engine.annotate import annotate
from beph_store.engine.frames import TABLES, OpenStore
from beph_store.errors import HeadError, MissingExtra, NotAStore, RecipeMismatch, UnknownSlide, UsageError
from beph_store.records import Recipe
from beph_store.store import Store

from ..interop.grown import DIM, RECIPE, SPEC, encoder, grow, tiles_of, vectors_of
from .test_annotate import feature, ring, written

LOST = (3,)
EVIL = "<script>alert('x')&.svs"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenStore:
    folder = tmp_path_factory.mktemp("frames")
    store = grow(folder, ("a.svs", "b.svs"), lost=LOST)
    path = written(folder / "a.geojson", feature("Tumor", ring(0, 0, 1500, 1500)))
    annotate(store.layout.root, [path])
    said = store.layout.predictions / "grade"
    said.mkdir(parents=True)
    for by in ("slides", "cases"):
        pl.DataFrame({"slide_id": ["a.svs"], "case_id": ["case-a"], "p_high": [0.8]}).write_parquet(
            said / f"{by}.parquet"
        )
    (said / "about.json").write_text(f'{{"recipe": "{RECIPE.key}"}}')
    return beph_store.open(store.layout.root)


def test_the_tables_are_lazy_and_hold_what_the_store_holds(opened: OpenStore) -> None:
    assert all(isinstance(opened.table(name), pl.LazyFrame) for name in TABLES)
    tiles = opened.tiles().filter(pl.col("slide_id") == "a.svs").sort("tile").collect()
    assert tiles.columns == ["slide_id", "tile", "x", "y", "tissue", "read_status", "embedding"]
    np.testing.assert_array_equal(tiles.select("x", "y").to_numpy(), tiles_of("a.svs").origin_l0)
    assert tiles["embedding"].null_count() == len(LOST)
    assert opened.slides().select("slide_id", "case_id").collect().rows() == [
        ("a.svs", "case-a"),
        ("b.svs", "case-b"),
    ]
    labels = opened.labels().collect()
    assert set(labels["label"]) == {"Tumor"}
    assert labels.height > 3
    assert opened.labels("grade").collect().height == 0
    assert opened.labels("grade").collect_schema() == opened.labels().collect_schema()
    assert opened.predictions().collect().rows() == [("a.svs", "case-a", 0.8, "grade")]
    assert opened.predictions("grade", by="case").collect().height == 1


def test_arrow_and_pandas(opened: OpenStore) -> None:
    arrow = opened.arrow("tiles")
    assert arrow.num_rows == 2 * len(tiles_of("a.svs"))
    assert "embedding" in arrow.column_names
    frame = opened.pandas("tiles")
    assert "embedding" not in frame.columns
    assert frame.groupby("slide_id").size().to_dict() == dict.fromkeys(
        ("a.svs", "b.svs"), len(tiles_of("a.svs"))
    )
    assert opened.pandas("labels")["label"].unique().tolist() == ["Tumor"]


def test_duckdb_joins_them(opened: OpenStore) -> None:
    pytest.importorskip("duckdb", reason="no DuckDB: pip install duckdb")
    sql = """SELECT s.case_id, count(*) FROM tiles t JOIN labels l USING (slide_id, tile) JOIN slides s USING (slide_id)
             LEFT JOIN predictions p USING (slide_id) GROUP BY ALL"""
    assert opened.duckdb().sql(sql).fetchall() == [("case-a", opened.labels().collect().height)]
    with_vectors = opened.duckdb(vectors=True)
    found = with_vectors.sql("SELECT embedding FROM tiles WHERE slide_id = 'a.svs' AND tile = 0").fetchall()[
        0
    ]
    np.testing.assert_array_equal(found[0], vectors_of("a.svs", 1)[0])
    assert with_vectors.sql("SELECT count(*) FROM slide_labels").fetchall() == [(0,)]


def test_bags_are_tensors_of_the_readable_tiles(opened: OpenStore) -> None:
    import torch

    bags = list(opened.bags())
    assert [(bag.slide_id, bag.case_id) for bag in bags] == [("a.svs", "case-a"), ("b.svs", "case-b")]
    n = len(tiles_of("a.svs"))
    kept = np.delete(np.arange(n), LOST)
    first = bags[0]
    assert len(first) == n - len(LOST)
    assert first.vectors.dtype == torch.float32
    np.testing.assert_array_equal(first.vectors.numpy(), vectors_of("a.svs", n)[kept])
    np.testing.assert_array_equal(first.origin_l0.numpy(), tiles_of("a.svs").origin_l0[kept])
    assert first.tile.tolist() == kept.tolist()
    first.vectors.add_(1)  # a copy of its own
    assert opened.bag("a", dtype="bfloat16").vectors.dtype == torch.bfloat16
    assert [bag.slide_id for bag in opened.bags(["b"])] == ["b.svs"]
    with pytest.raises(UnknownSlide, match="no finished slide is called 'c'"):
        opened.bags(["c"])
    with pytest.raises(UsageError, match="dtype"):
        opened.bag("a", dtype="int8")  # type: ignore[arg-type]


def test_query_is_the_commands(opened: OpenStore, tmp_path: Path) -> None:
    pl.DataFrame({"slide_id": ["a.svs"], "grade": ["high"]}).write_csv(tmp_path / "g.csv")
    sql = "SELECT grade, count(*) AS n FROM tiles JOIN g ON tiles.slide_id = g.slide_id GROUP BY grade"
    assert opened.query(sql, g=tmp_path / "g.csv").rows() == [("high", len(tiles_of("a.svs")))]


@pytest.mark.parametrize(("package", "call"), [("duckdb", "duckdb"), ("pandas", "pandas"), ("torch", "bag")])
def test_what_is_not_installed_is_said(
    opened: OpenStore, package: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a)
    )
    arguments = {"duckdb": (), "pandas": ("slides",), "bag": ("a",)}[call]
    with pytest.raises(MissingExtra, match=f"{package} is not installed: pip install"):
        getattr(opened, call)(*arguments)


def test_what_cannot_be_meant(opened: OpenStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table 'cases'"):
        opened.arrow("cases")
    with pytest.raises(HeadError, match="no head 'x' was applied to the store: grade"):
        opened.predictions("x")
    with pytest.raises(NotAStore):
        beph_store.open(tmp_path)
    with pytest.raises(RecipeMismatch):
        beph_store.open(opened.store.layout.root, "ffff")


def test_a_store_of_several_recipes_opens_and_asks_when_it_matters(tmp_path: Path) -> None:
    other = Recipe(SPEC, encoder("second"))
    root = grow(tmp_path).layout.root
    grow(tmp_path, recipe=other)
    both = beph_store.open(root)
    assert repr(both).count("2 slides") == 2
    with pytest.raises(RecipeMismatch, match="pass --recipe"):
        both.tiles()
    assert beph_store.open(root, other.key[:6]).recipe.recipe == other


def test_how_it_looks(tmp_path: Path) -> None:
    store = grow(tmp_path, (EVIL, *(f"s{i:02}.svs" for i in range(14))), lost=LOST)
    opened = beph_store.open(store.layout.root)
    n = len(tiles_of("a"))
    assert repr(opened).splitlines()[1:] == [
        f"  {RECIPE.key}: toy v1, {DIM} values, tiles of 224 px at 0.5 µm",
        f"    15 slides, {15 * n} tiles, 15 unreadable tiles",
    ]
    page = opened._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&amp;.svs" in page
    assert page.count("<img") == 12
    assert "and 3 more" in page
    assert not re.search(r"(src|href)='(?!data:image/jpeg;base64,)", page)
    assert len(page) < 60_000


def test_an_empty_store_and_a_lost_thumbnail_look_like_something(tmp_path: Path) -> None:
    import shutil

    empty = beph_store.open(Store.create(tmp_path / "E", written_by="test").layout.root)
    assert "no recipe yet" in repr(empty)
    store = grow(tmp_path, ("a.svs",))
    shutil.rmtree(store.layout.raster(RECIPE.key, "a.svs"))
    page = beph_store.open(store.layout.root)._repr_html_()
    assert "<img" not in page
    assert "a.svs" in page


def test_the_face_has_open_and_the_builtin_is_as_it_was() -> None:
    assert "open" in dir(beph_store)
    assert beph_store.open is not builtins.open
