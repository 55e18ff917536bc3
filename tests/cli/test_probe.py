"""probe and probe-images by the contract."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ..engine.study.conftest import Planted, plant
from .calling import call, call_json


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


def test_probe_says_what_the_contract_asks_for(planted, tmp_path) -> None:
    said = call_json(
        "probe", planted.store, "--labels", planted.labels, "--target", "label", "--method", "knn",
        "--folds", 4, "--repeats", 2, "--shots", "1,5", "--out", tmp_path / "out",
    )  # fmt: skip
    wanted = {"method", "metrics", "folds", "shots", "classes", "cases", "tiles", "dropped", "confusion"}
    assert wanted <= set(said)
    assert (said["method"], said["cases"], len(said["folds"])) == ("knn", 48, 8)
    assert [one["shots"] for one in said["shots"]] == [1, 5]
    for name in ("accuracy", "balanced_accuracy", "auroc", "f1_macro", "f1_weighted", "recall[tumour]"):
        assert (
            said["metrics"][name]["ci_low"]
            <= said["metrics"][name]["mean"]
            <= said["metrics"][name]["ci_high"]
        )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html",
        "probe.json",
        "predictions.parquet",
    }


def test_probe_for_people_fits_the_screen_and_says_what_to_be_careful_about(planted) -> None:
    out, _ = call("probe", planted.store, "--labels", planted.labels, "--target", "label", "--shuffle-labels")
    assert "balanced accuracy" in out
    assert "note: The labels were exchanged" in out
    assert max(map(len, out.splitlines())) <= 100


def test_probe_images_of_a_folder(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 90), ("pale", 220)):
        for number in range(6):
            pixels = np.clip(level + rng.normal(0, 20, (80, 120, 3)), 0, 255).astype(np.uint8)
            path = tmp_path / "set" / name / f"P{number}-1.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    command = (
        "probe-images",
        tmp_path / "set",
        "--layout",
        "folders",
        "--out",
        tmp_path / "out",
        "--folds",
        3,
    )
    _, err = call(*command, code=2)
    assert "120 × 80 px" in err
    out, _ = call(*command, "--fit", "squeeze")
    assert "accuracy of cases" in out
    assert max(map(len, out.splitlines())) <= 100
    said = call_json(*command, "--fit", "squeeze", "--case-pattern", r"(P\d)")
    assert (said["cases"], said["tiles"], said["by_patient"]) == (6, 12, True)
    assert said["vectors"]["sizes"] == {"120 × 80": 12}
    assert said["metrics"]["accuracy"]["mean"] > 0.8


@pytest.mark.parametrize(
    ("extra", "code", "cure"),
    [
        (("--method", "svm"), 2, "choose from linear, knn"),
        (("--shots", "few"), 2, "1,5,10,25"),
        (("--k", "some"), 2, "auto"),
        (("--target", "grade"), 1, "grade"),
        (("--folds", "2"), 1, "at least 3"),
        (("--where", "colour = 1"), 1, "columns:"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_a_cure(planted, extra, code, cure) -> None:
    _, err = call("probe", planted.store, "--labels", planted.labels, *extra, code=code)
    assert cure in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
