"""What a worker does, without its process: it tells how far it is, and why it failed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from beph_store.engine.live import RunProgress
from beph_store.records import SlideOutcome
from beph_store.serve.jobs import work as working
from beph_store.serve.jobs.events import read_events
from beph_store.serve.jobs.files import Folder, read_json
from beph_store.serve.jobs.record import Job, write
from beph_store.serve.jobs.work import Teller, _Ingest
from beph_store.serve.jobs.worker import work

from ..engine.study.conftest import Planted, plant


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    return plant(tmp_path_factory.mktemp("work"), cases=4)


def asked(folder: Folder, planted: Planted, kind: str, options: dict[str, Any], **more: Any) -> Job:
    store = {"store": str(planted.store.resolve())}
    job = Job("20260101T000000-00000000", kind, "t", options, "now", planted.key, {**store, **more})
    write(folder, job)
    return job


def test_progress_is_told_with_its_rate(folder, monkeypatch) -> None:
    at = [100.0]
    monkeypatch.setattr(working.time, "monotonic", lambda: at[0])
    told = Teller(folder).count("cases")
    told(0, 100)
    assert read_json(folder.progress)["per_second"] is None
    at[0] += 10
    told(20, 100)
    progress = read_json(folder.progress)
    assert (progress["done"], progress["total"], progress["unit"]) == (20, 100, "cases")
    assert (progress["per_second"], progress["eta_seconds"]) == (2, 40)
    at[0] += 0.1
    told(21, 100)  # too soon to be worth it
    assert read_json(folder.progress)["done"] == 20
    told(100, 100)  # the last is always told
    assert read_json(folder.progress)["done"] == 100
    assert [event["kind"] for event in read_events(folder.events)] == ["progress"]


def test_a_new_stage_has_a_rate_of_its_own(folder, monkeypatch) -> None:
    at = [100.0]
    monkeypatch.setattr(working.time, "monotonic", lambda: at[0])
    tell = Teller(folder)
    tell.count("tiles")(0, 5000)
    at[0] += 1
    tell.count("tiles")(5000, 5000)
    at[0] += 1
    epochs = tell.count("epochs")
    epochs(1, 60)
    at[0] += 1
    epochs(2, 60)
    assert read_json(folder.progress)["per_second"] == 1


def test_a_folder_that_cannot_be_written_stops_no_work(folder) -> None:
    shutil.rmtree(folder.root)
    tell = Teller(folder)
    tell.note("on it goes")
    tell.count("cases")(1, 2)
    folder.root.mkdir()


def test_of_endless_events_the_first_are_kept(folder, monkeypatch) -> None:
    monkeypatch.setattr(working, "MOST_LINES", 10)
    tell = Teller(folder)
    for number in range(30):
        tell.note(str(number))
    assert [event["text"] for event in read_events(folder.events)] == [str(n) for n in range(10)]


def test_an_ingest_is_told_slide_by_slide(folder) -> None:
    told = _Ingest(Teller(folder))
    told.planned(3, 1)
    told.finished(SlideOutcome("old", "skipped", 5))
    told.finished(SlideOutcome("bad\udcff<b>", "failed", error="cannot be opened"))
    told.finished(SlideOutcome("good", "done", 1234, 2.5))
    told.measured(RunProgress(1234, 1300, 12.5, 5.0, "encode", 3, {"done": 1}))
    progress = read_json(folder.progress)
    assert (progress["done"], progress["bottleneck"], progress["ended"]) == (1234, "encode", {"done": 1})
    assert [event["text"] for event in read_events(folder.events)] == [
        "3 slides, 1 of them in the store already",
        "bad\udcff<b>: failed: cannot be opened",
        "good: done, 1,234 tiles, 2.5 s",
    ]


def test_a_failure_is_one_line_that_names_no_folder_of_the_machine(folder, planted, capsys) -> None:
    asked(folder, planted, "train", {"cohort": "gone", "task": "classify"})
    assert work(folder) == 1
    assert "upload it again" in read_json(folder.result)["error"]
    assert "Traceback" in capsys.readouterr().err
    write(folder, dataclasses.replace(asked(folder, planted, "index", {}), recipe="nope"))
    assert work(folder) == 1
    error = read_json(folder.result)["error"]
    assert "\n" not in error
    assert str(planted.store.parent) not in error


def test_an_index_is_made_where_it_pays(folder, planted) -> None:
    asked(folder, planted, "index", {})
    assert work(folder) == 0
    assert json.loads(folder.result.read_text())["result"]["did"] == "none"


def test_slides_are_looked_for_again_before_they_are_read(folder, planted, tmp_path, drawn_slide) -> None:
    """A file that was fine when it was asked for is a link to somewhere else by now."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.tif").symlink_to(drawn_slide.path)
    asked(
        folder,
        planted,
        "ingest",
        {},
        slides=[str(root / "a.tif")],
        roots=[str(root)],
        ingest={},
        slide_mpp=None,
    )
    assert work(folder) == 1
    assert "--ingest-root" in read_json(folder.result)["error"]
    assert not list((Path(planted.store) / "runs").glob("*"))
