"""Trained heads over HTTP: their figures are the report's, the worst case comes first, and no case is shown by a head
that had seen it."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from sksurv.compare import compare_survival
from sksurv.util import Surv
from starlette.testclient import TestClient

from beph_store.cohort import ColumnChoice
from beph_store.engine.study.applied import apply_head
from beph_store.engine.study.attention import tile_values
from beph_store.engine.study.data import load_study
from beph_store.engine.study.job import train_job
from beph_store.engine.study.kept import keep_table
from beph_store.engine.study.run import train_to
from beph_store.engine.study.train import SplitOptions, TrainOptions
from beph_store.engine.study.trained import TrainedRun, predict
from beph_store.records import Recipe
from beph_store.serve.desk import Folders
from beph_store.serve.shelf import handle
from beph_store.store import Store

from ..engine.study import conftest as planting
from .conftest import client_of

HTML = "<b onload=alert(1)>tumour</b>"
#: Enough to have a curve; what it learns is tested elsewhere.
QUICK = {"epochs": 2, "lr": 2e-3, "precision": "fp32"}


@dataclass(frozen=True)
class World:
    """A store with heads trained for the names of ``jobs``, and one in a folder of its own."""

    client: TestClient
    planted: planting.Planted
    cohort: str
    other: str
    jobs: dict[str, TrainedRun]
    folder: Path

    def json(self, url: str, code: int = 200) -> Any:
        answer = self.client.get(url)
        assert answer.status_code == code, answer.text
        assert str(self.planted.store) not in answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()

    def overlay(self, slide_id: str, head: str, form: str = "json", key: str = "") -> str:
        return f"/api/recipes/{key or self.planted.key}/slides/{handle(slide_id)}/head/{head}.{form}"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("heads")
    planted = planting.plant(folder, cases=24, noise=2.0)
    store = Store.open(planted.store)
    other = store.writer(
        Recipe(planting.SPEC, planting.encoder("other")), run="test", encoder_source="test", parity={}
    )
    planting._write(other, "elsewhere.svs", np.ones((4, planting.DIM), np.float32))
    other.close()
    table = keep_table(store, planted.labels.read_bytes(), ".csv", "<i>mine</i>")
    jobs = planted.store / "jobs"
    common = {"cohort": table.id, "draws": 100}
    asked = {
        "line": {"task": "classify", "target": "label", "folds": 4, "title": HTML},
        "atten": {"task": "classify", "target": "label", "folds": 2, "head": "abmil", **QUICK},
        "surv": {"task": "survive", "folds": 3},
        "again": {"task": "classify", "target": "label", "folds": 3, "repeats": 2},
    }
    for name, options in asked.items():
        train_job(planted.store, planted.key, {**common, **options}, jobs / name / "out")
    (jobs / "torn" / "out").mkdir(parents=True)
    (jobs / "torn" / "out" / "train.json").write_text('{"format": 1}')
    (jobs / "going" / "out" / "heads").mkdir(parents=True)
    study = load_study(
        planted.store, planted.labels, "classify", recipe=planted.key, columns=ColumnChoice(target="label")
    )
    train_to(folder / "named" / "mine", study, TrainOptions(split=SplitOptions(folds=3), draws=50))
    runs = {name: TrainedRun.open(jobs / name / "out") for name in asked}
    with client_of(planted.store, folders=Folders(heads=(folder / "named",))) as client:
        yield World(client, planted, table.id, other.key, runs, folder / "named" / "mine")


def refused(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


def test_heads_of_jobs_and_of_folders_are_listed(world) -> None:
    data = world.json("/api/heads")
    named = {head["head"]: head for head in data["heads"]}
    assert [head["trained_at"] for head in data["heads"]] == sorted(
        (head["trained_at"] for head in data["heads"]), reverse=True
    )
    (folder,) = set(named) - {"line", "atten", "surv", "again"}
    assert (named[folder]["source"], named[folder]["title"]) == ("folder", "mine")
    line = named["line"]
    assert tuple(line[part] for part in ("source", "title", "kind", "encoder")) == (
        "job",
        HTML,
        "linear",
        "planted",
    )
    assert (line["cases"], line["folds"], line["classes"]) == (24, 4, ["normal", "tumour"])
    assert line["in_store"]
    assert line["headline"]["name"] == "auroc"
    assert named["surv"]["headline"]["name"] == "cindex_harrell"
    assert named["surv"]["title"] == "linear · survival · <i>mine</i>"
    assert [one["head"] for one in data["unreadable"]] == ["torn"]
    assert "torn" not in named
    refused(world.client.get("/api/heads/torn"), 409)


def test_a_folder_that_is_gone_or_new_is_noticed(world, tmp_path) -> None:
    copy = world.planted.store / "jobs" / "copy" / "out"
    shutil.copytree(world.jobs["line"].folder, copy)
    assert world.json("/api/heads/copy")["metrics"] == world.json("/api/heads/line")["metrics"]
    shutil.rmtree(copy.parent)
    refused(world.client.get("/api/heads/copy"), 404)


def test_figures_are_those_of_the_report(world) -> None:
    data, run = world.json("/api/heads/line"), world.jobs["line"]
    wrote = json.loads((run.folder / "train.json").read_bytes())["metrics"]
    assert {name: m["value"] for name, m in data["metrics"].items()} == {
        n: m["mean"] for n, m in wrote.items()
    }
    auroc = data["metrics"]["auroc"]
    assert auroc["ci_low"] <= auroc["value"] <= auroc["ci_high"]
    assert f"{auroc['value']:.3f}" in (run.folder / "report.html").read_text()
    frame = run.predictions()
    expected = roc_auc_score((frame["label"] == "tumour").to_numpy(), frame["p_tumour"].to_numpy())
    (roc,) = data["roc"]
    assert roc["class"] == "tumour"
    assert roc["auroc"] == auroc["value"] == pytest.approx(expected, abs=1e-12)
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(expected, abs=1e-12)
    assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0, 0, 1, 1)
    assert data["headlines"][0] == "auroc"
    assert next(iter(data["metrics"])) == "auroc"
    assert data["km"] is data["logrank_p"] is None


def test_the_confusion_matrix_counts_the_cases(world) -> None:
    data = world.json("/api/heads/line")["confusion"]
    frame = world.jobs["line"].predictions()
    counted = frame.group_by("label", "predicted").len()
    for i, truth in enumerate(data["labels"]):
        for j, said in enumerate(data["labels"]):
            cells = counted.filter((pl.col("label") == truth) & (pl.col("predicted") == said))["len"]
            assert data["counts"][i][j] == (cells[0] if len(cells) else 0)


def test_what_it_was_trained_on_is_named_without_a_path(world) -> None:
    data = world.json("/api/heads/line")
    assert data["cohort"] == {"cohort": world.cohort, "name": "<i>mine</i>", "cases": 24, "slides": 32}
    assert data["options"]["split"]["folds"] == 4
    (folder,) = [h["head"] for h in world.json("/api/heads")["heads"] if h["source"] == "folder"]
    assert world.json(f"/api/heads/{folder}")["cohort"]["name"] == "labels.csv"
    assert world.json(f"/api/heads/{folder}")["cohort"]["cohort"] is None


def test_each_fold_has_its_curve_or_its_penalties(world) -> None:
    folds = world.json("/api/heads/atten")["folds"]
    assert [fold["name"] for fold in folds] == ["fold-0", "fold-1"]
    for fold in folds:
        assert [epoch["epoch"] for epoch in fold["curve"]] == [1, 2]
        assert all(epoch["train_loss"] > 0 and epoch["val_loss"] > 0 for epoch in fold["curve"])
        assert fold["best_epoch"] in (1, 2)
        assert fold["train"] + fold["val"] + fold["test"] == 24
    for fold in world.json("/api/heads/line")["folds"]:
        assert fold["curve"] == []
        assert fold["penalty"] in [one["penalty"] for one in fold["penalties"]]
        assert "auroc" in fold["metrics"]


def test_the_worst_case_comes_first(world) -> None:
    data = world.json("/api/heads/line/cases")
    assert data["total"] == len(data["cases"]) == 24
    losses = [case["loss"] for case in data["cases"]]
    assert losses == sorted(losses, reverse=True)
    frame = world.jobs["line"].predictions()
    right = frame.with_columns(
        p=pl.when(pl.col("label") == "tumour").then("p_tumour").otherwise("p_normal")
    ).sort("p")
    assert data["cases"][0]["case_id"] == right["case_id"][0]
    assert losses == pytest.approx((-np.log(right["p"].to_numpy())).tolist())
    listed = {s["slide"]: s for s in world.json(f"/api/recipes/{world.planted.key}/slides")["slides"]}
    rows = {row["case_id"]: row for row in frame.iter_rows(named=True)}
    for case in data["cases"]:
        row = rows[case["case_id"]]
        assert (case["label"], case["predicted"], case["fold"]) == (
            row["label"],
            row["predicted"],
            row["fold"],
        )
        assert case["probabilities"] == pytest.approx({"normal": row["p_normal"], "tumour": row["p_tumour"]})
        assert [listed[slide]["slide_id"] for slide in case["slides"]] == case["slide_ids"]
        assert len(case["slides"]) == row["slides"]


def test_cases_come_in_other_orders_and_in_pages(world) -> None:
    by_id = [case["case_id"] for case in world.json("/api/heads/line/cases?sort=case")["cases"]]
    assert by_id == sorted(by_id)
    page = world.json("/api/heads/line/cases?sort=case&offset=3&limit=2")
    assert ([c["case_id"] for c in page["cases"]], page["total"]) == (by_id[3:5], 24)
    risks = [case["risk"] for case in world.json("/api/heads/surv/cases?sort=risk")["cases"]]
    assert risks == sorted(risks, reverse=True)
    for query in ("sort=luck", "offset=-1", "limit=0"):
        refused(world.client.get(f"/api/heads/line/cases?{query}"), 422)


def test_repeats_are_averaged_by_case(world) -> None:
    frame = world.jobs["again"].predictions()
    means = dict(frame.group_by("case_id").agg(pl.col("p_tumour").mean()).iter_rows())
    data = world.json("/api/heads/again/cases")
    assert data["total"] == 24
    for case in data["cases"]:
        assert case["repeats"] == 2
        assert case["probabilities"]["tumour"] == pytest.approx(means[case["case_id"]])


def test_survival_has_two_curves_their_test_and_cases_by_disorder(world) -> None:
    data, frame = world.json("/api/heads/surv"), world.jobs["surv"].predictions()
    assert data["roc"] is data["confusion"] is None
    assert [group["group"] for group in data["km"]] == ["lower risk", "higher risk"]
    for group in data["km"]:
        assert (group["time_days"][0], group["survival"][0], group["at_risk"][0]) == (0, 1, group["cases"])
        assert group["survival"] == sorted(group["survival"], reverse=True)
        assert len(group["censored"]) == group["cases"] - group["events"]
    assert sum(group["cases"] for group in data["km"]) == 24
    event, time, risk = (frame[name].to_numpy() for name in ("event", "time_days", "log_hazard"))
    _, p = compare_survival(Surv.from_arrays(event, time), risk > np.median(risk))
    assert data["logrank_p"] == pytest.approx(p, rel=1e-6)
    cases = world.json("/api/heads/surv/cases")["cases"]
    losses = [case["loss"] for case in cases]
    assert losses == sorted(losses, reverse=True)
    # Every comparable pair is told by both its cases: weighted by their pairs, the losses are 1 - Harrell's C.
    by_id = {case["case_id"]: case for case in cases}
    pairs = wrong = 0.0
    for i, name in enumerate(frame["case_id"]):
        sooner = (time[i] < time) | ((time[i] == time) & ~event)
        later = (time < time[i]) | ((time == time[i]) & ~event[i])
        mine = float((sooner & event[i]).sum() + (later & event).sum())
        assert by_id[name]["risk"] == pytest.approx(risk[i])
        assert by_id[name]["event"] == event[i]
        pairs, wrong = pairs + mine, wrong + mine * by_id[name]["loss"]
    assert 1 - wrong / pairs == pytest.approx(data["metrics"]["cindex_harrell"]["value"], abs=1e-12)


def test_tile_values_are_those_of_the_heatmap_in_the_order_of_the_grid(world) -> None:
    store, run = Store.open(world.planted.store), world.jobs["line"]
    slide = "site1/c05-1.svs"
    expected = tile_values(run, store, slide, of_class="tumour")
    grid = world.json(world.overlay(slide, "line").rsplit("/head", 1)[0] + "/grid.json")
    assert grid["tile"] == expected.bag.tile_index.tolist()
    answer = world.client.get(world.overlay(slide, "line", "bin"), params={"class": "tumour"})
    assert answer.headers["content-type"] == "application/octet-stream"
    values = np.frombuffer(answer.content, "<f4")
    assert np.allclose(values, expected.values, atol=1e-6)
    assert len(values) == grid["tiles"] == int(answer.headers["x-tiles"])
    assert (answer.headers["x-kind"], answer.headers["x-class"]) == ("score", "tumour")
    assert "logit of tumour" in answer.headers["x-meaning"]
    told = world.json(world.overlay(slide, "line") + "?class=tumour")
    assert told["values"] == pytest.approx(values.tolist(), abs=1e-5)
    assert (told["low"], told["high"]) == pytest.approx((float(values.min()), float(values.max())))


@pytest.mark.parametrize("head", ["line", "atten"])
def test_a_case_that_was_learned_from_is_shown_by_the_head_that_had_not_seen_it(world, head: str) -> None:
    folds = {case["case_id"]: case["fold"] for case in world.json(f"/api/heads/{head}/cases")["cases"]}
    splits = world.jobs[head].about["splits"]
    for case_id, fold in list(folds.items())[:6]:
        slide = world.jobs[head].about["cohort"]["cases"][case_id][0]
        told = world.json(world.overlay(slide, head))
        assert told["held_out"] is True
        assert told["folds"] == [fold]
        assert case_id not in splits[fold]["train"] + splits[fold]["val"]
        headers = world.client.get(world.overlay(slide, head, "bin")).headers
        assert (headers["x-fold"], headers["x-held-out"]) == (str(fold), "true")


def test_attention_is_a_rank_from_least_to_most(world) -> None:
    slide = "site1/c05-1.svs"
    told = world.json(world.overlay(slide, "atten"))
    assert (told["kind"], told["class"], told["low"], told["high"]) == ("attention", None, 0, 1)
    n = told["tiles"]
    assert sorted(told["values"]) == pytest.approx((np.arange(n) / (n - 1)).tolist(), abs=1e-5)
    scored = world.json(world.overlay(slide, "atten") + "?kind=score&class=normal")
    assert (scored["kind"], scored["class"]) == ("score", "normal")
    hazard = world.json(world.overlay(slide, "surv"))
    assert (hazard["kind"], hazard["class"]) == ("score", None)
    assert "hazard" in hazard["meaning"]


def test_what_a_head_cannot_show_is_said(world) -> None:
    slide = "site1/c05-1.svs"
    said = refused(world.client.get(world.overlay(slide, "line") + "?kind=attention"), 422)
    assert "no attention" in said
    assert "kind=score" in said
    assert "choose from normal, tumour" in refused(
        world.client.get(world.overlay(slide, "line") + "?class=cyst"), 422
    )
    for query in ("?kind=odd", "?kind=attention&class=tumour"):
        refused(world.client.get(world.overlay(slide, "atten") + query), 422)
    refused(world.client.get(world.overlay(slide, "surv") + "?class=tumour"), 422)
    refused(world.client.get(world.overlay("none.svs", "line")), 404)
    refused(world.client.get(world.overlay(slide, "line", "png")), 404)


def test_a_head_of_another_recipe_is_refused(world) -> None:
    said = refused(world.client.get(world.overlay("elsewhere.svs", "line", key=world.other)), 409)
    assert world.planted.key in said
    assert world.other in said


def test_predictions_of_all_slides_come_after_a_job_applied_the_head(world) -> None:
    url = "/api/heads/line/predictions.csv"
    said = refused(world.client.get(url), 409)
    assert "/api/jobs" in said
    assert '"apply"' in said
    assert world.json("/api/heads/line")["predictions"] is None
    heard: list[tuple[int, int]] = []
    store = Store.open(world.planted.store)
    result = apply_head(world.jobs["line"], store, "line", progress=lambda a, b: heard.append((a, b)))
    assert result == {"head": "line", "recipe": world.planted.key, "slides": 32, "cases": 24}
    assert heard[-1] == (24, 24)
    answer = world.client.get(url)
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    slides = pl.read_csv(io.BytesIO(answer.content))
    assert slides.height == 32
    assert slides["held_out"].all()
    by_case = pl.read_csv(io.BytesIO(world.client.get(url + "?by=case").content)).sort("case_id")
    tested = world.jobs["line"].predictions().sort("case_id")
    assert by_case["p_tumour"].to_list() == pytest.approx(tested["p_tumour"].to_list(), abs=1e-9)
    single = slides.filter(pl.len().over("case_id") == 1).join(by_case, on="case_id")
    assert single["p_tumour"].to_list() == pytest.approx(single["p_tumour_right"].to_list())
    told = world.json("/api/heads/line")["predictions"]
    assert (told["slides"], told["cases"], told["stale"]) == (32, 24, False)
    refused(world.client.get(url + "?by=tile"), 422)


def test_a_download_is_a_folder_that_predict_takes(world, tmp_path) -> None:
    answer = world.client.get("/api/heads/line/download.zip")
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.testzip() is None
        assert all(name.startswith("head-line/") and ".." not in name for name in packed.namelist())
        packed.extractall(tmp_path)
    store = Store.open(world.planted.store)
    taken = predict(TrainedRun.open(tmp_path / "head-line"), store)
    assert taken.equals(predict(world.jobs["line"], store))


def test_a_download_follows_no_link(world, tmp_path) -> None:
    out = world.planted.store / "jobs" / "linked" / "out"
    shutil.copytree(world.jobs["line"].folder, out)
    (tmp_path / "secret").write_text("secret")
    (out / "report.html").unlink()
    (out / "report.html").symlink_to(tmp_path / "secret")
    try:
        with zipfile.ZipFile(
            io.BytesIO(world.client.get("/api/heads/linked/download.zip").content)
        ) as packed:
            assert "head-linked/report.html" not in packed.namelist()
        assert "secret" not in world.client.get("/api/heads/linked/report.html").text
    finally:
        shutil.rmtree(out.parent)


def test_the_report_is_a_file_to_save_and_never_a_page_of_ours(world) -> None:
    answer = world.client.get("/api/heads/line/report.html")
    assert answer.content == (world.jobs["line"].folder / "report.html").read_bytes()
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_a_head_that_lost_a_file_is_told_so(world) -> None:
    out = world.planted.store / "jobs" / "lost" / "out"
    shutil.copytree(world.jobs["line"].folder, out)
    try:
        assert world.client.get("/api/heads/lost").status_code == 200
        (out / "heads" / "0" / "weights.safetensors").unlink()
        (out / "report.html").unlink()
        refused(world.client.get("/api/heads/lost/report.html"), 404)
        refused(world.client.get(world.overlay("site1/c05-1.svs", "lost")), 422)
    finally:
        shutil.rmtree(out.parent)


@pytest.mark.parametrize(
    "head", ["..%2f..%2fstore", "%2e%2e", "..%2fline", "line%2fout", "%00", "LINE", "none"]
)
def test_no_id_leads_anywhere(world, head: str) -> None:
    for rest in ("", "/cases", "/report.html", "/download.zip", "/predictions.csv"):
        refused(world.client.get(f"/api/heads/{head}{rest}"), 404)
    url = world.overlay("site1/c05-1.svs", head)
    refused(world.client.get(url), 404)


def test_html_in_names_stays_data(world) -> None:
    answer = world.client.get("/api/heads/line")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["title"] == HTML
