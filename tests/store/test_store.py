"""Opening, verifying, compacting and querying a store."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from beph_store.errors import FormatUnknown, NotAStore, QueryError, RecipeMismatch, StoreError, UnknownSlide
from beph_store.records import Recipe
from beph_store.store import RecipeWriter, SlideRow, Store, compact, query, tables, verify, write_parquet
from tests.store.conftest import DIM, ENCODER, RECIPE, TILE, crash, seal

NewWriter = Callable[..., RecipeWriter]


@pytest.fixture
def full(store: Store, writer: RecipeWriter) -> Store:
    for i, name in enumerate(("a.svs", "b.svs", "c/d.svs")):
        seal(writer, name, 60 + i, lost=(1,) if i == 0 else ())
    seal(writer, "glass.svs", 0)
    writer.fail("bad.svs", SlideRow(RECIPE.key, "bad.svs", "failed", error="no mpp"))
    writer.close()
    return store


def test_a_recipe_survives_json() -> None:
    assert Recipe.from_json(json.loads(json.dumps(RECIPE.to_json()))) == RECIPE


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(RECIPE, tile=dataclasses.replace(TILE, mpp=0.25)),
        dataclasses.replace(RECIPE, tile=dataclasses.replace(TILE, stride_px=256)),
        dataclasses.replace(RECIPE, tile=dataclasses.replace(TILE, limit=10)),
        dataclasses.replace(RECIPE, encoder=dataclasses.replace(ENCODER, variant="as-published")),
        dataclasses.replace(RECIPE, encoder=dataclasses.replace(ENCODER, mean=(1.0, 0.0, 0.0))),
        dataclasses.replace(RECIPE, encoder=dataclasses.replace(ENCODER, precision="fp16")),
    ],
)
def test_whatever_changes_the_vectors_changes_the_key(other: Recipe) -> None:
    assert other.key != RECIPE.key


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="beph-store ingest"):
        Store.open(tmp_path / "none")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(NotAStore, match="holds other things"):
        Store.create(tmp_path / "photos", written_by="test")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotAStore, match="is a file"):
        Store.create(tmp_path / "file", written_by="test")


def test_a_newer_format_is_refused(store: Store) -> None:
    store.layout.marker.write_text(json.dumps({"format": 99, "written_by": "beph-store 9.0"}))
    with pytest.raises(FormatUnknown, match=r"beph-store 9\.0"):
        Store.open(store.layout.root)


def test_an_altered_recipe_is_refused(full: Store) -> None:
    path = full.layout.recipe(RECIPE.key)
    data = json.loads(path.read_text())
    data["recipe"]["encoder"]["variant"] = "other"
    path.write_text(json.dumps(data))
    with pytest.raises(FormatUnknown, match="altered"):
        full.recipes()


def test_recipes_are_found_by_prefix_and_never_guessed(full: Store) -> None:
    assert full.recipe().recipe == RECIPE
    assert full.recipe(RECIPE.key[:5]).recipe == RECIPE
    with_second(full, 12)
    with pytest.raises(RecipeMismatch, match="more than one"):
        full.recipe()
    with pytest.raises(RecipeMismatch, match="no recipe"):
        full.recipe("zzz")


def with_second(store: Store, tiles: int) -> Recipe:
    """A second recipe, of which one slide has so many tiles."""
    second = dataclasses.replace(RECIPE, tile=dataclasses.replace(TILE, mpp=1.0))
    writer = store.writer(second, run="r", encoder_source="toy", parity={})
    seal(writer, "a.svs", tiles)
    writer.close()
    return second


def test_a_recipe_without_tiles_is_no_choice(full: Store) -> None:
    """An ingest at a wrong scale leaves one behind; whoever names none means the other, before compact and after."""
    empty = with_second(full, 0)
    for _ in range(2):
        assert full.recipe().recipe == RECIPE
        assert [record.recipe for record in full.filled()] == [RECIPE]
        assert full.recipe(empty.key).recipe == empty
        assert {summary.key: summary.empty for summary in full.summaries()} == {RECIPE.key: 1, empty.key: 1}
        assert query(full, "SELECT COUNT(*) AS n FROM tiles")["n"].item() == 183
        compact(full)


def test_recipes_are_all_there_where_none_has_tiles(store: Store, writer: RecipeWriter) -> None:
    seal(writer, "glass.svs", 0)
    writer.close()
    assert store.recipe().recipe == RECIPE
    second = with_second(store, 0)
    assert [record.recipe for record in store.filled()] == [RECIPE, second]
    with pytest.raises(RecipeMismatch, match="more than one recipe"):
        store.recipe()


def test_summaries(full: Store) -> None:
    (summary,) = full.summaries()
    assert (summary.slides, summary.empty, summary.failed) == (3, 1, 1)
    assert (summary.tiles, summary.unreadable, summary.dim) == (183, 1, DIM)
    assert summary.bytes > 183 * DIM * 2


def test_unknown_and_failed_slides_have_no_bag(full: Store) -> None:
    with pytest.raises(UnknownSlide, match="nope"):
        full.bag(RECIPE.key, "nope")
    with pytest.raises(UnknownSlide, match="no mpp"):
        full.bag(RECIPE.key, "bad.svs")


def test_verify_is_content_with_a_good_store(full: Store) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(full, lambda done, total: seen.append((done, total)))
    assert (report.ok, report.slides, report.tiles, report.notes) == (True, 3, 183, [])
    assert seen == [(1, 3), (2, 3), (3, 3)]


def _data_files(store: Store) -> list[Path]:
    return sorted((store.layout.tiles(RECIPE.key) / "data").glob("*.lance"))


def test_verify_finds_flipped_bits_in_vectors(full: Store) -> None:
    """Lance itself reads nearly all of these without a word."""
    rng = np.random.default_rng(0)
    path = max(_data_files(full), key=lambda p: p.stat().st_size)
    good = path.read_bytes()
    vectors = full.bag(RECIPE.key, "c/d.svs").vectors.tobytes()
    start = next(
        p.read_bytes().find(vectors[:64]) for p in _data_files(full) if vectors[:64] in p.read_bytes()
    )
    victim = next(p for p in _data_files(full) if vectors[:64] in p.read_bytes())
    good = victim.read_bytes()
    for offset in rng.integers(start, start + len(vectors), 25):
        bad = bytearray(good)
        bad[offset] ^= 1 << int(rng.integers(8))
        victim.write_bytes(bad)
        assert not verify(full).ok, f"a flipped bit at {offset} went unseen"
    victim.write_bytes(good)
    assert verify(full).ok


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_verify_finds_missing_and_cut_files(full: Store, damage: str) -> None:
    path = _data_files(full)[0]
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = verify(full)
    assert len(report.problems) >= 1
    assert "cannot be read" in report.problems[0]


def test_verify_finds_missing_rasters(full: Store) -> None:
    full.layout.raster(RECIPE.key, "a.svs").rename(full.layout.root / "elsewhere.zarr")
    assert "thumbnail" in verify(full).problems[0]


def test_orphans_are_a_note_and_compact_removes_them(full: Store, new_writer: NewWriter) -> None:
    dead = new_writer("dead")
    seal(dead, "e.svs", 20)
    crash(dead)
    folder = full.layout.slide_staging(RECIPE.key, "e.svs")
    (folder / "ready.json").unlink()  # died just before it could record the fragment
    report = verify(full)
    assert report.ok
    assert "1 unreferenced data files" in report.notes[0]
    done = compact(full)
    assert done.files_after < done.files_before
    assert verify(full).notes == []
    assert [len(f.data_files()) for f in full.dataset(RECIPE.key).get_fragments()] == [1]
    assert len(full.bag(RECIPE.key, "c/d.svs")) == 62


def test_compact_waits_for_the_ingest(full: Store, new_writer: NewWriter) -> None:
    busy = new_writer()
    busy.claim("f.svs")
    with pytest.raises(StoreError, match="another process"):
        compact(full)
    busy.close()
    crashed = new_writer()
    seal(crashed, "g.svs", 3)
    crash(crashed)
    with pytest.raises(StoreError, match="uncommitted"):
        compact(full)


class Overtaken:
    """A table's handle; before it compacts, another process builds an index, as often as ``times`` says."""

    times = 0

    def __init__(self, path: Path) -> None:
        self._path, self._table = path, tables.open_table(path)

    def __getattr__(self, name: str) -> object:
        return self._table.optimize if name == "_really" else getattr(self._table, name)

    @property
    def optimize(self) -> Overtaken:
        return self

    def compact_files(self, **options: int) -> object:
        if Overtaken.times:
            Overtaken.times -= 1
            tables.open_table(self._path).create_scalar_index("tile", "BTREE", replace=True)
        return self._really.compact_files(**options)  # type: ignore[attr-defined]


def test_compact_begins_again_where_an_index_is_built_meanwhile(
    full: Store, new_writer: NewWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x.svs", "y.svs"):  # a fragment each
        writer = new_writer()
        seal(writer, name, 30)
        writer.close()
    monkeypatch.setattr(importlib.import_module("beph_store.store.compact"), "open_table", Overtaken)
    monkeypatch.setattr(Overtaken, "times", 1000)
    with pytest.raises(StoreError, match=r"others keep changing .*: run the same command again"):
        compact(full)
    assert Overtaken.times == 996
    Overtaken.times = 2
    compact(full)
    assert Overtaken.times == 0
    assert len(full.dataset(RECIPE.key).get_fragments()) == 1
    report = verify(full)
    assert (report.ok, report.notes) == (True, [])


def test_the_registry_stays_small(store: Store, new_writer: NewWriter) -> None:
    writer = new_writer()
    for i in range(40):
        writer.fail(f"{i}.svs", SlideRow(RECIPE.key, f"{i}.svs", "failed", error="x"))
        writer.publish(force=True)
    assert len(store.registry.dataset().get_fragments()) < 33
    assert len(store.rows(RECIPE.key)) == 40


def test_sql_over_tiles_slides_and_labels(full: Store, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,grade\na.svs,1\nb.svs,2\n")
    frame = query(
        full,
        "SELECT l.grade, count(*) AS n FROM tiles t JOIN labels l ON t.slide_id = l.slide_id "
        "WHERE t.read_status = 'ok' GROUP BY l.grade ORDER BY l.grade",
        tables={"labels": labels},
    )
    assert frame.rows() == [(1, 59), (2, 61)]
    assert query(full, "SELECT status, count(*) n FROM slides GROUP BY status ORDER BY n").height == 3


def test_a_query_keeps_float16_vectors_in_parquet(full: Store, tmp_path: Path) -> None:
    frame = query(full, "SELECT slide_id, tile, embedding FROM tiles WHERE slide_id = 'b.svs'")
    write_parquet(frame, tmp_path / "out" / "b.parquet")
    assert "halffloat" in str(pq.read_schema(tmp_path / "out" / "b.parquet").field("embedding").type)
    back = pl.read_parquet(tmp_path / "out" / "b.parquet").sort("tile")
    np.testing.assert_array_equal(back["embedding"].to_numpy(), full.bag(RECIPE.key, "b.svs").vectors)


def test_a_bad_query_names_the_tables(full: Store, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"tables: tiles\(slide_id"):
        query(full, "SELECT nope FROM tiles")
    with pytest.raises(QueryError, match="no such table file"):
        query(full, "SELECT 1", tables={"labels": tmp_path / "none.csv"})
