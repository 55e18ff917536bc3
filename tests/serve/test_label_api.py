"""Labels over HTTP: written only where that is allowed, undone, and what follows from them."""

from __future__ import annotations

import csv
import io
import json
import urllib.parse
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from beph_store.serve.shelf import handle

from ..engine.active.conftest import KINDS, Tissue, grow
from .conftest import client_of


@dataclass(frozen=True)
class Lab:
    """``client`` of a server that may write, ``reader`` of one on the same store that may not."""

    client: TestClient
    reader: TestClient
    tissue: Tissue
    root: str

    def get(self, rest: str, code: int = 200, **params):
        answer = self.client.get(self.root + rest, params=params)
        assert answer.status_code == code, answer.text
        return answer.json()

    def post(self, rest: str, code: int = 200, **body):
        answer = self.client.post(self.root + rest, json=body)
        assert answer.status_code == code, answer.text
        return answer.json()

    def label(self, who: str = "Ann", code: int = 200, **entry):
        return self.post("/labels/tiles", code, who=who, labels=[{"slide": SLIDE, **entry}])


NAME = "c00/s0.svs"
SLIDE = handle(NAME)


@contextmanager
def opened(folder: Path) -> Iterator[Lab]:
    tissue = grow(folder, slides=6)
    root = f"/api/recipes/{tissue.table.flat.recipe_key}"
    with client_of(tissue.store, allow_write=True) as client, client_of(tissue.store) as reader:
        yield Lab(client, reader, tissue, root)


@pytest.fixture
def lab(tmp_path) -> Iterator[Lab]:
    with opened(tmp_path) as lab:
        yield lab


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Iterator[Lab]:
    """For requests that are refused: it stays without a label."""
    with opened(tmp_path_factory.mktemp("untouched")) as lab:
        yield lab
        assert lab.get("/labels/tiles")["version"] == 0


def test_labels_are_given_by_tile_point_and_region_and_undone(lab) -> None:
    assert lab.get("/labels/tiles") == {
        "version": 0,
        "classes": [],
        "labels": [],
        "can_undo": False,
        "can_redo": False,
        "unplaced": 0,
    }
    first = lab.label(tile=3, label="fat")
    assert first["version"] == 1
    (changed,) = first["changed"]
    assert (changed["tile"], changed["x"], changed["y"], changed["label"]) == (3, 672, 0, "fat")
    assert (changed["slide"], changed["slide_id"], changed["case_id"]) == (SLIDE, NAME, "c00")
    assert (changed["footprint_l0"], changed["who"], changed["id"]) == (224, "Ann", "1.0")
    assert lab.label("Bob", point=[700, 100], label="stroma")["changed"][0]["tile"] == 3
    region = lab.label(region=[0, 224, 448, 672], label="tumour <b>")
    assert {one["tile"] for one in region["changed"]} == {16, 17, 32, 33}
    told = lab.get("/labels/tiles")
    assert [(c["label"], c["place"], c["tiles"]) for c in told["classes"]] == [
        ("stroma", 1, 1),
        ("tumour <b>", 2, 4),
    ]
    assert len(told["labels"]) == 5
    back = lab.post("/labels/tiles/undo", who="Ann")
    assert [(one["tile"], one["label"]) for one in back["changed"]] == [(t, None) for t in (16, 17, 32, 33)]
    assert (back["can_undo"], back["can_redo"]) == (True, True)
    assert lab.get("/labels/tiles", who="Bob")["can_redo"] is False
    assert lab.get("/labels/tiles", who="Ann", slide=handle("c00/s1.svs"))["labels"] == []
    assert len(lab.post("/labels/tiles/redo", who="Ann")["changed"]) == 4
    assert "nothing to redo" in lab.post("/labels/tiles/redo", 409, who="Ann")["error"]
    gone = lab.label(tile=16, label=None)
    assert [(one["tile"], one["label"]) for one in gone["changed"]] == [(16, None)]
    rows = list(csv.DictReader(io.StringIO(lab.client.get(lab.root + "/labels/tiles.csv").text)))
    assert {(row["tile"], row["label"], row["who"]) for row in rows} == {
        ("3", "stroma", "Bob"),
        *((str(t), "tumour <b>", "Ann") for t in (17, 32, 33)),
    }


def test_slides_are_labelled_beside_tiles(lab) -> None:
    one, two = handle("c00/s0.svs"), handle("c01/s0.svs")
    given = [{"slide": one, "value": "high"}, {"slide": two, "value": "low"}]
    told = lab.post("/labels/slides", who="Ann", labels=given)
    assert [(c["slide"], c["column"], c["value"]) for c in told["changed"]] == [
        (one, "label", "high"),
        (two, "label", "low"),
    ]
    lab.post("/labels/slides", who="Ann", labels=[{"slide": one, "column": "site", "value": "colon"}])
    text = lab.client.get(lab.root + "/labels/slides.csv").text
    assert list(csv.reader(io.StringIO(text))) == [
        ["slide_id", "case_id", "label", "site"],
        ["c00/s0.svs", "c00", "high", "colon"],
        ["c01/s0.svs", "c01", "low", ""],
    ]
    assert lab.post("/labels/slides/undo", who="Ann")["changed"][0]["value"] is None
    told = lab.get("/labels/slides")
    assert told["columns"][0] == {
        "name": "label",
        "values": [{"value": "high", "slides": 1, "cases": 1}, {"value": "low", "slides": 1, "cases": 1}],
    }
    assert {label["who"] for label in told["labels"]} == {"Ann"}
    assert lab.get("/labels/tiles")["can_undo"] is False
    lab.post(
        "/labels/slides", who="Ann", labels=[{"slide": one, "column": "slide_id", "value": "x"}], code=422
    )
    assert lab.post("/labels/slides/redo", who="Ann", code=200)["columns"][1]["name"] == "site"


def truly(lab, count: int, seed: int = 0) -> None:
    """Label some tiles of every slide with what they are."""
    flat = lab.tissue.table.flat
    rows = np.random.default_rng(seed).choice(len(flat), count, replace=False)
    entries = [
        {
            "slide": handle(flat.slide_ids[lab.tissue.table.slide_of[row]]),
            "tile": int(flat.tile_index[row]),
            "label": KINDS[lab.tissue.kind[row]],
        }
        for row in rows
        if lab.tissue.kind[row] < 3
    ]
    lab.post("/labels/tiles", who="Ann", labels=entries)


def test_the_head_follows_the_labels(lab) -> None:
    assert "no tile has a label" in lab.post("/labels/refit", 422)["error"]
    lab.label(tile=1, label="fat")
    assert "one class (fat)" in lab.client.post(lab.root + "/labels/refit").json()["error"]
    assert lab.get(f"/slides/{SLIDE}/tile-classes.json", 409)["error"].startswith("all 1")
    lab.post("/labels/tiles/undo", who="Ann")
    truly(lab, 150)
    head = lab.reader.post(lab.root + "/labels/refit").json()  # also where nothing may be written
    assert head["held_out"]["by"] == "case"
    assert head["held_out"]["accuracy"] > 0.7
    assert set(head["classes"]) == set(KINDS[:3])
    told = lab.get(f"/slides/{SLIDE}/tile-classes.json", **{"class": "fat"})
    assert (told["version"], told["class"]) == (head["version"], "fat")
    answer = lab.client.get(f"{lab.root}/slides/{SLIDE}/tile-classes.bin", params={"class": "fat"})
    values = np.frombuffer(answer.content, "<f4")
    assert values == pytest.approx(told["probability"], abs=1e-4)
    assert len(values) == int(answer.headers["x-tiles"]) == 256
    assert json.loads(urllib.parse.unquote(answer.headers["x-classes"])) == told["classes"]
    right = np.array(told["classes"])[told["predicted"]] == np.array(KINDS)[lab.tissue.kind[:256]]
    assert right.mean() > 0.6
    best = lab.get(f"/slides/{SLIDE}/tile-classes.json")
    numbers = np.frombuffer(lab.client.get(f"{lab.root}/slides/{SLIDE}/tile-classes.bin").content, "<f4")
    assert numbers.tolist() == best["predicted"] == told["predicted"]
    lab.get(f"/slides/{SLIDE}/tile-classes.json", 422, **{"class": "bone"})
    lab.get(f"/slides/{SLIDE}/tile-classes.csv", 404)
    # A label more, and the same question has another answer.
    lab.label(tile=1, label="tumour")
    assert lab.get(f"/slides/{SLIDE}/tile-classes.json")["version"] == head["version"] + 1


def test_proposals_are_diverse_first_and_then_unsure(lab) -> None:
    cold = lab.get("/labels/proposals", count=5)
    assert (cold["method"], len(cold["proposals"])) == ("typical and diverse", 5)
    assert cold["proposals"][0]["uncertainty"] is None
    truly(lab, 60)
    labelled = {(one["slide"], one["tile"]) for one in lab.get("/labels/tiles")["labels"]}
    warm = lab.get("/labels/proposals")
    assert (warm["method"], len(warm["proposals"])) == ("uncertain and diverse", 12)
    assert not labelled & {(one["slide"], one["tile"]) for one in warm["proposals"]}
    assert sum(warm["proposals"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert lab.get("/labels/proposals") == warm
    assert lab.get("/labels/proposals", seed=1) != warm
    one = lab.get("/labels/proposals", slide=SLIDE, count=3)
    assert {each["slide"] for each in one["proposals"]} == {SLIDE}
    for params in ({"count": 0}, {"count": 201}, {"seed": "x"}):
        lab.get("/labels/proposals", 422, **params)
    lab.get("/labels/proposals", 404, slide="0" * 16)


def test_a_head_is_saved_listed_downloaded_and_deleted(lab) -> None:
    lab.post("/labels/save", 422, name="early", who="Ann")
    truly(lab, 90)
    saved = lab.post("/labels/save", 201, name="My map", who="Ann")
    assert (saved["name"], saved["title"]) == ("my-map", "My map")
    assert lab.post("/labels/save", 409, name="my map", who="Ann")["error"]
    assert [one["name"] for one in lab.get("/labels/saved")["saved"]] == ["my-map"]
    answer = lab.client.get(lab.root + "/labels/saved/my-map.zip")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert "my-map/classifier.json" in archive.namelist()
    for name in ("none", "..%2f..%2fslides", "%2e%2e"):
        assert lab.client.get(f"{lab.root}/labels/saved/{name}.zip").status_code == 404
        assert lab.client.delete(f"{lab.root}/labels/saved/{name}").status_code == 404
    assert lab.reader.delete(lab.root + "/labels/saved/my-map").status_code == 403
    assert lab.client.delete(lab.root + "/labels/saved/my-map").status_code == 204
    assert lab.get("/labels/saved") == {"saved": []}


def test_a_server_that_only_reads_writes_no_label(lab) -> None:
    body = {"who": "Ann", "labels": [{"slide": SLIDE, "tile": 1, "label": "fat"}]}
    for rest, sent in (
        ("/labels/tiles", body),
        ("/labels/tiles/undo", {"who": "Ann"}),
        ("/labels/tiles/redo", {"who": "Ann"}),
        ("/labels/slides", body),
        ("/labels/slides/undo", {"who": "Ann"}),
        ("/labels/slides/redo", {"who": "Ann"}),
        ("/labels/save", {"name": "x", "who": "Ann"}),
    ):
        answer = lab.reader.post(lab.root + rest, json=sent)
        assert (answer.status_code, "--allow-write" in answer.json()["error"]) == (403, True)
    assert not (lab.tissue.store / "annotations").exists()
    assert not (lab.tissue.store / "classifiers").exists()
    # What another server writes is seen at once.
    lab.label(tile=1, label="fat")
    assert len(lab.reader.get(lab.root + "/labels/tiles").json()["labels"]) == 1


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        ({"label": "a"}, 422),
        ({"tile": 1}, 422),
        ({"tile": 1, "label": ""}, 422),
        ({"tile": 1, "label": "a\u0007"}, 422),
        ({"tile": 1, "label": 3}, 422),
        ({"tile": True, "label": "a"}, 422),
        ({"tile": 1, "point": [1, 1], "label": "a"}, 422),
        ({"tile": 9999, "label": "a"}, 404),
        ({"tile": -1, "label": "a"}, 422),
        ({"tile": 10**30, "label": "a"}, 422),
        ({"point": [-9, 4], "label": "a"}, 422),
        ({"point": [99999, 4], "label": "a"}, 422),
        ({"region": [0, 0, 1, 1], "label": "a"}, 422),
        ({"region": [0, 0, 1], "label": "a"}, 422),
        ({"tile": 1, "label": "a", "laebl": "b"}, 422),
        ({"slide": "0" * 16, "tile": 1, "label": "a"}, 404),
        ({"slide": 3, "tile": 1, "label": "a"}, 422),
    ],
)
def test_labels_that_cannot_be_meant_are_refused_and_nothing_is_written(untouched, entry, status) -> None:
    good = {"slide": SLIDE, "tile": 2, "label": "fat"}
    body = {"who": "Ann", "labels": [good, {"slide": SLIDE, **entry}]}
    answer = untouched.client.post(untouched.root + "/labels/tiles", json=body)
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    assert untouched.get("/labels/tiles")["version"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"labels": [{"tile": 1, "label": "a"}]},
        {"who": "", "labels": [{"tile": 1, "label": "a"}]},
        {"who": "Ann"},
        {"who": "Ann", "labels": []},
        {"who": "Ann", "labels": ["a"]},
        {"who": "Ann", "labels": [{"tile": 1, "label": "a"}], "at": "2020"},
        {"who": 1, "labels": [{"tile": 1, "label": "a"}]},
        {"who": "Ann", "labels": [{"tile": 1, "label": "a"}] * 1001},
    ],
)
def test_bodies_that_cannot_be_meant_are_refused(untouched, body) -> None:
    for entry in body.get("labels", []):
        if isinstance(entry, dict):
            entry["slide"] = SLIDE
    answer = untouched.client.post(untouched.root + "/labels/tiles", json=body)
    assert (answer.status_code, set(answer.json())) == (422, {"error"})
    for rest in ("/labels/tiles", "/labels/slides", "/labels/proposals", "/labels/refit"):
        method = "POST" if rest.endswith("refit") else "GET"
        assert untouched.client.request(method, f"/api/recipes/none{rest}").status_code == 404


def test_clusters_have_the_same_numbers_on_all_slides(lab) -> None:
    one = lab.get(f"/slides/{SLIDE}/clusters.json", k=4)
    two = lab.get(f"/slides/{handle('c01/s0.svs')}/clusters.json", k=4)
    assert (one["k"], one["of_tiles"], one["sample"], len(one["cluster"])) == (4, 1536, 1536, 256)
    assert [c["share"] for c in one["clusters"]] == [c["share"] for c in two["clusters"]]
    assert sum(c["here"] for c in one["clusters"]) == 256
    assert sum(c["tiles"] for c in one["clusters"]) == pytest.approx(1536, abs=4)
    answer = lab.client.get(f"{lab.root}/slides/{SLIDE}/clusters.bin", params={"k": 4})
    assert np.frombuffer(answer.content, "<f4").tolist() == one["cluster"]
    legend = lab.get("/clusters.json", k=4)
    for here, typical in zip(one["clusters"], legend["clusters"], strict=True):
        assert here["exemplar"] == typical["exemplar"]
        exemplar = typical["exemplar"]
        theirs = lab.get(f"/slides/{exemplar['slide']}/clusters.json", k=4)
        assert theirs["cluster"][exemplar["tile"]] == typical["cluster"]
    for k in ("1", "33", "x"):
        lab.get("/clusters.json", 422, k=k)
