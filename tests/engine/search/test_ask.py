"""What is asked finds itself, filters act before ranking, and nothing half-written is ever found."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
from PIL import Image

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.search import indexing
from beph_store.engine.search.ask import SearchOptions, ask_at, ask_images, ask_region, ask_slide, find
from beph_store.engine.search.indexing import make_index
from beph_store.engine.search.sheet import contact_sheet, hits_geojson, tile_pixels
from beph_store.engine.search.table import open_table
from beph_store.errors import QueryError, UnknownSlide, UsageError
from beph_store.records import Recipe, TileSet
from beph_store.search import ann
from beph_store.slides import TileReader, open_slide
from beph_store.store import Store

from ..study.conftest import DIM, SPEC, Planted, _write, encoder, plant


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def opened(planted):
    return open_table(planted.store, labels=planted.labels)


@pytest.fixture(scope="module")
def drawn_store(drawn_slide, tmp_path_factory):
    store = tmp_path_factory.mktemp("search") / "S"
    ingest([drawn_slide.path], store, options=IngestOptions(limit_tiles=24))
    return open_table(store)


def cut(drawn_slide, table, row: int) -> np.ndarray:
    spec = table.record.recipe.tile
    with open_slide(drawn_slide.path, slide_id="q") as slide:
        tiles = TileSet(
            "q", spec, table.flat.origin_l0[row : row + 1], table.footprint(0), np.ones(1, np.float32)
        )
        pixels = np.empty((1, spec.tile_px, spec.tile_px, 3), np.uint8)
        assert TileReader(slide, tiles).read(np.zeros(1, np.int32), pixels).all()
    return pixels[0]


def test_a_tile_cut_from_a_slide_finds_itself_first(drawn_slide, drawn_store, tmp_path) -> None:
    Image.fromarray(cut(drawn_slide, drawn_store, 7)).save(tmp_path / "tile.png")
    hits = find(drawn_store, ask_images(drawn_store, [tmp_path / "tile.png"]), SearchOptions(top=3))
    assert hits[0].row == 7
    assert hits[0].score > 0.999
    assert hits[0].origin_l0 == tuple(drawn_store.flat.origin_l0[7])


def test_a_query_from_the_store_does_not_find_its_own_case(opened) -> None:
    question = ask_at(opened, "site1/c01-0", 10, 10)
    hits = find(opened, question, SearchOptions(top=20))
    assert len(hits) == 20
    assert "c01" not in {hit.case_id for hit in hits}
    own = find(opened, question, SearchOptions(top=1, exclude="none"))
    assert own[0].row == question.row
    assert own[0].score == pytest.approx(1, abs=1e-6)


def test_excluding_the_slide_leaves_the_other_slides_of_the_case(opened) -> None:
    """Case 5 has two slides."""
    everything = SearchOptions(top=len(opened.flat), exclude="slide")
    hits = find(opened, ask_at(opened, "site1/c05-0", 10, 10), everything)
    assert {hit.slide_id for hit in hits if hit.case_id == "c05"} == {"site1/c05-1.svs"}


def test_filters_act_before_ranking(opened) -> None:
    """As many hits as asked for, though the nearest by far are all filtered out."""
    question = ask_at(opened, "site1/c01-0", 10, 10)
    hits = find(opened, question, SearchOptions(top=10, where="label = 'normal' AND tissue > 0.5"))
    assert len(hits) == 10
    assert all(int(hit.case_id[1:]) % 2 == 0 for hit in hits)
    vectors = opened.flat.vectors.astype(np.float32)
    kept = np.flatnonzero(opened.where("label = 'normal'"))
    cosine = vectors[kept] @ question.vectors[0]
    cosine /= np.linalg.norm(vectors[kept], axis=1) * np.linalg.norm(question.vectors[0])
    assert [hit.row for hit in hits] == kept[np.argsort(-cosine)[:10]].tolist()


def test_hits_can_be_spread_over_slides(opened) -> None:
    hits = find(opened, ask_slide(opened, "site1/c01-0"), SearchOptions(top=12, per_slide=1))
    assert len({hit.slide_id for hit in hits}) == 12


def test_a_region_is_its_tiles(opened) -> None:
    question = ask_region(opened, "site1/c01-0", (0, 0, 448, 448))
    assert len(question.vectors) == 4
    best = find(opened, question, SearchOptions(top=4, pool="max", exclude="none"))
    assert {hit.origin_l0 for hit in best} == {(0, 0), (224, 0), (0, 224), (224, 224)}


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda t: ask_at(t, "site1/c01-0", 10**6, 5), UsageError, "level-0 px"),
        (lambda t: ask_at(t, "nowhere", 5, 5), UnknownSlide, "beph-store slides"),
        (lambda t: ask_region(t, "site1/c01-0", (9, 9, 10, 10)), UsageError, "in the region"),
        (lambda t: t.where("lable = 'x'"), QueryError, "no column .lable.; columns: case_id"),
        (lambda t: find(t, ask_slide(t, "site1/c01-0"), SearchOptions(top=0)), UsageError, "--top"),
    ],
)
def test_what_cannot_be_meant_is_said(opened, ask, error, says) -> None:
    with pytest.raises(error, match=says):
        ask(opened)


def test_a_small_store_needs_no_index(planted) -> None:
    assert make_index(planted.store).did == "none"


def test_an_index_that_lacks_few_rows_is_updated_and_one_that_lacks_many_is_built_anew(tmp_path, monkeypatch):
    planted = plant(tmp_path)
    rows = make_index(planted.store).rows
    monkeypatch.setattr(indexing, "choose", lambda rows, dim: ann.IndexPlan("IVF_SQ", 4))
    first = make_index(planted.store)
    assert (first.did, first.info.rows_indexed) == ("built", rows)
    assert make_index(planted.store).did == "current"
    said = []
    for name in ("build", "update"):
        monkeypatch.setattr(indexing, name, lambda *_, name=name: said.append(name))
    for lacking in (1, rows // 10, rows // 10 + 1, rows):
        known = dataclasses.replace(first.info, rows_unindexed=lacking)
        monkeypatch.setattr(indexing, "describe", lambda path, known=known: known)
        make_index(planted.store)
    assert said == ["update", "update", "build", "build"]


def test_the_sheet_shows_the_tiles_themselves(drawn_slide, drawn_store) -> None:
    hits = find(
        drawn_store, ask_at(drawn_store, "drawn", *_middle(drawn_store, 7)), SearchOptions(exclude="none")
    )
    shown = tile_pixels(drawn_store, hits)
    assert all(own for _, own in shown)
    np.testing.assert_array_equal(shown[0][0], cut(drawn_slide, drawn_store, 7))
    page = contact_sheet(drawn_store, hits, title="like this", query=Image.fromarray(shown[0][0]))
    assert page.width > 800
    feature = hits_geojson(hits)["features"][0]
    assert feature["geometry"]["coordinates"][0][0] == list(hits[0].origin_l0)
    json.dumps(hits_geojson(hits))


def _middle(table, row: int) -> tuple[int, int]:
    half = table.footprint(0) // 2
    x, y = (int(v) + half for v in table.flat.origin_l0[row])
    return x, y


def test_where_the_slide_has_moved_the_thumbnail_stands_in(opened) -> None:
    hits = find(opened, ask_slide(opened, "site1/c01-0"), SearchOptions(top=3))
    assert not any(own for _, own in tile_pixels(opened, hits))
    contact_sheet(opened, hits, title="moved")


def test_ingest_and_search_at_once_never_show_half_a_slide(planted, tmp_path) -> None:
    folder = plant(tmp_path, cases=4)
    store = Store.open(folder.store)
    errors: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        try:
            rng = np.random.default_rng(0)
            writer = store.writer(Recipe(SPEC, encoder()), run="more", encoder_source="test", parity={})
            for number in range(25):
                _write(writer, f"more/{number:02d}.svs", rng.normal(size=(16, DIM)).astype(np.float32))
                writer.publish(force=number % 5 == 4)
            writer.close()
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    while not done.is_set():
        table = open_table(folder.store)
        more = [i for i, name in enumerate(table.flat.slide_ids) if name.startswith("more/")]
        assert all(table.span(i).stop - table.span(i).start == 16 for i in more)
        find(table, ask_slide(table, "site0/c00-0"), SearchOptions(top=5))
        counts.append(len(more))
    thread.join()
    assert not errors
    assert sorted(counts) == counts
    last = open_table(folder.store).flat.slide_ids
    assert sum(name.startswith("more/") for name in last) == 25
