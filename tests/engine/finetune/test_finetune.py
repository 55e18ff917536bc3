"""From images to a model: what is kept says what the figures were made of, and a run can be stopped anywhere."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from beph_store.cohort.image_sets import read_image_set
from beph_store.cohort.tile_splits import SplitChoice
from beph_store.encoders import load_bundle
from beph_store.engine.embed import embed
from beph_store.engine.finetune import fits, keep
from beph_store.engine.finetune.data import DataChoice, ImageTiles, gather
from beph_store.engine.finetune.report import KNOWN, check_folder, predictions, render, write
from beph_store.engine.finetune.run import finetune
from beph_store.errors import CohortError, ParityFailed, UsageError
from beph_store.heads.tile_classifier import load_classifier
from beph_store.metrics.tiles import patient_accuracy
from beph_store.runtimes import select_runtime

from .conftest import COLOURS, OPTIONS, draw


@pytest.fixture
def no_export(monkeypatch):
    """Exporting takes seconds, and these tests are about something else."""
    monkeypatch.setattr("beph_store.engine.finetune.run.keep", lambda *_: None)


def test_bundle_and_classifier_say_what_the_figures_were_made_of(world):
    """ONNX Runtime on the exported graph, then NumPy: the chances of predictions.parquet."""
    bundle, head = load_bundle(world.out / "bundle"), load_classifier(world.out)
    assert (bundle.spec.name, bundle.spec.mpp) == ("beph-finetuned", 0.4)
    assert head.weights_sha256 == bundle.spec.weights_sha256
    assert world.result.kept.encoder == bundle.spec
    tiles = world.result.tiles
    source = ImageTiles(world.images.root, tuple(tiles.names["path"]), 48, "crop")
    runtime = select_runtime("onnxruntime", bundle.onnx_path(), bundle.spec)
    pixels = np.stack([source.tile(row) for row in range(len(tiles))])
    said = head.probabilities(runtime.encode(pixels))
    np.testing.assert_allclose(said, world.result.said, atol=2e-4)
    assert head.classes == tiles.classes == ("dark", "green", "pale")


def test_it_has_learned_and_the_figures_are_of_cases_it_had_not_seen(world):
    result = world.result
    assert result.metrics["accuracy"].value > 0.9
    (fold,) = result.folds
    assert fold.train.cases + fold.val.cases + fold.test.cases == 18
    assert len(result.tiles) == fold.test.tiles
    frame = predictions(result)
    assert frame.columns == [
        "path",
        "case_id",
        "fold",
        "label",
        "predicted",
        "p[dark]",
        "p[green]",
        "p[pale]",
    ]
    right = (frame["label"] == frame["predicted"]).mean()
    assert result.metrics["accuracy"].value == pytest.approx(right)
    few = [k for k in range(3) if len(set(result.tiles.case[result.tiles.truth == k])) < 3]
    assert sum("hang on them" in text for text in result.warnings) == len(few)
    assert any("48 × 48" not in note and "56 × 48" in note for note in result.tiles.notes)


def test_the_folder_holds_what_is_promised_and_the_page_says_what_to_be_careful_about(world, tmp_path):
    write(world.result, world.out)
    assert {path.name for path in world.out.iterdir()} <= KNOWN
    data = json.loads((world.out / "finetune.json").read_text())
    assert {"metrics", "folds", "kept", "confusion", "options", "versions", "machine"} <= set(data)
    assert data["folds"][0]["epochs"] == len((world.out / "log.jsonl").read_text().splitlines()) <= 4
    assert data["kept"]["bundle"] == str(world.out / "bundle")
    assert pl.read_parquet(world.out / "predictions.parquet").height == len(world.result.tiles)
    html = (world.out / "report.html").read_text()
    for text in (
        "No case is on two sides",
        "has seen the training and validation cases",
        "Confusion",
        "56 × 48",
    ):
        assert text in html
    assert not list(world.out.rglob("checkpoint.pt"))
    check_folder(world.out)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match=r"holds other things \(mine\.txt"):
        check_folder(tmp_path)


def test_the_same_again_finds_everything_done_and_other_settings_are_refused(world, monkeypatch):
    def never(*_):
        raise AssertionError("nothing is left to train or to export")

    monkeypatch.setattr(fits.Fits, "_train", never)
    monkeypatch.setattr(keep, "_write", never)
    again = finetune(world.images, world.table, world.out, world.choice(mpp=0.4))
    assert (again.said == world.result.said).all()
    assert again.metrics == world.result.metrics
    assert again.kept == world.result.kept
    slower = dataclasses.replace(OPTIONS, lr=1e-3, epochs=9)
    with pytest.raises(UsageError, match=r"with another epochs, lr: choose another --out"):
        finetune(world.images, world.table, world.out, world.choice(mpp=0.4, options=slower))
    fewer = dataclasses.replace(world.images, images=world.images.images[3:])
    with pytest.raises(UsageError, match=r"another images, split"):
        finetune(fewer, world.table, world.out, world.choice(mpp=0.4))


@pytest.mark.parametrize("stop", [("fold-0", 2), ("fold-1", 1), ("final", 3)])
def test_a_run_that_was_stopped_goes_on_and_ends_alike(world, tmp_path_factory, stop, no_export, whole_folds):
    out = tmp_path_factory.mktemp("stopped")
    choice = world.choice(data=DataChoice(split=SplitChoice(folds=3)))
    heard = []

    def halt(step):
        heard.append(step)
        if step.epoch is not None and (step.fit, step.epoch.number) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(world.images, world.table, out, choice, progress=halt)
    told = []
    again = finetune(world.images, world.table, out, choice, progress=told.append)
    assert (again.said == whole_folds.said).all()
    trained = [(s.fit, s.epoch.number) for s in told if s.epoch is not None]
    assert stop not in trained  # it was done when the run was stopped
    assert not set(trained) & {(s.fit, s.epoch.number) for s in heard if s.epoch is not None}
    assert told[-1].done == told[-1].total
    assert all(a.done <= b.done for a, b in pairwise(told))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    fits_of = {fit.name: len(fit.history) for fit in (*again.folds, again.final)}
    assert {name: sum(line["fit"] == name for line in lines) for name in fits_of} == fits_of
    assert [line["train_loss"] for line in lines if line["fit"] == "fold-1"] == [
        epoch.train_loss for epoch in whole_folds.folds[1].history
    ]


@pytest.fixture(scope="module")
def whole_folds(world, tmp_path_factory):
    """Cross-validation without a stop, nothing exported. Read only."""
    choice = world.choice(data=DataChoice(split=SplitChoice(folds=3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beph_store.engine.finetune.run.keep", lambda *_: None)
        return finetune(world.images, world.table, tmp_path_factory.mktemp("whole"), choice)


def test_cross_validation_asks_every_tile_once_and_then_trains_on_all(world, whole_folds):
    assert len(whole_folds.tiles) == 54
    assert np.isfinite(whole_folds.said).all()
    assert np.bincount(whole_folds.fold).tolist() == [fold.test.tiles for fold in whole_folds.folds]
    assert whole_folds.final.test.tiles == 0
    assert whole_folds.final.train.cases + whole_folds.final.val.cases == 18
    for number, fold in enumerate(whole_folds.folds):
        rows = whole_folds.fold == number
        right = (whole_folds.said[rows].argmax(axis=1) == whole_folds.tiles.truth[rows]).mean()
        assert fold.metrics["accuracy"] == pytest.approx(right)
    assert "on all cases, after the folds" not in render(whole_folds)  # no model was kept
    none = gather(world.images, world.table, whole_folds.base, DataChoice(split=SplitChoice(3)), final=False)
    assert none.final is None


def test_a_graph_in_fp16_that_fails_its_gate_does_not_cost_the_run(monkeypatch, tmp_path):
    asked = []

    def export(encoder, out, options=None):
        asked.append(options)
        if options is None:
            raise ParityFailed("the fp16 graph")

    encoder = SimpleNamespace(spec=SimpleNamespace(name="tiny-finetuned", weights_sha256="0" * 64))
    monkeypatch.setattr("beph_store.encoders.torch_side.export.export_loaded", export)
    monkeypatch.setattr("beph_store.encoders.torch_side.trainable.trained", lambda *_, mpp: encoder)
    monkeypatch.setattr("beph_store.encoders.torch_side.trainable.write_weights", lambda *_: None)
    weight, bias = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    fitted = SimpleNamespace(encoder={}, weight=weight, bias=bias)
    keep._write(tmp_path, fitted, None, ("a", "b"), None)
    assert [options and options.fp16_twin for options in asked] == [None, False]
    assert load_classifier(tmp_path).encoder == "tiny-finetuned"


def test_breakhis_has_figures_by_magnification_and_their_mean(world, tmp_path, no_export):
    rng = np.random.default_rng(0)
    for number in range(12):
        colour, letters = (("dark", "M_DC"), ("pale", "B_A"))[number % 2]
        for magnification in (40, 200):
            path = tmp_path / "set" / f"SOB_{letters}-14-{100 + number}-{magnification}-001.png"
            path.parent.mkdir(exist_ok=True)
            draw(colour, (72, 48), rng).save(path)
    images = read_image_set(tmp_path / "set", "breakhis")
    short = dataclasses.replace(OPTIONS, epochs=2)
    result = finetune(images, tmp_path / "set", tmp_path / "out", world.choice(options=short))
    assert set(result.groups) == {"40", "200"}
    for name in ("accuracy", "patient_accuracy", "balanced_accuracy"):
        each = [result.groups[group][name].value for group in ("40", "200")]
        assert result.metrics[name].value == pytest.approx(np.mean(each))
        assert result.spread[name] == pytest.approx(np.std(each))
    rows = result.tiles.group == 1
    by_hand = patient_accuracy(result.said[rows], result.tiles.truth[rows], result.tiles.case[rows])[0]
    assert result.groups["200"]["patient_accuracy"].value == pytest.approx(by_hand)
    assert "One model learned from all groups" in render(result)
    only = gather(images, tmp_path, result.base, DataChoice(only_group="200"))
    assert only.tiles.groups == ("200",)
    with pytest.raises(UsageError, match=r"--only-group 400: no image is of it; there are 200, 40"):
        gather(images, tmp_path, result.base, DataChoice(only_group="400"))


def test_a_split_of_the_table_is_followed_and_a_leak_refused(world, tmp_path):
    choice = DataChoice(split_column="part")
    found = gather(world.images, world.table, world.result.base, choice)
    (split,) = found.splits
    assert {found.tiles.case_ids[i] for i in found.tiles.case[split.test]} == {f"C{i}" for i in range(12, 18)}
    assert found.final is None
    with pytest.raises(UsageError, match="leave one of them out"):
        gather(
            world.images, world.table, world.result.base, dataclasses.replace(choice, split=SplitChoice(3))
        )
    leaking = tmp_path / "leaking.csv"
    text = world.table.read_text().replace("dark/C00-0.png,dark,C00,train", "dark/C00-0.png,dark,C00,test")
    leaking.write_text(text)
    with pytest.raises(CohortError, match=r"1 cases are on several sides .*C00"):
        gather(world.images, leaking, world.result.base, choice)


def test_what_cannot_be_read_is_left_out_and_a_middle_that_is_not_there_refused(world, tmp_path):
    rng = np.random.default_rng(1)
    for colour in COLOURS:
        for case in range(5):
            path = tmp_path / colour / f"{colour}{case}.png"
            path.parent.mkdir(exist_ok=True)
            draw(colour, (60, 40), rng).save(path)
    (tmp_path / "dark" / "dark4.png").write_bytes(b"no image")
    truncated = (tmp_path / "pale" / "pale4.png").read_bytes()
    (tmp_path / "pale" / "pale4.png").write_bytes(truncated[: len(truncated) // 2])
    images = read_image_set(tmp_path, "folders")
    found = gather(images, tmp_path, world.result.base, DataChoice(split=SplitChoice(4)))
    assert sorted(one.id for one in found.tiles.dropped) == ["dark/dark4.png", "pale/pale4.png"]
    assert len(found.tiles) == 13
    with pytest.raises(UsageError, match="60 × 40 px has no middle of 48 px"):
        gather(images, tmp_path, world.result.base, DataChoice(fit="centre", split=SplitChoice(4)))


def test_the_new_encoder_embeds_like_any_other(world, tmp_path):
    Image.fromarray(np.full((48, 48, 3), 200, np.uint8)).save(tmp_path / "t.png")
    vectors = embed([tmp_path / "t.png"], encoder=str(world.out / "bundle"))
    assert vectors.shape == (1, 32)


def test_few_real_fields(realdata, tmp_path, world, no_export):
    """EBHI: two classes of a few cases each, by the tiny encoder on their middle; only that all parts fit together."""
    table = realdata / "ebhi_seg" / "manifest.csv"
    whole = read_image_set(table, "csv")
    cases: dict[str, list[str]] = {"adenocarcinoma": [], "polyp": []}
    for image in whole.images:
        mine = cases.get(image.label)
        if mine is not None and image.case_id not in mine and len(mine) < 6:
            mine.append(image.case_id)
    named = {case for listed in cases.values() for case in listed}
    seen: dict[str, int] = {}
    few = []
    for image in whole.images:
        if image.case_id in named and image.label in cases and seen.setdefault(image.case_id, 0) < 3:
            seen[image.case_id] += 1
            few.append(image)
    images = dataclasses.replace(whole, images=tuple(few))
    short = dataclasses.replace(OPTIONS, epochs=2)
    data = DataChoice(split=SplitChoice(test_fraction=0.34))
    result = finetune(images, table, tmp_path / "out", world.choice(options=short, data=data))
    assert result.tiles.classes == ("adenocarcinoma", "polyp")
    assert 0 <= result.metrics["balanced_accuracy"].value <= 1
    assert result.base.tile_px == 48
    few_cases = [len(set(result.tiles.case[result.tiles.truth == k])) < 3 for k in range(2)]
    assert sum("hang on them" in text for text in result.warnings) == sum(few_cases)
