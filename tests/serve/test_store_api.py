"""The store over HTTP: every slide by its handle, filters, and nothing by a path."""

from __future__ import annotations

import json
import re

import numpy as np
import polars as pl
import pytest

from beph_store.serve.app import ENDPOINTS
from beph_store.serve.shelf import handle
from beph_store.serve.store_api import label_column
from beph_store.store import Store

from .conftest import NASTY


def ids(data) -> list[str]:
    return [slide["slide_id"] for slide in data["slides"]]


def test_the_store_tells_its_recipes(served) -> None:
    data = served.json("/api/store")
    (recipe,) = data["recipes"]
    assert data["store"] == "S"
    assert recipe["key"] == served.key
    assert (recipe["encoder"], recipe["slides"], recipe["failed"]) == ("beph-mini", 2, 1)


def test_slides_are_listed_with_states_reasons_and_labels(served) -> None:
    data = served.json(f"/api/recipes/{served.key}/slides")
    assert ids(data) == sorted([NASTY, "broken.tif", "drawn.tif"])
    assert data["statuses"] == {"done": 2, "empty": 0, "failed": 1}
    by_id = {slide["slide_id"]: slide for slide in data["slides"]}
    assert by_id["broken.tif"]["error"]
    assert by_id["drawn.tif"]["labels"] == {"grade": "high", "age": 61}
    assert by_id["drawn.tif"]["case_id"] == "A"
    assert by_id["broken.tif"]["labels"] == {"grade": None, "age": None}
    assert "path" not in by_id["drawn.tif"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=failed", ["broken.tif"]),
        ("q=ONERROR", [NASTY]),
        ("label[grade]=high", ["drawn.tif"]),
        ("label[age]=70", [NASTY]),
        ("where=age > 65 AND grade = 'low'", [NASTY]),
        ("where=case_id IN ('A') OR \"age\" IS NULL", ["broken.tif", "drawn.tif"]),
        ("offset=1&limit=1", ["broken.tif"]),
        ("label[grade]=no such", []),
    ],
)
def test_filters(served, query: str, found: list[str]) -> None:
    assert ids(served.json(f"/api/recipes/{served.key}/slides?{query}")) == found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("age", ["drawn.tif", NASTY, "broken.tif"]),
        ("-age", [NASTY, "drawn.tif", "broken.tif"]),  # what has no value comes last
        ("-slide_id", sorted([NASTY, "broken.tif", "drawn.tif"], reverse=True)),
    ],
)
def test_the_order_may_be_a_columns(served, order: str, found: list[str]) -> None:
    assert ids(served.json(f"/api/recipes/{served.key}/slides?order={order}")) == found


@pytest.mark.parametrize(
    "query",
    [
        "status=gone",
        "limit=0",
        "limit=1001",
        "order=nothing",
        "order=slide",
        "offset=-1",
        "offset=1e3",
        "offset=99999999999999999999",
        "label[none]=1",
        "where=",
        "where=nonsense > 1",
        "where=age > 'x' AND",
        "where=slide_id IN (SELECT k FROM read_csv('LABELS'))",
        "where=1=0 UNION SELECT * FROM read_csv('LABELS')",
        "where=upper(grade) = 'HIGH'",
        "where=grade = 'a' -- b",
        "where=grade = 'a'; DROP TABLE rows",
        "where=" + "(" * 30 + "age" + ")" * 30,
        "where=age " + "+ 1" * 1000 + " > 0",
    ],
)
def test_what_cannot_be_meant_is_refused(served, query: str) -> None:
    url = f"/api/recipes/{served.key}/slides?{query.replace('LABELS', str(served.labels))}"
    assert set(served.json(url, 422)) == {"error"}


def test_a_condition_never_reads_a_file_even_through_a_column_of_that_name(served) -> None:
    """The guard is what stands between polars' SQL and the disk: without it, the first of these reads the labels."""
    from beph_store.errors import QueryError
    from beph_store.sqlguard import check_condition

    columns = ["read_csv", "select", "from", "age"]
    assert check_condition("read_csv > 1 AND \"select\" = 'x' AND \"from\" = 'y'", columns)
    for condition in (
        "read_csv('x') > 1",
        "\"read_csv\" ('x')",
        "age IN (select 1)",
        "age > 1 from x",
        "age[0]",
        "age $1",
    ):
        with pytest.raises(QueryError):
            check_condition(condition, columns)


def test_labels_are_told_with_their_values(served) -> None:
    grade, age = served.json(f"/api/recipes/{served.key}/labels")["columns"]
    assert {v["value"]: v["slides"] for v in grade["values"]} == {"high": 1, "low": 1}
    assert (age["low"], age["high"], age["distinct"]) == (61, 70, 2)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("path", ["a.svs", "b.svs"], None),
        ("barcode", [f"TCGA-{n}" for n in range(12)], None),
        ("barcode", [f"TCGA-{n // 2}" for n in range(12)], "values"),
        ("organ", ["lung", "colon", "liver"], "values"),  # so few slides that it tells something
        ("age", [*range(40, 52)], "range"),
        ("grade", [1, 2, 3] * 4, "values"),
    ],
)
def test_a_column_that_names_slides_is_no_filter(name: str, values: list[object], told: str | None) -> None:
    column = label_column(pl.Series(name, values))
    assert (None if column is None else "values" if "values" in column else "range") == told


def test_the_thumbnail_is_the_stored_one(served) -> None:
    stored = Store.open(served.store).rasters(served.key, NASTY).thumbnail
    assert np.array_equal(served.pixels(served.url(NASTY, "/thumbnail.png")), stored)
    small = served.client.get(served.url(NASTY, "/thumbnail.jpg?max_px=32"))
    assert small.headers["content-type"] == "image/jpeg"
    assert max(served.pixels(served.url(NASTY, "/thumbnail.jpg?max_px=32")).shape) == 32


def test_a_name_with_html_is_data_and_never_html(served) -> None:
    for path in (f"/api/recipes/{served.key}/slides", served.url(NASTY)):
        answer = served.client.get(path)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert NASTY in json.dumps(answer.json(), ensure_ascii=False).encode().decode("unicode_escape")
    assert handle(NASTY) in served.url(NASTY)
    assert re.fullmatch("[0-9a-f]{16}", handle("\udcff" + NASTY))


@pytest.mark.parametrize(
    "path",
    [
        "/../store.json",
        "/..%2fstore.json",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/recipes/..%2f..%2fstore/slides",
        "/api/recipes/{key}/slides/..%2f..%2f..%2fstore.json",
        "/api/recipes/{key}/slides/drawn.tif",
        "/api/recipes/{key}/slides/%2fetc%2fpasswd/thumbnail.png",
        "/api/recipes/{key}/slides/{slide}/thumbnail.json",
        "/api/recipes/{key}/slides/{slide}/image_files/11/0_0.exe",
        "/api/recipes/{key}/slides/{slide}/../../../../store.json",
        "/api/runs/..%2fstore",
        "/api/runs/..%2f..%2fS%2fstore",
        "/api/runs/%00",
    ],
)
def test_no_path_leads_anywhere(served, path: str) -> None:
    url = path.format(key=served.key, slide=handle("drawn.tif"))
    assert set(served.json(url, 404)) == {"error"}


def test_runs_are_told_and_damaged_ones_too(served) -> None:
    (run,) = served.json("/api/runs")["runs"]
    assert run["state"] == "ended"
    assert run["statuses"] == {"done": 2, "empty": 0, "failed": 1, "skipped": 0}
    whole = served.json(f"/api/runs/{run['run']}")
    assert {slide["slide"] for slide in whole["slides"]} == {
        handle(s) for s in (NASTY, "broken.tif", "drawn.tif")
    }
    damaged = Store.open(served.store).layout.runs / "00-damaged.json"
    damaged.write_text("[1, NaN")
    try:
        assert served.json("/api/runs")["runs"][-1] == {"run": "00-damaged", "state": "unreadable"}
    finally:
        damaged.unlink()


def test_the_document_lists_every_route_and_only_those(served) -> None:
    document = served.json("/api/openapi.json")
    assert document["openapi"].startswith("3.")
    listed = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routed = {
        (method, route.path)
        for route in served.client.app.inner.routes
        for method in route.methods - {"HEAD"}
        if route.path.startswith("/api/")
    }
    assert listed == routed == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            assert {"401", "403"} <= set(operation["responses"])
            assert {"200", "201", "202"} & set(operation["responses"])
            assert ("404" in operation["responses"]) == ("{" in path)
    names = [operation["operationId"] for m in document["paths"].values() for operation in m.values()]
    assert len(names) == len(set(names))


def test_only_the_methods_of_the_table_are_answered(served) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = served.client.request(method, "/api/store")
        assert answer.status_code == 405
        assert set(answer.json()) == {"error"}
