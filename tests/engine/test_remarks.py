"""What an ingest says of slides without a tile and of slides that have two names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.store import Store
from beph_store.testing.synthetic import SlidePlan, write_slide
from tests.cli.calling import call, call_json


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "a.svs", SlidePlan(size=(2048, 2048), seed=3, nuisances=()))
    return folder


def test_slides_without_a_tile_are_told_of_and_are_in_nobodys_way(tissue: Path, tmp_path: Path) -> None:
    store = tmp_path / "S"
    wrong = ("ingest", tissue, "--store", store, "--mpp", 8, "--tissue-min", 1)
    for status in ("empty", "skipped"):
        out, err = call(*wrong)
        assert status in out
        (note,) = [line for line in err.splitlines() if line.startswith("note")]
        assert "no slide gave a tile" in note
    report = call_json(*wrong)
    assert "20x is about 0.5" in report["notes"][0]
    right = call_json("ingest", tissue, "--store", store, "--limit-tiles", 3)
    assert right["notes"] == []
    assert call_json("query", store, "SELECT slide_id FROM tiles")["rows"] == 3


def test_a_second_name_of_a_slide_is_told_of(tissue: Path, tmp_path: Path) -> None:
    """As where an import, which has no suffix to go by, went before."""
    folder, store = tmp_path / "slides", tmp_path / "S"
    folder.mkdir()
    shutil.copy(tissue / "a.svs", folder / "a.svs")
    (tmp_path / "m.csv").write_text("path,slide_id\nslides/a.svs,a\n")
    options = IngestOptions(limit_tiles=2)
    assert ingest([], store, manifest=tmp_path / "m.csv", options=options).notes == ()
    (note,) = ingest([folder], store, options=IngestOptions(limit_tiles=3)).notes
    assert note.startswith("1 slides are in the store under two names, such as a and a.svs")
    assert Store.open(store).registry.slide_ids() == {"a", "a.svs"}
    assert ingest([], store, manifest=tmp_path / "m.csv", options=options).notes == (note,)
