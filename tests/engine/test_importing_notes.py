"""An import says what it did not use, what it lacks, and what does not fit what is known."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from beph_store.engine.exporting import ExportOptions, export_features
from beph_store.engine.importing import ImportOptions, import_features, import_table
from beph_store.store import Store
from tests.cli.calling import call, call_json
from tests.engine.study.conftest import plant
from tests.interop import layouts


def _note(report, words: str) -> list[str]:
    return [note for note in report.notes if words in note]


@pytest.fixture(scope="module")
def unplaced(tmp_path_factory):
    """(report, store) of two slides of CLAM's ``pt_files`` alone."""
    folder = tmp_path_factory.mktemp("unplaced")
    planted = plant(folder / "planted", cases=2)
    export_features("clam", planted.store, folder / "clam", options=ExportOptions(sidecar=False))
    for places in ("patches", "h5_files"):
        shutil.rmtree(folder / "clam" / places)
    options = ImportOptions(encoder_name="UNI", mpp=0.5)
    return import_features("clam", folder / "clam", folder / "S", options=options), folder / "S"


def test_vectors_without_places_are_said_to_be(unplaced) -> None:
    report, _ = unplaced
    assert len(_note(report, "do not say where the tiles lie")) == 1
    assert "--coords" in _note(report, "do not say where the tiles lie")[0]


def test_no_place_is_made_up_for_them(unplaced) -> None:
    report, store = unplaced
    name = report.slides[0].slide_id
    out, _ = call("search", store, "--slide", name, "--exclude", "none", "--top", 1)
    assert out.splitlines()[2].split()[1:] == [name, name, "–", "–", "–"]
    assert "no places" in call("info", store)[0]
    assert "--coords" in call("search", store, "--at", f"{name},0,0", code=2)[1]
    assert "x and y are 0" in call("query", store, "SELECT x, y FROM tiles LIMIT 1")[1]
    assert call("query", store, "SELECT slide_id FROM tiles LIMIT 1")[1] == ""


def test_a_known_encoder_has_a_known_length(unplaced) -> None:
    report, store = unplaced
    dim = Store.open(store).recipe().recipe.encoder.dim
    (note,) = _note(report, "UNI gives 1,024 values a tile")
    assert f"these vectors have {dim:,}" in note


def test_a_fitting_or_unknown_name_is_left_alone(tmp_path) -> None:
    slide = layouts.draw("a", 4)
    slide.vectors = np.random.default_rng(0).normal(size=(4, 1024)).astype(np.float32)
    layouts.trident(tmp_path / "trident", slide, encoder="uni_v1")
    for name in (None, "ours"):
        options = ImportOptions(encoder_name=name, mpp=0.5)
        report = import_features("trident", tmp_path / "trident", tmp_path / f"S-{name}", options=options)
        assert not report.failed
        assert not _note(report, "values a tile")
        assert not _note(report, "where the tiles lie")


def test_options_that_an_export_overrules_are_named(tmp_path) -> None:
    store = plant(tmp_path, cases=2).store
    export_features("clam", store, tmp_path / "out", options=ExportOptions())
    options = ImportOptions(encoder_name="UNI", mpp=0.25)
    (note,) = _note(import_features("clam", tmp_path / "out", tmp_path / "S1", options=options), "came from")
    assert "--encoder-name, --mpp had no say" in note
    assert "--no-sidecar" in note
    (note,) = _note(import_features("clam", tmp_path / "out", tmp_path / "S2"), "came from")
    assert "had no say" not in note


def test_a_table_has_no_tiles_to_look_at(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("slide_id,f1,f2\na,1,2\nb,2,1\n")
    import_table(tmp_path / "t.csv", tmp_path / "S", columns="f.")
    assert "no tiles to show" in call("search", tmp_path / "S", "--at", "a,0,0", code=2)[1]
    hits = call_json("search", tmp_path / "S", "--slide", "a")["hits"]
    assert [hit["slide_id"] for hit in hits] == ["b"]
