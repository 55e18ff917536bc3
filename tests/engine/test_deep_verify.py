"""``verify --deep``: tiles read and embedded again agree with the store, and what cannot be compared is told."""

from __future__ import annotations

import json
import shutil

import lance
import numpy as np
import pytest

from beph_store.engine.deep_verify import DeepOptions, _draw, agreement, tolerance
from beph_store.engine.deep_verify import deep_verify as run_deep
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.tile_child import TileChild
from beph_store.errors import RecipeMismatch
from beph_store.store import Store, verify
from beph_store.testing.synthetic import SlidePlan, write_slide

from ..cli.calling import call_json

CHILD = TileChild()  # one process for all of these tests
OPTIONS = DeepOptions(sample=12, seed=1, runtime="onnxruntime")


def deep_verify(store, options, progress=None):
    return run_deep(store, options, progress, CHILD)


@pytest.fixture(scope="module", autouse=True)
def ended():
    with CHILD:
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of two drawn slides, nine tiles each; ``kept.tif`` with its pixels. Read only."""
    home = tmp_path_factory.mktemp("deep")
    for name, seed in (("plain.tif", 3), ("kept.tif", 5)):
        write_slide(home / name, SlidePlan(size=(2048, 2048), seed=seed, nuisances=()))
    few = IngestOptions(limit_tiles=9, runtime="onnxruntime", workers=1)
    ingest([home / "plain.tif"], home / "S", options=few)
    ingest([home / "kept.tif"], home / "S", options=IngestOptions(**{**_fields(few), "keep_tiles": True}))
    return home


def _fields(options):
    return {name: getattr(options, name) for name in options.__slots__}


@pytest.fixture
def own(made, tmp_path):
    """A copy to damage; its slides are those of ``made``."""
    return Store.open(shutil.copytree(made / "S", tmp_path / "S"))


def test_a_sound_store_agrees(made):
    seen = []
    report = deep_verify(Store.open(made / "S"), OPTIONS, lambda done, of: seen.append((done, of)))
    assert report.problems == []
    assert report.notes == []
    assert (report.asked, report.tiles, report.slides) == (12, 12, 2)
    assert report.worst > 0.9999
    assert seen[-1] == (12, 12)


def test_the_same_seed_draws_the_same_tiles_and_every_tile_once(made):
    store = Store.open(made / "S")

    def drawn(sample, seed):
        (_, wanted), *_ = _draw(store, store.recipes(), DeepOptions(sample, seed))
        return [(row.slide_id, int(tile)) for row, index in wanted for tile in index]

    assert drawn(7, 1) == drawn(7, 1) != drawn(7, 2)
    assert len(set(drawn(99, 0))) == len(drawn(99, 0)) == 18


def swapped(store: Store, slide_id: str) -> None:
    """Two tiles of a slide change their vectors, and its hash in the registry is made to fit: `verify` is content."""
    key = store.recipe().recipe.key
    row = store.slide(key, slide_id)
    rows = store.slide_rows(row)
    vectors = rows.vectors.copy()
    vectors[[0, 8]] = vectors[[8, 0]]
    changed = type(rows)(rows.origin_l0, rows.tissue, rows.ok, vectors)
    path = str(store.layout.tiles(key))
    lance.dataset(path).delete(f"slide_id = '{slide_id}'")
    lance.write_dataset(changed.to_table(slide_id, row.ingest_id), path, mode="append")
    store.registry.dataset().update({"sha256": f"'{changed.sha256()}'"}, where=f"key = '{row.key}'")


def test_vectors_of_other_tiles_are_found_where_the_hash_was_forged(own):
    swapped(own, "plain.tif")
    assert verify(own).ok
    report = deep_verify(own, DeepOptions(sample=18, runtime="onnxruntime"))
    (problem,) = report.problems
    assert "slide plain.tif" in problem
    assert "2 of 9 tiles" in problem
    assert "tile 0 (" in problem


def test_a_slide_that_is_gone_is_told_and_not_held_against_the_store(own, made, tmp_path):
    moved(own, "plain.tif", str(tmp_path / "gone.tif"))
    report = deep_verify(own, OPTIONS)
    assert report.ok
    assert report.slides == 1
    assert any("plain.tif" in note and "no longer at" in note for note in report.notes)


def test_kept_tiles_stand_in_for_a_slide_that_is_gone(own, tmp_path):
    moved(own, "kept.tif", str(tmp_path / "gone.tif"))
    report = deep_verify(own, OPTIONS)
    assert report.ok
    assert report.tiles == 12
    assert report.from_kept > 0


@pytest.mark.parametrize("what", ["another slide", "a folder", "nothing to read", "a FIFO"])
def test_another_file_in_its_place_is_told(own, made, tmp_path, what):
    import os

    place = tmp_path / "place.tif"
    if what == "another slide":
        shutil.copy(made / "kept.tif", place)
    elif what == "a folder":
        place.mkdir()
    elif what == "a FIFO":
        os.mkfifo(place)
    else:
        place.write_bytes(b"II*\0")
    moved(own, "plain.tif", str(place))
    report = deep_verify(own, OPTIONS)
    assert report.ok
    assert report.slides == 1
    assert any("plain.tif" in note for note in report.notes)


def moved(store: Store, slide_id: str, path: str) -> None:
    store.registry.dataset().update({"path": f"'{path}'"}, where=f"slide_id = '{slide_id}'")


def test_another_encoder_is_told_or_refused(own, tmp_path):
    key = own.recipe().recipe.key
    record = json.loads(own.layout.recipe(key).read_bytes())
    own.layout.recipe(key).write_text(json.dumps(record | {"encoder_source": str(tmp_path / "nowhere")}))
    report = deep_verify(own, OPTIONS)
    assert (report.ok, report.tiles, len(report.notes)) == (True, 0, 1)
    assert deep_verify(own, DeepOptions(4, encoder="beph-mini", runtime="onnxruntime")).tiles == 4
    with pytest.raises(RecipeMismatch):
        deep_verify(own, DeepOptions(4, recipe="ffff"))


def test_the_tolerance_follows_the_gate():
    assert tolerance("fp32", {}) == pytest.approx(0.9996, abs=1e-4)
    assert tolerance("bf16", {}) == pytest.approx(0.980, abs=1e-3)
    assert tolerance("int8", {}) == pytest.approx(0.921, abs=1e-3)
    worst = {"onnxruntime int8": {"minimum": 0.9}, "fp16": {"minimum": 0.1}}
    assert tolerance("int8", worst) == pytest.approx(0.62)


def test_agreement_leaves_out_what_all_vectors_share():
    rng = np.random.default_rng(0)
    common = np.full(16, 100.0)
    stored = (common + rng.normal(size=(8, 16))).astype(np.float32)
    other = (common + rng.normal(size=(8, 16))).astype(np.float32)
    centre = common.astype(np.float64)
    assert (agreement(stored, stored.astype(np.float16).astype(np.float32), centre) == 1).all()
    assert agreement(stored, other + 3, centre).max() < 0.9  # the plain cosine is above 0.999
    assert agreement(stored, np.full_like(stored, np.nan), centre).max() == -1


def test_the_command(own):
    found = call_json("verify", own.layout.root, "--deep", "--sample", 6)
    assert (found["ok"], found["deep"]["tiles"]) == (True, 6)
    swapped(own, "kept.tif")
    found = call_json("verify", own.layout.root, "--deep", "--sample", 18, code=1)
    assert found["ok"] is False
    assert "not what its pixels give" in found["problems"][0]


def test_no_tiles_at_all(tmp_path):
    store = Store.create(tmp_path / "S", written_by="test")
    assert deep_verify(store, OPTIONS).asked == 0
