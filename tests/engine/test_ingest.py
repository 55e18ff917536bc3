"""The main job, on drawn slides and on real ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beph_store.encoders import load_bundle
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.errors import UnknownEncoder, UsageError
from beph_store.runtimes import select_runtime
from beph_store.slides import open_slide
from beph_store.store import Store, verify


@pytest.fixture(scope="module")
def small(drawn_slide, tmp_path_factory) -> Path:
    """Two drawn slides, one that is no slide, one of glass."""
    folder = tmp_path_factory.mktemp("slides")
    shutil.copy(drawn_slide.path, folder / "a.tif")
    shutil.copy(drawn_slide.path, folder / "b.tif")
    (folder / "broken.svs").write_bytes(b"not a slide")
    return folder


@pytest.fixture(scope="module")
def ingested(small, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "S"
    return store, ingest([small], store, options=IngestOptions(limit_tiles=24))


def test_every_slide_ends_with_an_outcome(ingested) -> None:
    store, report = ingested
    assert [(o.slide_id, o.status, o.tiles) for o in report.slides] == [
        ("a.tif", "done", 24),
        ("b.tif", "done", 24),
        ("broken.svs", "failed", 0),
    ]
    assert report.slides[2].error
    assert report.tiles == 48
    assert report.bottleneck in ("read", "encode", "write")
    assert set(report.busy) == {"read", "encode", "write"}
    assert verify(Store.open(store)).ok
    assert json.loads(json.dumps(report.to_json()))["slides"][0]["status"] == "done"


def test_the_recipe_keeps_the_gate_figures_of_the_runtime(ingested) -> None:
    store, report = ingested
    opened = Store.open(store)
    own = "fp32" if report.runtime == "onnxruntime" else f"{report.runtime} fp32"
    assert opened.recipe(report.recipe).parity[own]["passed"]
    before = opened.layout.recipe(report.recipe).read_bytes()
    opened.record_parity(report.recipe, {own: opened.recipe(report.recipe).parity[own]})
    assert opened.layout.recipe(report.recipe).read_bytes() == before
    opened.record_parity(report.recipe, {"other bf16": {"passed": True}})
    assert {own, "other bf16"} <= set(opened.recipe(report.recipe).parity)


def test_the_stored_vectors_are_those_of_the_pixels(ingested, small) -> None:
    """From the file to the store and back, against the plain way."""
    store, report = ingested
    opened = Store.open(store)
    bag = opened.bag(report.recipe, "a.tif")
    bundle = load_bundle("beph-mini")
    with open_slide(small / "a.tif", prefer="openslide") as slide:
        tiles = np.stack([slide.read_level(0, x, y, 224, 224) for x, y in bag.origin_l0.tolist()])
    vectors = select_runtime("auto", bundle.onnx_path(), bundle.spec).encode(tiles)
    np.testing.assert_array_equal(bag.vectors, vectors.astype(np.float16))


def test_again_is_skipped_and_failed_ones_are_tried_again(ingested, small) -> None:
    store, _ = ingested
    report = ingest([small], store, options=IngestOptions(limit_tiles=24))
    assert [o.status for o in report.slides] == ["skipped", "skipped", "failed"]
    assert report.tiles == 0


def test_a_changed_file_is_told_and_replaced_only_when_asked(
    drawn_slide, marked_slide, tmp_path: Path
) -> None:
    slide = tmp_path / "a.tif"
    shutil.copy(drawn_slide.path, slide)
    options = IngestOptions(limit_tiles=8)
    ingest([slide], tmp_path / "S", options=options)
    shutil.copy(marked_slide.path, slide)
    (outcome,) = ingest([slide], tmp_path / "S", options=options).slides
    assert outcome.status == "failed"
    assert "--replace" in (outcome.error or "")
    store = Store.open(tmp_path / "S")
    before = store.bag(store.recipe().recipe.key, "a.tif")
    assert len(before) == 8  # what was there is still there
    (outcome,) = ingest([slide], tmp_path / "S", options=IngestOptions(limit_tiles=8, replace=True)).slides
    assert outcome.status == "done"
    after = store.bag(store.recipe().recipe.key, "a.tif")
    assert not np.array_equal(before.vectors, after.vectors)
    assert verify(store).ok


def test_another_scale_for_a_finished_slide_is_told(ingested, small) -> None:
    store, _ = ingested
    (outcome,) = ingest([small / "a.tif"], store, options=IngestOptions(limit_tiles=24), slide_mpp=0.4).slides
    assert outcome.status == "failed"
    assert "0.5 µm/px, not at 0.4" in (outcome.error or "")


def test_a_trial_is_a_recipe_of_its_own(ingested, small) -> None:
    store, trial = ingested
    other = ingest([small / "a.tif"], store, options=IngestOptions(limit_tiles=4))
    assert other.recipe != trial.recipe
    assert [o.status for o in other.slides] == ["done"]
    assert len(Store.open(store).recipes()) == 2


def test_what_concerns_the_whole_run_is_raised_before_it_starts(small, tmp_path: Path) -> None:
    with pytest.raises(UnknownEncoder, match="beph-mini"):
        ingest([small], tmp_path / "S", options=IngestOptions(encoder="beph-mimi"))
    with pytest.raises(UsageError, match="224"):
        ingest([small], tmp_path / "S", options=IngestOptions(tile_px=256))
    for absurd in (
        {"mpp": 0.0},
        {"mpp": float("inf")},
        {"mpp": 1e9},
        {"tile_px": 0},
        {"stride_px": 0},
        {"workers": 0},
    ):
        with pytest.raises(UsageError):
            ingest([small], tmp_path / "S", options=IngestOptions(**absurd))
    assert not (tmp_path / "S").exists()


def test_a_finer_scale_than_the_slide_has_fails_by_name(small, tmp_path: Path) -> None:
    (outcome,) = ingest([small / "a.tif"], tmp_path / "S", options=IngestOptions(mpp=0.25)).slides
    assert outcome.status == "failed"
    assert "--mpp" in (outcome.error or "")


def test_two_commands_share_the_work(small, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in "abcd":
        shutil.copy(small / "a.tif", folder / f"{name}.tif")
    command = [sys.executable, "-m", "beph_store_cli", "ingest", str(folder), "--store", str(tmp_path / "S")]
    command += ["--limit-tiles", "12", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(report["tiles"] for report in reports) == 48  # nothing was encoded twice
    for report in reports:
        assert all(slide["status"] in ("done", "skipped") for slide in report["slides"])
    report = verify(Store.open(tmp_path / "S"))
    assert (report.ok, report.slides, report.tiles, report.notes) == (True, 4, 48, [])


def test_real_slides(realdata: Path, tmp_path: Path) -> None:
    report = ingest([realdata / "wsi_openslide"], tmp_path / "S", options=IngestOptions(limit_tiles=6))
    by_id = {o.slide_id: o for o in report.slides}
    assert by_id["CMU-1-Small-Region.svs"].status == "done"
    for name in ("broken.svs", "kidney-48-5.tif", "synthetic_openslide_fixtures/unreadable.svs"):
        assert by_id[name].status == "failed"
        assert by_id[name].error
    tcga = realdata / "wsi_openslide" / "TCGA-CR-7395-01A-01-TS1.svs"
    assert "--slide-mpp" in (by_id[tcga.name].error or "")
    again = ingest([tcga], tmp_path / "S", options=IngestOptions(limit_tiles=6), slide_mpp=0.5)
    assert [o.status for o in again.slides] == ["done"]
    row = Store.open(tmp_path / "S").slide(again.recipe, tcga.name)
    assert (row.mpp_x, row.mpp_source) == (0.5, "declared")
