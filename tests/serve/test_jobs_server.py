"""The whole way, with real servers: a training that is watched, kills, restarts, an ingest that is cancelled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from beph_store.engine.live import look
from beph_store.serve.jobs.files import Folder
from beph_store.serve.jobs.queue import Jobs
from beph_store.serve.jobs.record import read
from beph_store.store import Store, verify
from beph_store.store.layout import Layout

from ..engine.study.conftest import plant
from .test_jobs import alive, until
from .test_server import start

LONG = {
    "task": "classify",
    "target": "label",
    "head": "abmil",
    "epochs": 10_000,
    "patience": 10_000,
    "folds": 3,
}


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    base: str
    token: str

    @classmethod
    def up(cls, store: Path, *arguments: str) -> Server:
        process = start(store, "--json", "--allow-write", *arguments)
        told = json.loads(process.stdout.readline())
        return cls(process, told["base"], told["token"])

    def ask(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> tuple[int, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path,
            data,
            {"authorization": f"Bearer {self.token}", "content-type": kind},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if "json" in answer.headers["content-type"] else text
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def train(self, key: str, cohort: str, **options: Any) -> str:
        body = {"kind": "train", "recipe": key, "options": {"cohort": cohort, **options}}
        code, job = self.ask("POST", "/api/jobs", body)
        assert code == 202, job
        return job["job"]

    def job(self, name: str) -> dict[str, Any]:
        return self.ask("GET", f"/api/jobs/{name}")[1]

    def wait(self, name: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        until(lambda: self.job(name)["state"] in states, seconds)
        return self.job(name)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[..., Server]]:
    """Starts servers, which takes seconds; none is left running."""
    made: list[Server] = []

    def up(store: Path, *arguments: str) -> Server:
        made.append(Server.up(store, *arguments))
        return made[-1]

    yield up
    for one in made:
        if one.process.poll() is None:
            one.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Iterator[Any]:
    made = plant(tmp_path_factory.mktemp("planted"), cases=12)
    yield made
    for folder in made.store.glob("jobs/*/"):  # what a failed test left running
        job = read(Folder(folder))
        if job is not None and not job.ended and job.worker and alive(job.worker["process"]):
            os.kill(job.worker["process"], signal.SIGKILL)


@pytest.fixture(scope="module")
def many_slides(tmp_path_factory, drawn_slide) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(12):
        shutil.copy(drawn_slide.path, folder / f"s{number:02d}.tif")
    return folder


@pytest.fixture(scope="module")
def one(server, planted, many_slides) -> Server:
    """The server of most tests."""
    return server(planted.store, "--ingest-root", str(many_slides))


def stream(server: Server) -> Any:
    request = urllib.request.Request(
        server.base + "/api/events", headers={"authorization": f"Bearer {server.token}"}
    )
    return urllib.request.urlopen(request, timeout=60)


def messages(lines: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in lines:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def upload(server: Server, planted: Any) -> str:
    code, made = server.ask("POST", "/api/cohorts?name=mine", planted.labels.read_bytes(), "text/csv")
    assert code == 201, made
    return made["cohort"]


def test_a_training_is_watched_to_its_head_and_the_head_is_applied(one, planted) -> None:
    cohort = upload(one, planted)
    with stream(one) as lines:
        job = one.train(
            planted.key, cohort, task="classify", target="label", head="abmil", folds=2, epochs=3, draws=50
        )
        epochs, told = [], []
        for kind, data in messages(lines):
            if kind == "job-event" and data["kind"] == "epoch":
                epochs.append((data["fold"], data["epoch"]))
                assert data["train_loss"] > 0
            if kind == "job":
                told.append((data["state"], data["job"]))
                if data["ended_at"]:
                    break
    assert set(epochs) == {(fold, epoch) for fold in (0, 1) for epoch in (1, 2, 3)}
    assert ("running", job) in told
    assert told[-1] == ("done", job)
    done = one.job(job)
    assert done["result"]["head"] == job
    assert 0 <= done["result"]["metrics"]["auroc"] <= 1
    assert (done["progress"]["done"], done["progress"]["total"], done["progress"]["unit"]) == (6, 6, "epochs")
    code, head = one.ask("GET", f"/api/heads/{job}")
    assert (code, head["task"]) == (200, "classify")
    assert one.ask("GET", f"/api/heads/{job}/predictions.csv")[0] == 409
    code, applied = one.ask(
        "POST", "/api/jobs", {"kind": "apply", "recipe": planted.key, "options": {"head": job}}
    )
    assert code == 202
    assert one.wait(applied["job"], "done", "failed")["state"] == "done"
    code, csv = one.ask("GET", f"/api/heads/{job}/predictions.csv")
    assert code == 200
    assert len(csv.splitlines()) == 1 + len(list(Store.open(planted.store).rows(planted.key)))
    assert one.ask("DELETE", f"/api/jobs/{job}")[0] == 200
    assert one.ask("GET", f"/api/heads/{job}")[0] == 404


def test_clients_that_vanish_leave_no_stream(one) -> None:
    files = Path(f"/proc/{one.process.pid}/fd")
    with stream(one):
        before = len(list(files.iterdir()))
    port = int(one.base.rpartition(":")[2])
    for _ in range(150):  # more than may be open at a time
        with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
            head = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {one.token}\r\n\r\n"
            wire.sendall(head.encode())
            assert wire.recv(100).startswith(b"HTTP/1.1 200")
    until(lambda: len(list(files.iterdir())) <= before)
    with stream(one) as lines:
        assert lines.status == 200


def test_an_ingest_that_is_cancelled_leaves_a_store_that_can_go_on(one, planted) -> None:
    body = {"kind": "ingest", "options": {"slides": ["."], "encoder": "beph-mini", "title": "all of them"}}
    code, job = one.ask("POST", "/api/jobs", body)
    assert code == 202, job
    until(lambda: (one.job(job["job"])["progress"] or {}).get("done"), 60)
    running = one.job(job["job"])["progress"]
    assert (running["unit"], running["slides"]) == ("tiles", 12)
    run = one.ask("GET", "/api/runs")[1]["runs"][0]
    assert (run["state"], run["progress"]["slides"]) == ("running", 12)
    one.ask("POST", f"/api/jobs/{job['job']}/cancel")
    ended = one.wait(job["job"], "cancelled", "done", "failed")
    assert ended["state"] == "cancelled", ended
    store = Store.open(planted.store)
    assert one.ask("GET", f"/api/runs/{run['run']}")[1]["state"] == "ended"
    assert verify(store).ok
    (key,) = [r.recipe.key for r in store.recipes() if r.recipe.encoder.name == "beph-mini"]
    finished = {row.slide_id: row.ingest_id for row in store.rows(key)}
    body = {"kind": "ingest", "recipe": key, "options": {"slides": ["s00.tif", "s01.tif"]}}
    code, again = one.ask("POST", "/api/jobs", body)
    assert code == 202, again
    done = one.wait(again["job"], "done", "failed")
    assert done["state"] == "done", one.ask("GET", f"/api/jobs/{again['job']}/log")
    assert sum(done["result"]["slides"].values()) == 2
    assert done["progress"]["done"] == done["progress"]["total"]
    assert sum(done["progress"]["ended"].values()) == 2
    rows = {row.slide_id: row.ingest_id for row in store.rows(key) if row.status == "done"}
    assert {"s00.tif", "s01.tif"} <= set(rows)
    assert all(rows[slide] == ingest for slide, ingest in finished.items())
    assert verify(store).ok


def test_an_ingest_of_the_command_line_is_seen_and_its_death_too(one, planted, many_slides) -> None:
    command = [
        sys.executable,
        "-m",
        "beph_store_cli",
        "ingest",
        str(many_slides),
        "--store",
        str(planted.store),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with stream(one) as lines:
            for kind, data in messages(lines):
                if kind == "run" and data["progress"]["done"]:
                    break
        run = one.ask("GET", f"/api/runs/{data['run']}")[1]
        assert (run["state"], run["progress"]["slides"]) == ("running", 12)
        assert run["progress"]["total"] >= run["progress"]["done"] > 0
    finally:
        process.kill()
        process.wait()
    assert one.ask("GET", f"/api/runs/{data['run']}")[1]["state"] == "stopped"
    assert not look(Layout(planted.store), data["run"])[0]


def test_a_job_survives_a_server_that_is_killed_and_the_next_one_cancels_it(server, one, planted) -> None:
    """The last of this file: it kills the server of the others."""
    cohort = upload(one, planted)
    job, waits = one.train(planted.key, cohort, **LONG), one.train(planted.key, cohort, **LONG)
    one.wait(job, "running", "failed")
    until(lambda: (one.job(job)["progress"] or {}).get("unit") == "epochs", 60)
    port = one.base.rpartition(":")[2]
    one.stop(signal.SIGKILL)
    before = read(Folder(planted.store / "jobs" / job))
    assert alive(before.worker["process"])
    again = server(planted.store, "--port", port)  # the port is free: no job holds on to it
    assert [again.job(name)["state"] for name in (job, waits)] == ["running", "queued"]
    at = again.job(job)["progress"]["done"]
    until(lambda: again.job(job)["progress"]["done"] > at)
    other = Jobs(planted.store / "jobs")  # one more server
    for _ in range(10):
        other.tick()
    assert [other.get(name).state for name in (job, waits)] == ["running", "queued"]
    assert read(Folder(planted.store / "jobs" / job)).worker == before.worker
    assert other.cancel(waits).state == "cancelled"
    assert again.ask("POST", f"/api/jobs/{job}/cancel")[0] == 202
    assert again.wait(job, "cancelled", "failed", "done")["state"] == "cancelled"
    until(lambda: not alive(before.worker["process"]))
    streams_end(again)


def streams_end(server: Server) -> None:
    streams = [stream(server) for _ in range(5)]
    began = time.monotonic()
    assert server.stop() == (0, "")
    assert time.monotonic() - began < 20  # without the news it would wait for them for ever
    for lines in streams:
        with lines:
            lines.read()  # to the end, which was told
