"""From labels to figures: what is planted is found, what is not is not, and every figure can be computed again."""

from __future__ import annotations

import csv
import dataclasses
import json
import re

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv

from beph_store.cohort import ColumnChoice
from beph_store.engine.study.compare import compare
from beph_store.engine.study.data import load_study
from beph_store.engine.study.run import train_to
from beph_store.engine.study.train import SplitOptions, TrainOptions, make_splits, with_val
from beph_store.engine.study.trained import TrainedRun, predict
from beph_store.errors import CohortError, HeadError, RecipeMismatch, UsageError
from beph_store.heads import HeadOptions
from beph_store.store import Store

from .conftest import plant

FAST = TrainOptions(draws=200)


@pytest.fixture(scope="module")
def classified(planted, tmp_path_factory):
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    return train_to(tmp_path_factory.mktemp("classified") / "out", study, FAST)


@pytest.fixture(scope="module")
def survived(planted, tmp_path_factory):
    study = load_study(planted.store, planted.labels, "survive")
    return train_to(tmp_path_factory.mktemp("survived") / "out", study, FAST)


def test_what_is_planted_is_found_and_has_an_interval(classified) -> None:
    auroc = classified.evaluation.metrics["auroc"]
    assert auroc.value > 0.9
    assert auroc.ci_low <= auroc.value <= auroc.ci_high
    assert len(classified.evaluation.folds) == 5


def test_every_case_is_tested_once_by_a_head_that_had_not_seen_it(classified) -> None:
    frame = pl.read_parquet(classified.out / "predictions.parquet")
    assert sorted(frame["case_id"]) == sorted(classified.training.study.case_ids)
    for split in classified.training.splits:
        tested = set(frame.filter(pl.col("split") == split.name)["case_id"])
        assert tested == set(split.test)
        assert not tested & {*split.train, *split.val}


def test_the_figures_are_those_of_the_predictions_by_scikit_learn(classified) -> None:
    frame = pl.read_parquet(classified.out / "predictions.parquet")
    found = classified.to_json()["metrics"]
    truth = (frame["label"] == "tumour").to_numpy()
    assert found["auroc"]["mean"] == pytest.approx(roc_auc_score(truth, frame["p_tumour"]), abs=1e-12)
    expected = balanced_accuracy_score(frame["label"].to_list(), frame["predicted"].to_list())
    assert found["balanced_accuracy"]["mean"] == pytest.approx(expected, abs=1e-12)


def test_the_concordances_are_those_of_scikit_survival(survived) -> None:
    frame = pl.read_parquet(survived.out / "predictions.parquet")
    found = survived.to_json()["metrics"]
    event, time, risk = (frame[name].to_numpy() for name in ("event", "time_days", "log_hazard"))
    assert found["cindex_harrell"]["mean"] == pytest.approx(
        concordance_index_censored(event, time, risk)[0], abs=1e-9
    )
    outcomes = Surv.from_arrays(event, time)
    assert found["cindex_uno"]["mean"] == pytest.approx(
        concordance_index_ipcw(outcomes, outcomes, risk)[0], abs=1e-9
    )
    assert found["cindex_harrell"]["mean"] > 0.55


def test_the_same_seed_gives_the_same_figures(classified, planted, tmp_path) -> None:
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    again = train_to(tmp_path / "out", study, FAST)
    assert again.to_json()["metrics"] == classified.to_json()["metrics"]
    other = train_to(tmp_path / "other", study, dataclasses.replace(FAST, seed=1))
    assert other.to_json()["folds"] != classified.to_json()["folds"]


def test_shuffled_labels_sit_at_chance(planted, tmp_path) -> None:
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    values = []
    for seed in range(4):
        report = train_to(
            tmp_path / str(seed), study, dataclasses.replace(FAST, seed=seed, shuffle_labels=True)
        )
        values.append(report.evaluation.metrics["auroc"].value)
        assert any("shuffled" in text for text in report.warnings)
    assert 0.35 < float(np.mean(values)) < 0.65


@pytest.mark.parametrize("head", ["abmil", "clam"])
def test_attention_heads_find_it_too_and_say_where(planted, tmp_path, head) -> None:
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    options = TrainOptions(HeadOptions(head=head, epochs=12, lr=2e-3), SplitOptions(folds=3), draws=50)
    report = train_to(tmp_path / "out", study, options)
    assert report.evaluation.metrics["auroc"].value > 0.8
    said = TrainedRun.open(tmp_path / "out").heads[0].predict(study.bags.bag(0))
    assert said.attention is not None
    assert said.attention.sum() == pytest.approx(1, abs=1e-3)


def test_draws_against_one_test_set_are_rounds_of_their_own(planted, tmp_path) -> None:
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    split = SplitOptions(scheme="monte-carlo", repeats=4, train_fraction=0.5)
    report = train_to(tmp_path / "out", study, TrainOptions(split=split, draws=50))
    assert len(report.training.held_out.rounds()) == 4
    assert len({split.test for split in report.training.splits}) == 1
    frame = pl.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert frame["repeat"].n_unique() == 4


@pytest.mark.parametrize("head", ["linear", "abmil"])
def test_draws_are_ten_and_differ_whatever_the_head(planted, head) -> None:
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    options = TrainOptions(HeadOptions(head=head), SplitOptions("monte-carlo"))
    splits = make_splits(study, with_val(options), seed=0)
    assert len(splits) == 10
    assert len({split.train for split in splits}) > 5
    assert {len(split.test) for split in splits} == {5}


@pytest.mark.parametrize(
    "changed", [{"train_fraction": 0.5}, {"repeats": 2}, {"scheme": "monte-carlo"}], ids=str
)
def test_splits_that_are_handed_over_are_not_changed_in_silence(planted, tmp_path, changed) -> None:
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    flag = next(iter(changed)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{flag} cannot change splits"):
        make_splits(study, SplitOptions(given=tmp_path, **changed), seed=0)


def test_the_order_of_the_classes_is_the_users(planted, classified, tmp_path) -> None:
    columns = ColumnChoice(target="label", classes=("tumour", "normal"))
    study = load_study(planted.store, planted.labels, "classify", columns=columns)
    turned = train_to(tmp_path / "turned", study, FAST)
    assert turned.to_json()["classes"] == ["tumour", "normal"]
    assert "The positive class is normal" in (turned.out / "report.html").read_text()
    assert "The positive class is tumour" in (classified.out / "report.html").read_text()
    found = compare([classified.out, turned.out], draws=50)
    assert found.values[0]["auprc"] == classified.evaluation.metrics["auprc"].value
    assert found.differences[0]["auprc"].difference == pytest.approx(0, abs=1e-6)
    assert found.differences[0]["log_loss"].difference == pytest.approx(0, abs=1e-4)


def test_trainings_of_other_classes_are_not_compared(planted, classified, tmp_path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(planted.labels.read_text().replace("tumour", "lesion"))
    study = load_study(planted.store, labels, "classify", columns=ColumnChoice(target="label"))
    other = train_to(tmp_path / "other", study, FAST)
    with pytest.raises(CohortError, match=r"other classes \(p_lesion, p_normal\)"):
        compare([classified.out, other.out], draws=50)


def test_another_slide_of_a_patient_that_took_part_is_that_patients(classified) -> None:
    run = TrainedRun.open(classified.out)
    assert run.case_for("site1/c01-0.svs", None) == "c01"
    assert run.case_for("later/new.svs", "C01") == "c01"
    assert run.case_for("later/new.svs", None) == "later/new.svs"
    assert run.case_for("TCGA-AA-1234-01Z-00-DX2.svs", None) == "TCGA-AA-1234"


def test_the_report_says_what_was_used_in_words(classified) -> None:
    text = (classified.out / "report.html").read_text()
    assert "ridge penalty by split" in text
    assert "epochs" not in text
    assert "no case is on two sides of a split" in text


def test_a_report_is_self_contained_and_escapes_what_it_is_given(planted, tmp_path) -> None:
    rows = list(csv.reader(planted.labels.open()))
    evil = [[*row[:2], row[2].replace("tumour", "<b onload=x>"), *row[3:]] for row in rows]
    (tmp_path / "evil.csv").write_text("\n".join(",".join(row) for row in evil[:-1]))
    study = load_study(planted.store, tmp_path / "evil.csv", "classify", columns=ColumnChoice(target="label"))
    report = train_to(tmp_path / "out", study, FAST)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b onload" not in page
    assert "&lt;b onload" in page
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)
    assert not re.findall(r"url\((?!#)", page)
    assert f"{report.evaluation.metrics['auroc'].value:.3f}" in page
    assert "slide of the store without a label" in page


def test_predict_asks_the_head_that_had_not_seen_a_case(classified, planted) -> None:
    frame = predict(TrainedRun.open(classified.out), Store.open(planted.store)).sort("case_id")
    tested = pl.read_parquet(classified.out / "predictions.parquet").sort("case_id")
    assert frame["held_out"].all()
    assert frame["p_tumour"].to_list() == pytest.approx(tested["p_tumour"].to_list(), abs=1e-12)


def test_predict_averages_all_heads_over_new_cases(classified, tmp_path) -> None:
    fresh = plant(tmp_path, cases=6, seed=9)
    store = Store.open(fresh.store)
    run = TrainedRun.open(classified.out)
    rows = [row for row in store.rows(fresh.key) if row.status == "done"]
    frame = predict(run, store)
    assert frame["heads"].max() == 5 or set(frame["case_id"]) <= set(run.case_of.values())
    assert frame.height <= len(rows)


def test_a_head_refuses_another_feature_space(classified, tmp_path) -> None:
    other = plant(tmp_path, cases=4, name="another")
    with pytest.raises(RecipeMismatch, match=r"trained on recipe .* \(planted\)"):
        predict(TrainedRun.open(classified.out), Store.open(other.store))


def test_the_users_folder_is_not_written_over(classified, tmp_path) -> None:
    (tmp_path / "thesis.docx").write_text("x")
    with pytest.raises(UsageError, match=r"holds other things \(thesis.docx"):
        train_to(tmp_path, classified.training.study, FAST)


def test_what_is_no_run_is_said_so(tmp_path) -> None:
    with pytest.raises(HeadError, match=r"has no train\.json"):
        TrainedRun.open(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(HeadError, match="format 99"):
        TrainedRun.open(tmp_path)


def test_splits_that_leak_are_refused_unless_asked_for(planted, tmp_path) -> None:
    study = load_study(planted.store, planted.labels, "classify", columns=ColumnChoice(target="label"))
    slides = [case.slide_ids[0].removesuffix(".svs") for case in study.cohort.cases]
    folder = tmp_path / "splits"
    folder.mkdir()
    lines = [f"{a},{b},{b}" for a, b in zip(slides[:30], [*slides[30:48], *[""] * 12], strict=True)]
    (folder / "splits_0.csv").write_text("\n".join(["train,val,test", *lines]))
    with pytest.raises(CohortError, match="--allow-leaks"):
        train_to(tmp_path / "a", study, TrainOptions(split=SplitOptions(given=folder), draws=50))
    allowed = SplitOptions(given=folder, allow_leaks=True)
    report = train_to(tmp_path / "b", study, TrainOptions(split=allowed, draws=50))
    assert any("val and test are the same" in text for text in report.warnings)
    assert "1 of 1 splits have cases on two sides" in (tmp_path / "b" / "report.html").read_text()
