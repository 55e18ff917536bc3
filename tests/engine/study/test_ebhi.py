"""Real tissue with real labels, assembled to slides, from the slide to the figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from beph_store.cohort import ColumnChoice
from beph_store.engine.ingest import ingest
from beph_store.engine.study.data import load_study
from beph_store.engine.study.run import train_to
from beph_store.engine.study.train import TrainOptions
from beph_store.testing.assemble import assemble_ebhi, plant_survival

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(900)]
FAST = TrainOptions(draws=1000)
THREE = {
    "normal": "benign",
    "polyp": "benign",
    "serrated_adenoma": "benign",
    "low_grade_in": "neoplasia",
    "high_grade_in": "neoplasia",
    "adenocarcinoma": "carcinoma",
}


@pytest.fixture(scope="module")
def ebhi(realdata: Path, tmp_path_factory) -> Path:
    """Every field of EBHI-Seg in a store, with three tables of labels; 162 cases."""
    folder = tmp_path_factory.mktemp("ebhi")
    labels = assemble_ebhi(realdata / "ebhi_seg", folder / "slides")
    report = ingest([folder / "slides"], folder / "S", manifest=folder / "slides" / "labels.csv")
    assert not report.failed
    three = pl.col("case_label").replace_strict(THREE)
    labels = labels.with_columns(three=three, two=three.replace(["benign", "neoplasia"], ["other", "other"]))
    plant_survival(labels, by="optical_density", strength=2.0).write_csv(folder / "labels.csv")
    return folder


def _train(ebhi: Path, out: Path, target: str, options: TrainOptions = FAST):
    study = load_study(ebhi / "S", ebhi / "labels.csv", "classify", columns=ColumnChoice(target=target))
    return train_to(out, study, options)


def test_adenocarcinoma_is_told_from_the_rest(ebhi, tmp_path) -> None:
    report = _train(ebhi, tmp_path / "a", "two")
    auroc = report.evaluation.metrics["auroc"]
    assert auroc.value > 0.9
    assert auroc.ci_low > 0.85
    assert _train(ebhi, tmp_path / "b", "two").to_json()["metrics"] == report.to_json()["metrics"]
    assert not any("have seen the slides" in text for text in report.warnings)


def test_three_classes(ebhi, tmp_path) -> None:
    report = _train(ebhi, tmp_path / "out", "three")
    assert report.evaluation.metrics["auroc"].value > 0.85
    assert report.evaluation.metrics["auroc"].ci_low > 0.8


def test_shuffled_labels_sit_at_chance(ebhi, tmp_path) -> None:
    values = [
        _train(ebhi, tmp_path / str(seed), "two", dataclasses.replace(FAST, seed=seed, shuffle_labels=True))
        .evaluation.metrics["auroc"]
        .value
        for seed in range(5)
    ]
    assert 0.4 < sum(values) / len(values) < 0.6


def test_a_planted_survival_signal_is_recovered_from_the_images(ebhi, tmp_path) -> None:
    """The outcomes are simulated from the fields' optical density; a head must find that in the embeddings."""
    columns = ColumnChoice(
        event="simulated_event", event_means="event", time="simulated_time_days", time_unit="days"
    )
    study = load_study(ebhi / "S", ebhi / "labels.csv", "survive", columns=columns)
    found = train_to(tmp_path / "out", study, FAST).evaluation.metrics["cindex_harrell"]
    assert found.ci_low > 0.6
    control = train_to(tmp_path / "control", study, dataclasses.replace(FAST, shuffle_labels=True))
    assert abs(control.evaluation.metrics["cindex_harrell"].value - 0.5) < 0.1
