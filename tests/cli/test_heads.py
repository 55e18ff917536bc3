"""train, predict, compare, heatmap, splits and import by the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from ..engine.study.conftest import Planted, plant
from .calling import call, call_json


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def trained(planted, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("trained") / "out"
    said = call_json(
        "train", planted.store, "--task", "classify", "--cohort", planted.labels, "--target", "label",
        "--folds", 4, "--seed", 1, "--out", out,
    )  # fmt: skip
    return out, said


def test_train_says_what_the_contract_asks_for(trained) -> None:
    out, said = trained
    assert {"mean", "ci_low", "ci_high"} <= set(said["metrics"]["auroc"])
    assert len(said["folds"]) == 4
    assert (out / "report.html").exists()
    assert pl.read_parquet(out / "predictions.parquet").height == said["cases"] == 48


def test_splits_are_written_and_read_again(planted, tmp_path) -> None:
    common = ("train", planted.store, "--task", "classify", "--cohort", planted.labels, "--target", "label")
    first = call_json(*common, "--out", tmp_path / "a", "--folds", 3, "--save-splits", tmp_path / "splits")
    assert len(list((tmp_path / "splits").glob("splits_*.csv"))) == 3
    again = call_json(*common, "--out", tmp_path / "b", "--splits", tmp_path / "splits")
    assert again["metrics"]["auroc"] == first["metrics"]["auroc"]


def test_train_for_people_shows_the_interval_and_where_to_look(planted, tmp_path) -> None:
    out, _ = call(
        "train", planted.store, "--task", "survive", "--cohort", planted.labels, "--out", tmp_path / "out"
    )
    assert "Harrell's C" in out
    assert "report.html" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("extra", "code", "cure"),
    [
        (("--task", "regress"), 2, "choose from classify, survive"),
        (("--task", "classify", "--target", "grade"), 1, "grade"),
        (("--task", "classify", "--target", "label", "--head", "abmill"), 2, "choose from linear, abmil"),
        (("--task", "classify", "--target", "label", "--precision", "fp8"), 2, "choose from auto, fp32"),
        (("--task", "classify", "--target", "label", "--folds", "30"), 1, "--folds 24"),
        (("--task", "survive", "--time-unit", "fortnights"), 2, "--time-unit"),
    ],
)
def test_what_cannot_be_meant_is_one_line(planted, tmp_path, extra, code, cure) -> None:
    _, errors = call(
        "train", planted.store, "--cohort", planted.labels, "--out", tmp_path / "out", *extra, code=code
    )
    assert len(errors.strip().splitlines()) == 1
    assert errors.startswith("error: ")
    assert cure in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("flag", "value"), [("--folds", 1), ("--seed", -1), ("--draws", 0), ("--epochs", 0)])
def test_numbers_that_cannot_be_meant_are_usage_errors(planted, tmp_path, flag, value) -> None:
    said = call_json(
        "train", planted.store, "--task", "classify", "--cohort", planted.labels, "--out", tmp_path / "out",
        flag, value, code=2,
    )  # fmt: skip
    assert said["ok"] is False
    assert flag in said["error"]


def test_predict_to_a_file_and_to_json(trained, planted, tmp_path) -> None:
    out, _ = trained
    said = call_json("predict", planted.store, "--head", out, "-o", tmp_path / "p.csv")
    frame = pl.read_csv(tmp_path / "p.csv")
    assert said["cases"] == frame.height == 48
    assert {"case_id", "predicted", "p_normal", "p_tumour", "held_out"} <= set(frame.columns)


def test_a_heatmap_is_a_picture_or_geojson(trained, planted, tmp_path) -> None:
    out, _ = trained
    said = call_json(
        "heatmap", planted.store, "--head", out, "--slide", "site1/c01-0", "-o", tmp_path / "h.png"
    )
    assert said["held_out"] is True
    with Image.open(tmp_path / "h.png") as image:
        assert image.width > 300
    call("heatmap", planted.store, "--head", out, "--slide", "site1/c01-0.svs", "-o", tmp_path / "h.geojson")
    features = json.loads((tmp_path / "h.geojson").read_text())["features"]
    assert len(features) == said["tiles"]
    _, errors = call(
        "heatmap", planted.store, "--head", out, "--slide", "site1/c01-0", "-o", tmp_path / "h.jpg", code=2
    )
    assert ".png or .geojson" in errors


def test_the_heatmap_is_high_where_the_signal_was_planted(trained, planted, tmp_path) -> None:
    out, _ = trained
    arguments = ("heatmap", planted.store, "--head", out, "--slide", "site1/c01-0", "--class", "tumour")
    call(*arguments, "-o", tmp_path / "h.geojson")
    features = json.loads((tmp_path / "h.geojson").read_text())["features"]
    values = [next(iter(f["properties"]["measurements"].values())) for f in features]
    shifted = len(values) // 3
    assert min(values[:shifted]) > sum(values[shifted:]) / len(values[shifted:])


def test_compare_a_training_with_itself_and_with_another(trained, planted, tmp_path) -> None:
    out, _ = trained
    same = call_json("compare", out, out)
    assert same["differences"][0]["metrics"]["auroc"]["difference"] == 0
    call(
        "train", planted.store, "--task", "classify", "--cohort", planted.labels, "--target", "label",
        "--folds", 4, "--seed", 1, "--train-fraction", 0.3, "--out", tmp_path / "third",
    )  # fmt: skip
    found = call_json("compare", out, tmp_path / "third", "-o", tmp_path / "c.html")
    difference = found["differences"][0]["metrics"]["auroc"]
    assert difference["ci_low"] <= difference["difference"] <= difference["ci_high"]
    assert "DeLong" in (tmp_path / "c.html").read_text()


def test_trainings_on_other_cases_are_not_compared(trained, planted, tmp_path) -> None:
    out, _ = trained
    rows = planted.labels.read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(rows[:-6]))
    call(
        "train", planted.store, "--task", "classify", "--cohort", tmp_path / "fewer.csv", "--target", "label",
        "--out", tmp_path / "fewer",
    )  # fmt: skip
    _, errors = call("compare", out, tmp_path / "fewer", code=1)
    assert "tested different cases" in errors


def test_splits_that_leak_are_exit_1(tmp_path) -> None:
    (tmp_path / "splits_0.csv").write_text(
        "train,val,test\nTCGA-AA-0001-01Z-00-DX1,TCGA-AA-0003-01Z-00-DX1,TCGA-AA-0001-01Z-00-DX2\n"
    )
    said = call_json("splits", tmp_path, code=1)
    assert said["leaks"][0]["kind"] == "cases"
    (tmp_path / "splits_0.csv").write_text(
        "train,val,test\nTCGA-AA-0001-01Z-00-DX1,TCGA-AA-0003-01Z-00-DX1,TCGA-AA-0002-01Z-00-DX2\n"
    )
    assert call_json("splits", tmp_path)["ok"] is True


def test_import_a_table_and_train_on_it(tmp_path) -> None:
    rows = (
        f"s{i},{i % 2 + i / 100},{1 - i % 2},{100 + 200 * (i % 2) + i},{int(i % 3 > 0)}" for i in range(24)
    )
    (tmp_path / "t.csv").write_text("\n".join(["slide_id,a_rna,b_rna,days,event", *rows, "bad,,1,5,1"]))
    said = call_json(
        "import", "table", tmp_path / "t.csv", "--store", tmp_path / "S", "--columns", ".*_rna", code=1
    )
    assert [s["slide_id"] for s in said["slides"] if s["status"] == "failed"] == ["bad"]
    found = call_json(
        "train", tmp_path / "S", "--task", "survive", "--cohort", tmp_path / "t.csv", "--folds", 3,
        "--case-column", "slide_id", "--out", tmp_path / "out",
    )  # fmt: skip
    assert found["metrics"]["cindex_harrell"]["mean"] > 0.6
