"""Tables of labels over HTTP: what is no table is refused and leaves nothing; what cannot be learned is explained."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from beph_store.engine.study.job import train_job
from beph_store.errors import CohortError

from ..engine.study.conftest import Planted, plant
from .conftest import client_of

CSV = {"content-type": "text/csv"}
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    """24 cases, 32 slides."""
    return plant(tmp_path_factory.mktemp("cohorts"), cases=24)


@pytest.fixture(scope="module")
def client(planted):
    with client_of(planted.store, allow_write=True) as made:
        yield made


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def rows_of(planted: Planted) -> list[list[str]]:
    return list(csv.reader(planted.labels.open()))


def text_of(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def upload(client: TestClient, body: bytes, name: str = "labels", kind: str = "text/csv") -> dict[str, Any]:
    answer = client.post("/api/cohorts", params={"name": name}, content=body, headers={"content-type": kind})
    assert answer.status_code == 201, answer.text
    return answer.json()


def check(client: TestClient, planted: Planted, body: bytes, **options: Any) -> dict[str, Any]:
    made = upload(client, body)
    asked = {"recipe": planted.key, "task": "classify", **options}
    answer = client.post(f"/api/cohorts/{made['cohort']}/check", json=asked)
    assert answer.status_code == 200, answer.text
    assert str(planted.store) not in answer.text
    assert "--" not in "".join(answer.json()["problems"])
    return answer.json()


def refused(answer, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


def test_an_upload_is_kept_by_its_content_and_described(client, planted) -> None:
    body = planted.labels.read_bytes()
    made = upload(client, body, "My labels")
    assert (planted.store / "labels" / f"{made['cohort']}.csv").read_bytes() == body
    assert (made["name"], made["rows"]) == ("My labels", 32)
    columns = {column["name"]: column for column in made["columns"]}
    assert columns["label"]["values"] == [{"value": "normal", "rows": 16}, {"value": "tumour", "rows": 16}]
    assert columns["case_id"]["distinct"] == 24
    assert made["suggested"] == {
        "slide": ["slide_id"], "case": ["case_id"], "class": ["label"], "event": ["event"], "time": ["days"],
    }  # fmt: skip
    assert client.get(f"/api/cohorts/{made['cohort']}").json() == made
    assert made in client.get("/api/cohorts").json()["cohorts"]


def test_the_same_content_is_the_same_table_under_its_last_name(client, planted) -> None:
    body = planted.labels.read_bytes() + b"\n"
    first, again = upload(client, body, "one"), upload(client, body, "two")
    assert first["cohort"] == again["cohort"]
    named = [
        t["name"] for t in client.get("/api/cohorts").json()["cohorts"] if t["cohort"] == first["cohort"]
    ]
    assert named == ["two"]
    assert client.get("/api/cohorts").json()["cohorts"][0]["name"] == "two"
    tabs = upload(client, body.replace(b",", b"\t"), kind="text/tab-separated-values")
    assert tabs["cohort"] != first["cohort"]
    assert [c["name"] for c in tabs["columns"]] == [c["name"] for c in first["columns"]]


def test_a_deleted_table_is_gone(client, planted) -> None:
    made = upload(client, planted.labels.read_bytes() + b"\n\n")
    url = f"/api/cohorts/{made['cohort']}"
    assert client.delete(url).json() == {"cohort": made["cohort"]}
    refused(client.get(url), 404)
    refused(client.delete(url), 404)
    assert not list((planted.store / "labels").glob(f"{made['cohort']}*"))


def test_a_server_that_only_reads_keeps_and_forgets_nothing(planted, client) -> None:
    made = upload(client, planted.labels.read_bytes())
    before = files_of(planted.store)
    with client_of(planted.store) as reader:
        said = refused(reader.post("/api/cohorts", content=b"a,b\n1,2\n", headers=CSV), 403)
        assert "--allow-write" in said
        refused(reader.delete(f"/api/cohorts/{made['cohort']}"), 403)
        assert reader.get(f"/api/cohorts/{made['cohort']}").json() == made
        asked = {"recipe": planted.key, "task": "classify"}
        assert reader.post(f"/api/cohorts/{made['cohort']}/check", json=asked).json()["ok"]
    assert files_of(planted.store) == before


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"slide_id,label\n", "a header but no rows"),
        (b"slide_id,label\na,x\nb,y,z\n", r"line 3: 3 fields, but the header has 2: quote fields"),
        (b'slide_id,label\na,"x\n', r"line \d: unexpected end"),
        (b"slide_id,label\na,\0\n", "not text"),
        (b"\xff\xfea\xd8", "UTF-16"),
        (b"PK\x03\x04" + b"\0" * 40, "not text"),
        (b"a,b\n" + b",\n" * 2_100_000, "more than 4,000,000 cells"),
    ],
    ids=["nothing", "blank", "no-rows", "ragged", "unclosed", "nul", "half-a-mark", "a-spreadsheet", "cells"],
)
def test_what_is_no_table_is_refused_and_leaves_nothing(client, planted, body: bytes, says: str) -> None:
    before = files_of(planted.store)
    said = refused(client.post("/api/cohorts", params={"name": "mine"}, content=body, headers=CSV), 422)
    assert re.search(says, said)
    assert said.startswith("mine")
    assert files_of(planted.store) == before


def test_another_kind_of_body_is_refused(client, planted) -> None:
    before = files_of(planted.store)
    for kind in ("application/json", "text/html", "multipart/form-data; boundary=x", ""):
        refused(client.post("/api/cohorts", content=b"a,b\n1,2\n", headers={"content-type": kind}), 422)
    assert files_of(planted.store) == before


def test_a_huge_upload_is_refused_by_its_length_and_by_its_bytes(client, planted) -> None:
    before = files_of(planted.store)
    stated = {**CSV, "content-length": str(1 << 30)}
    refused(client.post("/api/cohorts", content=b"", headers=stated), 413)
    pieces = iter([b"slide_id,label\n", *[b"a,b\n" * (1 << 18)] * 17])
    refused(client.post("/api/cohorts", content=pieces, headers=CSV), 413)
    assert files_of(planted.store) == before


def test_html_in_names_and_cells_stays_data(client) -> None:
    body = text_of([["slide_id", NASTY], ["a", NASTY], ["b", "</script>"]])
    answer = client.post("/api/cohorts", params={"name": NASTY + "\n\x00\u202e"}, content=body, headers=CSV)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    made = answer.json()
    assert made["name"] == NASTY
    assert made["columns"][1]["name"] == NASTY
    assert {v["value"] for v in made["columns"][1]["values"]} == {NASTY, "</script>"}
    refused(client.post("/api/cohorts", params={"name": "x" * 201}, content=body, headers=CSV), 422)


@pytest.mark.parametrize(
    "table",
    ["..%2f..%2fstore", "%2e%2e%2fstore", "..%2f..%2fstore.json", "%2fetc%2fpasswd", "%00", "0" * 16, "*"],
)
def test_no_id_leads_anywhere(client, planted, table: str) -> None:
    before = files_of(planted.store)
    refused(client.get(f"/api/cohorts/{table}"), 404)
    refused(client.delete(f"/api/cohorts/{table}"), 404)
    asked = {"recipe": planted.key, "task": "classify"}
    refused(client.post(f"/api/cohorts/{table}/check", json=asked), 404)
    assert files_of(planted.store) == before


def test_a_damaged_record_hides_its_table_alone(client, planted) -> None:
    made = upload(client, planted.labels.read_bytes() + b"\n\n\n")
    (planted.store / "labels" / f"{made['cohort']}.json").write_text("[1")
    (planted.store / "labels" / "odd.json").write_text("[]")
    listed = client.get("/api/cohorts")
    assert listed.status_code == 200
    assert made["cohort"] not in {table["cohort"] for table in listed.json()["cohorts"]}
    assert upload(client, planted.labels.read_bytes() + b"\n\n\n")["cohort"] == made["cohort"]


def test_a_check_counts_cases_by_patient_and_writes_nothing(client, planted) -> None:
    upload(client, planted.labels.read_bytes())
    before = files_of(planted.store)
    said = check(client, planted, planted.labels.read_bytes(), folds=4)
    assert said["ok"], said
    assert (said["cases"], said["slides"]) == (24, 32)
    assert said["classes"] == [
        {"label": "normal", "cases": 12, "slides": 16}, {"label": "tumour", "cases": 12, "slides": 16},
    ]  # fmt: skip
    assert said["events"] is None
    assert any("32 slides of 24 cases" in note for note in said["notes"])
    assert [split["test"] for split in said["splits"]] == [6, 6, 6, 6]
    assert said["columns_used"]["class"]["column"] == "label"
    assert said["dropped"] == []
    assert files_of(planted.store) == before


def test_a_check_of_survival_counts_events(client, planted) -> None:
    said = check(client, planted, planted.labels.read_bytes(), task="survive", folds=3)
    assert said["ok"], said
    assert said["classes"] is None
    assert 0 < said["events"] < 24
    assert said["columns_used"]["time"] == {"column": "days", "how": "days"}


@pytest.mark.parametrize(
    ("normal", "cure"),
    [
        (4, "Use 4 folds (folds), or add cases of it."),
        (2, "Use 2 folds (folds), or add cases of it."),
        (1, "Add cases of it."),
    ],
)
def test_too_few_cases_of_a_class_are_explained_with_the_cure(
    client, planted, normal: int, cure: str
) -> None:
    header, *rows = rows_of(planted)
    kept = sorted({row[1] for row in rows if row[2] == "normal"})[:normal]
    body = text_of([header, *(row for row in rows if row[2] == "tumour" or row[1] in kept)])
    said = check(client, planted, body, folds=5)
    assert not said["ok"]
    cases = "1 case" if normal == 1 else f"{normal} cases"
    assert said["problems"] == [
        f"class 'normal' has {cases}, too few for 5 folds: each fold needs one to test. {cure}"
    ]
    assert said["fields"] == (["folds"] if normal > 1 else [])
    assert said["splits"] == []
    assert {one["label"]: one["cases"] for one in said["classes"]} == {"normal": normal, "tumour": 12}
    reasons = {one["reason"]: one for one in said["dropped"]}
    lost = reasons["slide of the store without a label"]
    assert lost["rows"] >= 9
    assert len(lost["examples"]) == 5


def labels(header: list[str], rows: list[list[str]], change) -> bytes:
    return text_of([header, *(change(list(row)) for row in rows)])


@pytest.mark.parametrize(
    ("change", "options", "says", "field"),
    [
        (lambda r: [*r[:2], "tumour", *r[3:]], {}, "all 24 cases are of class 'tumour'", None),
        (lambda r: ["x" + r[0][3:], *r[1:]], {}, "no row of labels fits a slide of the store", "slide_column"),
        (lambda r: r, {"target": "grade"}, "has no column 'grade' (target)", "target"),
        (lambda r: r, {"classes": ["tumour", "cyst"]}, "no row has the class cyst (classes)", "classes"),
        (lambda r: [*r[:4], "0"], {"task": "survive"}, "none of the 24 cases has an event", "event_means"),
        (lambda r: r, {"task": "survive", "time_column": "event"}, "does not say its unit", "time_unit"),
        (lambda r: r, {"case_column": "label"}, "2 cases have a label and slides in the store, fewer than 4", None),
        (lambda r: [r[0], "one", *r[2:]], {}, "rows with different labels", "on_conflict"),
    ],
    ids=["one-class", "nothing-fits", "no-column", "no-class", "no-event", "no-unit", "two-cases", "torn-case"],
)  # fmt: skip
def test_what_stands_in_the_way_is_said_and_names_the_field(
    client, planted, change, options, says, field
) -> None:
    header, *rows = rows_of(planted)
    said = check(client, planted, labels(header, rows, change), **options)
    assert not said["ok"]
    assert says in " ".join(said["problems"])
    if field is not None:
        assert field in said["fields"]


@pytest.mark.parametrize("folds", [2, 4, 6, 7])
def test_a_check_says_what_training_would(client, planted, tmp_path, folds: int) -> None:
    """Six normal cases: up to six folds can be trained, seven cannot; the check and the trainer agree."""
    header, *rows = rows_of(planted)
    kept = sorted({row[1] for row in rows if row[2] == "normal"})[:6]
    body = text_of([header, *(row for row in rows if row[2] == "tumour" or row[1] in kept)])
    said = check(client, planted, body, folds=folds)
    made = upload(client, body)
    options = {"cohort": made["cohort"], "task": "classify", "folds": folds, "draws": 2}
    if said["ok"]:
        report = train_job(planted.store, planted.key, options, tmp_path / "out")
        sizes = [(len(split.train), len(split.val), len(split.test)) for split in report.training.splits]
        assert [(s["train"], s["val"], s["test"]) for s in said["splits"]] == sizes
    else:
        with pytest.raises(
            CohortError, match=r"6 cases of class 'normal', too few for 7 folds: pass folds 6"
        ):
            train_job(planted.store, planted.key, options, tmp_path / "out")
    assert said["ok"] == (folds <= 6)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"task": "classify"}, 422),
        ({"recipe": "R", "task": "guess"}, 422),
        ({"recipe": "R"}, 422),
        ({"recipe": "nope", "task": "classify"}, 404),
        ({"recipe": "R", "task": "classify", "cohort": "x"}, 422),
        ({"recipe": "R", "task": "classify", "fold": 3}, 422),
        ({"recipe": "R", "task": "classify", "folds": True}, 422),
        ({"recipe": "R", "task": "classify", "folds": 1}, 422),
        ({"recipe": "R", "task": "classify", "loss": "cox"}, 422),
        ({"recipe": "R", "task": "survive", "loss": "nll", "head": "linear"}, 422),
        ({"recipe": "R", "task": "survive", "target": "label"}, 422),
        ({"recipe": "R", "task": "classify", "target": "\ud800"}, 422),
        ({"recipe": "R", "task": "classify", "lr": 1e400}, 422),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(client, planted, body, status) -> None:
    made = upload(client, planted.labels.read_bytes())
    if body.get("recipe") == "R":
        body = {**body, "recipe": planted.key}
    answer = client.post(
        f"/api/cohorts/{made['cohort']}/check",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    refused(answer, status)
