"""A probe of a store in which something can be learned: tables of slides, cases and tiles, controls, few shots."""

import csv
import json

import numpy as np
import polars as pl
import pytest

from beph_store.cohort import ColumnChoice
from beph_store.engine.probe.report import render, write
from beph_store.engine.probe.run import ProbeOptions, probe
from beph_store.engine.probe.store import Wanted, store_tiles
from beph_store.engine.search.table import open_table
from beph_store.errors import AmbiguousColumn, CohortError, UsageError

from ..study.conftest import plant


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Cases whose tiles all carry a class: shifted tiles are tumour, in tumour and in normal cases alike."""
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def by_tile(planted, tmp_path_factory):
    """A table of single tiles: class by what the vector holds, so that a tumour case holds both classes."""
    table = open_table(planted.store)
    path = tmp_path_factory.mktemp("tiles") / "tiles.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "case_id", "x", "y", "tile", "label"])
        for row, (x, y) in enumerate(table.flat.origin_l0.tolist()):
            slide = table.flat.slide_ids[table.slide_of[row]]
            kind = "tumour" if table.flat.vectors[row, 0] > 2.5 else "normal"
            case = slide.split("/")[1].split("-")[0]
            writer.writerow([slide, case, x, y, int(table.flat.tile_index[row]), kind])
    return path


def without(path, target, *columns):
    pl.read_csv(path).drop(*columns).write_csv(target)
    return target


def test_slides_cases_and_tiles_say_what_they_say(planted, by_tile, tmp_path):
    slides = store_tiles(planted.store, planted.labels)
    assert slides.about["labels_by"] == "slide"
    assert len(slides.case_ids) == 48
    cases = pl.read_csv(planted.labels).group_by("case_id").agg(pl.col("label").first())
    cases.write_csv(tmp_path / "cases.csv")
    # The store recorded no cases: a table of cases needs them, and says so.
    with pytest.raises(CohortError, match=r"no row of .* fits a slide"):
        store_tiles(planted.store, tmp_path / "cases.csv")
    tiles = store_tiles(planted.store, by_tile)
    assert tiles.about["labels_by"] == "tile"
    assert len(tiles) == len(slides)
    held = {(tiles.case_ids[c], t) for c, t in zip(tiles.case, tiles.truth, strict=True)}
    assert len(held) > 48  # some cases hold both classes
    numbers = store_tiles(planted.store, without(by_tile, tmp_path / "n.csv", "x", "y"))
    places = store_tiles(planted.store, without(by_tile, tmp_path / "p.csv", "tile"))
    for other in (numbers, places):
        assert (other.truth == tiles.truth).all()
        assert (other.vectors == tiles.vectors).all()


def test_slides_of_a_case_may_differ(planted, tmp_path):
    rows = pl.read_csv(planted.labels).with_row_index()
    rows.with_columns(label=pl.when(pl.col("index") % 2 == 0).then(pl.lit("a")).otherwise(pl.lit("b"))).drop(
        "index"
    ).write_csv(tmp_path / "t.csv")
    tiles = store_tiles(planted.store, tmp_path / "t.csv")
    assert len(tiles.case_ids) == 48
    pairs = {(tiles.case_ids[c], int(t)) for c, t in zip(tiles.case, tiles.truth, strict=True)}
    assert len(pairs) > 48


def test_it_finds_what_was_planted_and_nothing_in_exchanged_labels(planted, by_tile):
    tiles = store_tiles(planted.store, by_tile)
    for method in ("linear", "knn"):
        found = probe(tiles, ProbeOptions(method))
        assert found.metrics["auroc"].value > 0.95
        shuffled = probe(tiles, ProbeOptions(method, shuffle_labels=True))
        assert 0.3 < shuffled.metrics["auroc"].value < 0.7
        assert "control" in shuffled.warnings[0]


def test_no_case_is_on_two_sides_and_every_tile_is_said_once(planted, by_tile):
    tiles = store_tiles(planted.store, by_tile)
    found = probe(tiles, ProbeOptions(repeats=2, draws=50))
    assert len(found.folds) == 10
    for repeat in range(2):
        own = [fold for fold in found.folds if fold.repeat == repeat]
        assert sum(fold.test_tiles for fold in own) == len(tiles)
        assert sum(fold.test_cases for fold in own) == len(tiles.case_ids)
        assert all(fold.train_cases + fold.test_cases == len(tiles.case_ids) for fold in own)
    assert np.isfinite(found.probabilities).all()
    assert found.confusion.sum() == len(tiles)


def test_less_to_learn_from_is_less_and_the_same_seed_is_the_same(planted, by_tile):
    tiles = store_tiles(planted.store, by_tile)
    whole, quarter = (probe(tiles, ProbeOptions(train_fraction=f, draws=20)) for f in (1.0, 0.25))
    for a, b in zip(whole.folds, quarter.folds, strict=True):
        assert b.test_tiles == a.test_tiles
        assert 0.15 < b.train_cases / a.train_cases < 0.4
    again = probe(tiles, ProbeOptions(train_fraction=0.25, draws=20))
    assert again.metrics == quarter.metrics
    assert probe(tiles, ProbeOptions(draws=20, seed=5)).metrics != whole.metrics


def test_few_cases_are_few_and_more_do_better(planted, by_tile):
    tiles = store_tiles(planted.store, by_tile)
    for method in ("linear", "knn"):
        found = probe(tiles, ProbeOptions(method, shots=(1, 25), shot_draws=8))
        one, many = found.shots
        assert one.taken == {"normal": 1, "tumour": 1}
        assert many.taken["tumour"] < 25
        assert any("With 25 cases a class" in text for text in found.warnings)
        assert one.metrics["auroc"].value < many.metrics["auroc"].value
        assert one.metrics["auroc"].ci_low < one.metrics["auroc"].value < one.metrics["auroc"].ci_high


def test_where_and_the_cap_leave_out_and_say_so(planted, by_tile):
    tiles = store_tiles(planted.store, by_tile, wanted=Wanted(where="slide_id LIKE 'site1%' OR tile < 5"))
    assert 0 < len(tiles) < len(store_tiles(planted.store, by_tile))
    assert "--where" in tiles.notes[0]
    few = store_tiles(planted.store, by_tile, wanted=Wanted(max_tiles=300))
    assert len(few) <= 300
    assert len(few.case_ids) == 48
    assert few.found > 300
    assert any("labelled tiles were used" in text for text in probe(few, ProbeOptions(draws=10)).warnings)


def test_tiles_that_are_not_there_are_counted(planted, by_tile, tmp_path):
    rows = pl.read_csv(by_tile).drop("tile")
    odd = rows.with_columns(
        x=pl.when(pl.int_range(pl.len()) < 3).then(pl.col("x") + 1).otherwise(pl.col("x"))
    )
    odd.write_csv(tmp_path / "t.csv")
    tiles = store_tiles(planted.store, tmp_path / "t.csv")
    assert [one.reason for one in tiles.dropped] == ["no stored tile there"] * 3
    assert tiles.found == rows.height - 3
    pl.concat([rows, rows[:1]]).write_csv(tmp_path / "twice.csv")
    with pytest.raises(CohortError, match="are one tile"):
        store_tiles(planted.store, tmp_path / "twice.csv")
    with pytest.raises(AmbiguousColumn, match="--case-column"):
        store_tiles(planted.store, without(by_tile, tmp_path / "nocase.csv", "case_id"))


def test_a_case_column_may_call_each_slide_a_case(planted, by_tile):
    tiles = store_tiles(planted.store, by_tile, wanted=Wanted(ColumnChoice(case="slide_id")))
    assert len(tiles.case_ids) == 64


def test_what_is_written_agrees_with_the_figures(planted, by_tile, tmp_path):
    found = probe(store_tiles(planted.store, by_tile), ProbeOptions(shots=(1,), shot_draws=2, draws=20))
    write(found, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "probe.json").read_text())
    table = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert table.height == said["tiles"]
    share = (table["label"] == table["predicted"]).mean()
    assert said["metrics"]["accuracy"]["mean"] == pytest.approx(share)
    assert {"slide_id", "tile", "case_id", "p[tumour]"} <= set(table.columns)
    assert "AUROC" in render(found)
    write(found, tmp_path / "out")  # ours may be written anew
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").write_bytes(b"")
    with pytest.raises(UsageError, match="other things"):
        write(found, tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"shots": (0,)}, "--shots"), ({"neighbours": 101}, "--k 101"), ({"repeats": 0}, "at least 1")],
)
def test_options_that_cannot_be_meant_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        ProbeOptions(**options)
