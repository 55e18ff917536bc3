"""What may be asked for, by whom, and what is refused: nothing is started here."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from beph_store.engine.study.kept import keep_table
from beph_store.errors import UsageError
from beph_store.serve.desk import Folders
from beph_store.serve.jobs.queue import Busy, Jobs, NewJob
from beph_store.serve.jobs.record import read
from beph_store.store import Store
from beph_store_cli.commands import serve as command

from ..engine.study.conftest import Planted, plant
from .conftest import client_of
from .test_jobs_roots import places

__all__ = ["places"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return plant(tmp_path_factory.mktemp("jobs"), cases=8)


@pytest.fixture(scope="module")
def cohort(planted) -> str:
    return keep_table(Store.open(planted.store), planted.labels.read_bytes(), ".csv", "mine").id


@pytest.fixture
def client(planted, places) -> TestClient:
    """Not started: what is asked for stays in the queue."""
    return client_of(planted.store, allow_write=True, folders=Folders(ingest=(places / "root",)))


def desk_of(client: TestClient) -> Any:
    return client.app.inner.state.desk


@pytest.fixture(autouse=True)
def tidy(client) -> Any:
    yield
    jobs = desk_of(client).jobs
    for job in jobs.all():
        if not job.ended:
            jobs.cancel(job.job)
        jobs.delete(job.job)


def post(client: TestClient, body: Any, code: int = 202) -> Any:
    answer = client.post("/api/jobs", json=body)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_a_training_is_taken_and_listed(client, planted, cohort) -> None:
    options = {"cohort": cohort, "task": "classify", "target": "label", "folds": 2}
    job = post(client, {"kind": "train", "recipe": planted.key, "options": options})
    assert (job["kind"], job["state"], job["recipe"], job["options"]) == (
        "train",
        "queued",
        planted.key,
        options,
    )
    assert job["title"] == "linear · label · mine"
    assert (job["progress"], job["error"], job["result"], job["started_at"]) == (None, None, None, None)
    assert client.get(f"/api/jobs/{job['job']}").json() == job
    other = post(client, {"kind": "index", "recipe": planted.key})
    assert [one["job"] for one in client.get("/api/jobs").json()["jobs"]] == [other["job"], job["job"]]
    events = client.get(f"/api/jobs/{job['job']}/events").json()
    assert (events["next"], events["events"][0]["state"]) == (1, "queued")
    assert client.get(f"/api/jobs/{job['job']}/events?after=1").json() == {"events": [], "next": 1}
    log = client.get(f"/api/jobs/{job['job']}/log")
    assert (log.text, log.headers["content-type"]) == ("", "text/plain; charset=utf-8")
    assert str(planted.store) not in json.dumps(job)


def test_a_job_is_cancelled_and_deleted(client, planted) -> None:
    name = post(client, {"kind": "index", "recipe": planted.key})["job"]
    url, said = f"/api/jobs/{name}", Store.open(planted.store).layout.predictions / name
    said.mkdir(parents=True)  # as applying its head to all slides leaves it
    assert client.delete(url).status_code == 409
    answer = client.post(f"{url}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert client.post(f"{url}/cancel").status_code == 409
    assert said.is_dir()
    assert client.delete(url).status_code == 200
    assert not said.exists()
    for refused in (
        client.get(url),
        client.get(f"{url}/log"),
        client.post(f"{url}/cancel"),
        client.delete(url),
    ):
        assert refused.status_code == 404
        assert set(refused.json()) == {"error"}


def test_a_server_that_reads_starts_nothing_and_cancels_nothing(client, planted, cohort) -> None:
    job = post(client, {"kind": "index", "recipe": planted.key})["job"]
    reader = client_of(planted.store)
    before = sorted(planted.store.rglob("*"))
    body = {"kind": "train", "recipe": planted.key, "options": {"cohort": cohort, "task": "classify"}}
    for answer in (
        reader.post("/api/jobs", json=body),
        reader.post("/api/jobs", content=b"nonsense"),
        reader.post(f"/api/jobs/{job}/cancel"),
        reader.delete(f"/api/jobs/{job}"),
    ):
        assert answer.status_code == 403
        assert answer.json() == {"error": "this server only reads: start it with --allow-write"}
    told = [one.get("/api/store").json() for one in (reader, client)]
    assert [(one["writable"], one["can_ingest"]) for one in told] == [(False, False), (True, True)]
    assert [one["job"] for one in reader.get("/api/jobs").json()["jobs"]] == [job]
    with reader:
        assert reader.get(f"/api/jobs/{job}").json()["state"] == "queued"
    assert sorted(planted.store.rglob("*")) == before


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"kind": "rm"},
        {"kind": 3},
        {"kind": "train"},
        {"kind": "train", "recipe": "nope", "options": {}},
        {"kind": "train", "recipe": "KEY", "options": []},
        {"kind": "train", "recipe": "KEY", "options": {}},
        {"kind": "train", "recipe": "KEY", "options": {"cohort": "nope", "task": "classify"}},
        {"kind": "train", "recipe": "KEY", "options": {"cohort": "../labels", "task": "classify"}},
        {"kind": "train", "recipe": "KEY", "options": {"cohort": "COHORT", "task": "guess"}},
        {"kind": "train", "recipe": "KEY", "options": {"cohort": "COHORT", "task": "classify", "folds": 1}},
        {
            "kind": "train",
            "recipe": "KEY",
            "options": {"cohort": "COHORT", "task": "classify", "folds": True},
        },
        {
            "kind": "train",
            "recipe": "KEY",
            "options": {"cohort": "COHORT", "task": "classify", "out": "/tmp"},
        },
        {"kind": "train", "recipe": "KEY", "options": {"cohort": "COHORT", "task": "survive", "loss": "nll"}},
        {
            "kind": "train",
            "recipe": "KEY",
            "options": {"cohort": "COHORT", "task": "classify", "title": "x" * 999},
        },
        {"kind": "train", "recipe": "KEY", "options": {"cohort": "COHORT", "task": "classify"}, "more": 1},
        {"kind": "index"},
        {"kind": "index", "recipe": "KEY", "options": {"anew": True}},
        {"kind": "apply", "options": {}},
        {"kind": "apply", "options": {"head": "20200101T000000-00000000"}},
        {"kind": "apply", "options": {"head": "../../S"}},
        {"kind": "ingest", "options": {}},
        {"kind": "ingest", "options": {"slides": []}},
        {"kind": "ingest", "options": {"slides": "a.tif"}},
        {"kind": "ingest", "options": {"slides": [3]}},
        {"kind": "ingest", "options": {"slides": ["/etc/passwd"]}},
        {"kind": "ingest", "options": {"slides": ["../secret/s.tif"]}},
        {"kind": "ingest", "options": {"slides": ["out.tif"]}},
        {"kind": "ingest", "options": {"slides": ["."]}},
        {"kind": "ingest", "options": {"slides": ["a.tif"], "encoder": "/tmp/evil"}},
        {"kind": "ingest", "options": {"slides": ["a.tif"], "encoder": "../evil"}},
        {"kind": "ingest", "options": {"slides": ["a.tif"], "store": "/tmp/S"}},
        {"kind": "ingest", "options": {"slides": ["a.tif"], "mpp": -1}},
        {"kind": "ingest", "options": {"slides": ["a.tif"], "manifest": "/etc/passwd"}},
        {"kind": "ingest", "recipe": "KEY", "options": {"slides": ["a.tif"], "mpp": 1}},
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(client, planted, cohort, body) -> None:
    text = json.dumps(body).replace("KEY", planted.key).replace("COHORT", cohort)
    before = sorted(planted.store.rglob("*"))
    answer = client.post("/api/jobs", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error"}
    assert sorted(planted.store.rglob("*")) == before


@pytest.mark.parametrize("body", [b"", b"{", b'{"kind":', b"\xff", b"[" * 50_000, b'{"kind": NaN}'])
def test_what_is_no_json_is_refused(client, body: bytes) -> None:
    answer = client.post("/api/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert client.post("/api/jobs", content=b"kind=train").status_code == 422


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fstore",
        "lock",
        ".new-20200101T000000-00000000",
        "20200101T000000-00000000",
        "%00",
    ],
)
def test_no_job_is_found_by_a_path(client, planted, name: str) -> None:
    post(client, {"kind": "index", "recipe": planted.key})
    for method, rest in (
        ("GET", ""),
        ("GET", "/log"),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        answer = client.request(method, f"/api/jobs/{name}{rest}")
        assert answer.status_code in (404, 405), (method, rest)
        assert set(answer.json()) == {"error"}


def test_slides_are_ingested_from_the_named_folders_only(client, planted, places) -> None:
    options = {"slides": ["a.tif", "deep"], "limit_tiles": 4}
    job = post(client, {"kind": "ingest", "options": options})
    assert (job["title"], job["options"]) == ("ingest 2 slides and folders", options)
    record = read(desk_of(client).jobs.folder(job["job"]))
    assert record.work["slides"] == [str(places / "root/a.tif"), str(places / "root/deep")]
    assert record.work["ingest"] == {"limit_tiles": 4}
    closed = client_of(planted.store, allow_write=True)
    answer = closed.post("/api/jobs", json={"kind": "ingest", "options": options})
    assert answer.status_code == 403
    assert "--ingest-root" in answer.json()["error"]


def test_slides_are_added_to_a_recipe_as_it_was_made(client, planted) -> None:
    job = post(
        client, {"kind": "ingest", "recipe": planted.key, "options": {"slides": ["a.tif"], "workers": 1}}
    )
    work = read(desk_of(client).jobs.folder(job["job"])).work["ingest"]
    tile = Store.open(planted.store).recipe().recipe.tile
    assert (work["encoder"], work["mpp"], work["tissue_min"], work["workers"]) == (
        "test",
        tile.mpp,
        tile.tissue_min,
        1,
    )


def test_names_from_a_job_are_data(client, planted) -> None:
    nasty = "<img src=x onerror=alert(1)>\n\ndata: x"
    job = post(client, {"kind": "index", "recipe": planted.key, "options": {"title": nasty}})
    assert job["title"] == nasty
    folder = desk_of(client).jobs.folder(job["job"])
    folder.log.write_bytes(b"<script>alert(1)</script>\xff\n")
    log = client.get(f"/api/jobs/{job['job']}/log")
    assert log.text == "<script>alert(1)</script>\ufffd\n"
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    assert log.headers["x-content-type-options"] == "nosniff"


def test_folders_are_named_with_writing_and_must_be_there(tmp_path) -> None:
    with pytest.raises(UsageError, match="--allow-write"):
        command.serve("S", ingest_root=[tmp_path])
    with pytest.raises(UsageError, match="no such folder"):
        command.serve("S", ingest_root=[tmp_path / "none"], allow_write=True)
    with pytest.raises(UsageError, match="no such folder"):
        command.serve("S", heads=[tmp_path / "none"])


def test_the_queue_has_an_end(client, planted, monkeypatch) -> None:
    monkeypatch.setattr("beph_store.serve.jobs.queue.MOST_OPEN", 1)
    post(client, {"kind": "index", "recipe": planted.key})
    post(client, {"kind": "index", "recipe": planted.key}, 409)


def test_many_who_ask_at_once_do_not_get_past_the_end_of_the_queue(client, planted, monkeypatch) -> None:
    monkeypatch.setattr("beph_store.serve.jobs.queue.MOST_OPEN", 10)
    body = {"kind": "index", "recipe": planted.key}
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: client.post("/api/jobs", json=body), range(100)))
    assert Counter(answer.status_code for answer in answers) == {202: 10, 409: 90}
    refusals = {answer.json()["error"] for answer in answers if answer.status_code == 409}
    assert refusals == {"10 jobs are waiting: cancel some, or wait"}
    assert len(client.get("/api/jobs").json()["jobs"]) == 10
    assert not list(desk_of(client).jobs.root.glob(".new-*"))


def test_many_threads_of_one_queue_do_not_get_past_its_end(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("beph_store.serve.jobs.queue.MOST_OPEN", 5)
    jobs = Jobs(tmp_path / "jobs")

    def ask(number: int) -> bool:
        try:
            jobs.submit(NewJob("index", str(number), {}, None, {}))
        except Busy:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(ask, range(48))) == 5
    assert len(jobs.all()) == 5


def test_many_jobs_are_listed_quickly_and_a_stranger_among_them_is_passed_over(client, planted) -> None:
    jobs = desk_of(client).jobs
    for _ in range(5):
        jobs.cancel(jobs.submit(NewJob("index", "t", {}, planted.key, {})).job)
    (jobs.root / "notes.txt").write_text("mine")
    assert len(client.get("/api/jobs").json()["jobs"]) == 5
    (jobs.root / "notes.txt").unlink()
    assert Path(jobs.root).is_dir()
