"""The store that 0.1.0 wrote in format 1 is opened, checked, searched and written to by every later version."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beph_store.engine.active.labels import LabelBook
from beph_store.engine.search.ask import SearchOptions, ask_at, find
from beph_store.engine.search.table import open_table
from beph_store.engine.study.kept import kept_tables
from beph_store.errors import FormatUnknown
from beph_store.records import SlideInfo, TileSet
from beph_store.store import SlideRow, Store, compact, query, verify
from beph_store.store.journal import Journal

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "format1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
FULL, SPARSE = EXPECTED["full"], EXPECTED["sparse"]


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> Path:
    """A copy, read only."""
    return Path(shutil.copytree(GOLDEN / "S", tmp_path_factory.mktemp("format1") / "S"))


@pytest.fixture
def own(tmp_path) -> Store:
    """A copy to write to."""
    return Store.open(shutil.copytree(GOLDEN / "S", tmp_path / "S"))


def command(*arguments: object) -> dict:
    line = [sys.executable, "-m", "beph_store_cli", *map(str, arguments), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 300_000


def test_info(golden):
    recipes = {one["key"]: one for one in command("info", golden)["recipes"]}
    assert set(recipes) == {FULL, SPARSE}
    told = {name: recipes[FULL][name] for name in ("slides", "empty", "failed", "tiles", "unreadable", "dim")}
    assert told == {"slides": 3, "empty": 1, "failed": 1, "tiles": 57, "unreadable": 1, "dim": 6}
    assert recipes[FULL]["kept_slides"] == 3
    assert recipes[SPARSE]["slides"] == 1


def test_verify(golden):
    report = verify(Store.open(golden))
    assert report.problems == []
    assert (report.slides, report.tiles) == (4, 61)


def test_every_row_of_the_registry_says_what_it_said(golden):
    rows = {row.key: row for row in Store.open(golden).registry.rows()}
    assert set(rows) == set(EXPECTED["slides"])
    for key, said in EXPECTED["slides"].items():
        assert {name: getattr(rows[key], name) for name in said} == said


def test_bags_and_the_flat_copy(golden):
    store = Store.open(golden)
    flat = store.flat(FULL)
    for slide_id, rows in EXPECTED["vectors"].items():
        said = np.array(rows, np.float16)
        bag = store.bag(FULL, slide_id)
        assert np.array_equal(bag.vectors, said[bag.tile_index])
        ((start, stop),) = flat.bag_spans([slide_id])
        assert np.array_equal(flat.vectors[start:stop], bag.vectors)
    assert 7 not in store.bag(FULL, "a/alpha.svs").tile_index
    assert len(store.bag(FULL, "empty.svs")) == 0


def test_search(golden):
    table = open_table(golden, recipe=FULL)
    hits = find(
        table, ask_at(table, "a/alpha.svs", 40, 40), SearchOptions(top=5, exclude="slide", exact=True)
    )
    mine = np.array(EXPECTED["vectors"]["a/alpha.svs"][0])
    unit = mine / np.linalg.norm(mine)
    best = {
        name: max(float(np.array(v) @ unit / np.linalg.norm(v)) for v in rows)
        for name, rows in EXPECTED["vectors"].items()
        if name != "a/alpha.svs"
    }
    assert hits[0].slide_id == max(best, key=best.__getitem__)
    assert hits[0].score == pytest.approx(max(best.values()), abs=2e-3)


def test_query_rasters_and_kept_tiles(golden):
    store = Store.open(golden)
    counted = query(store, "SELECT slide_id, count(*) AS n FROM tiles GROUP BY slide_id", recipe=FULL)
    assert dict(counted.iter_rows()) == {name: len(rows) for name, rows in EXPECTED["vectors"].items()}
    assert store.rasters(FULL, "beta.svs").thumbnail.shape == (64, 64, 3)
    pixels = store.pixels(FULL).read("a/alpha.svs", np.arange(40)).astype(np.float32) / 255
    ok = store.pixels(FULL).ok("a/alpha.svs")
    assert ok.sum() == 39
    means = pixels[ok].mean(axis=(1, 2))
    assert np.abs(means - np.array(EXPECTED["vectors"]["a/alpha.svs"])[ok, :3]).max() < 1e-3


def test_labels_of_people_and_their_tables(golden):
    store = Store.open(golden)
    labels = LabelBook(Journal(store.layout.annotations(FULL))).labels()
    assert {subject: label.mark.label for subject, label in labels.tiles.items()} == {
        ("a/alpha.svs", 768, 0): "tumour",
        ("a/alpha.svs", 256, 256): "other",
    }
    assert [label.mark.label for label in labels.slides.values()] == ["high"]
    (table,) = kept_tables(store).values()
    assert (table.name, table.about["rows"]) == ("labels.csv", 3)


def test_it_can_be_written_to_and_a_slide_half_done_goes_on(own):
    recipe = own.recipe(FULL).recipe
    writer = own.writer(recipe, run="later", encoder_source="colour-moments", parity={})
    claim = writer.claim("delta.svs")
    assert claim is not None
    index = np.arange(10)
    origin = np.stack([index % 8, index // 8], axis=1).astype(np.int32) * 256
    tiles = TileSet("delta.svs", recipe.tile, origin, 256, np.linspace(0.3, 1, 10, dtype=np.float32))
    info = SlideInfo(
        "delta.svs", "slides/delta.svs", (2048, 2048), 0.5, 0.5, "tiff", ((2048, 2048),), "d" * 64
    )
    spool = writer.open_spool(claim, info, tiles)
    assert spool.resumed == 4
    todo = np.flatnonzero(~spool.done).astype(np.int32)
    spool.add(todo, np.ones(6, bool), np.full((6, 6), 0.5, np.float32))
    writer.seal(claim, own.rasters(FULL, "beta.svs"), SlideRow(FULL, "delta.svs", "done"))
    writer.close()
    assert verify(own).problems == []
    assert len(own.bag(FULL, "delta.svs")) == 10


def test_compact_takes_nothing_away(own):
    compact(own)
    assert verify(own).problems == []
    assert {row.key for row in own.registry.rows()} == set(EXPECTED["slides"])
    assert np.array_equal(
        own.bag(FULL, "beta.svs").vectors, np.array(EXPECTED["vectors"]["beta.svs"], np.float16)
    )


# --- forward versions are refused by name ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 99, "2", None, 1.5])
def test_a_store_of_another_format_is_refused_by_name(own, version):
    marker = json.loads(own.layout.marker.read_bytes())
    own.layout.marker.write_text(json.dumps(marker | {"format": version, "written_by": "beph-store 9.1.0"}))
    with pytest.raises(FormatUnknown, match=rf"format {version!r}, this version reads 1.*beph-store 9\.1\.0"):
        Store.open(own.layout.root)


def test_a_recipe_of_a_later_format_is_refused_by_name(own):
    path = own.layout.recipe(FULL)
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps(record | {"format": 2}))
    with pytest.raises(FormatUnknown, match=rf"recipe {FULL} has format 2, this version reads 1"):
        own.recipes()


def test_a_recipe_with_a_field_more_is_refused_by_name(own):
    path = own.layout.recipe(FULL)
    record = json.loads(path.read_bytes())
    record["recipe"]["tile"]["rotation"] = 90
    path.write_text(json.dumps(record))
    with pytest.raises(FormatUnknown, match="rotation"):
        own.recipes()


def test_what_a_later_version_adds_is_passed_over(own):
    import pyarrow as pa

    own.registry.dataset().add_columns([pa.field("colour", pa.string())])
    (own.layout.root / "something-new").mkdir()
    assert verify(own).problems == []
    assert own.slide(FULL, "beta.svs").tiles == 12
