"""How far a running ingest is: honest while it runs, and gone or told as stopped afterwards."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from beph_store.engine import live
from beph_store.engine.live import Meter, RunProgress, look, shown
from beph_store.engine.report import Silent
from beph_store.records import SlideOutcome
from beph_store.store.layout import Layout


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(live.time, "monotonic", made.monotonic)
    return made


def test_slides_that_were_not_opened_are_taken_for_average_ones(clock) -> None:
    meter = Meter(Silent())
    meter.finished(SlideOutcome("old", "skipped", 50))
    meter.planned(4, 1)
    assert meter.measure() == RunProgress(0, None, None, None, None, 4, {"skipped": 1})
    meter.started("a", 100, 20)
    meter.started("b", 120, 0)
    clock.at += 10
    meter.advanced("a", 40)
    now = meter.measure()
    assert (now.done, now.total) == (40, 80 + 120 + 100)
    assert now.per_second == 4
    assert now.eta_seconds == 65
    assert (now.slides, now.ended) == (4, {"skipped": 1})


def test_what_failed_is_not_awaited(clock) -> None:
    meter = Meter(Silent())
    meter.planned(3, 0)
    meter.started("a", 100, 0)
    meter.advanced("a", 30)
    meter.finished(SlideOutcome("a", "failed", error="no"))
    meter.finished(SlideOutcome("b", "failed", error="cannot be opened"))
    meter.started("c", 10, 0)
    now = meter.measure()
    assert (now.done, now.total) == (30, 40)
    meter.advanced("c", 10)
    meter.finished(SlideOutcome("c", "done", 10))
    now = meter.measure()
    assert (now.done, now.total, now.ended) == (40, 40, {"failed": 2, "done": 1})


@pytest.mark.parametrize(
    ("encode", "write", "stage"), [(9.5, 1, "encode"), (2, 9, "write"), (4, 1, "read"), (0, 0, "read")]
)
def test_the_bottleneck_is_the_stage_that_hardly_waits(
    clock, encode: float, write: float, stage: str
) -> None:
    meter = Meter(Silent())
    meter.planned(1, 0)
    meter.started("a", 100, 0)
    meter.measure()
    clock.at += 10
    meter.advanced("a", 10)
    meter.clocks.encode = encode
    meter.clocks.write.busy = write
    assert meter.measure().bottleneck == stage


def test_rates_are_those_of_late(clock) -> None:
    meter = Meter(Silent())
    meter.planned(1, 0)
    meter.started("a", 10_000, 0)
    for rate in [100] * 30 + [1] * 40:
        clock.at += 2
        meter.advanced("a", 2 * rate)
        last = meter.measure()
    assert last.per_second == 1


class Heard(Silent):
    def __init__(self) -> None:
        self.told: list[RunProgress] = []

    def measured(self, progress: RunProgress) -> None:
        self.told.append(progress)


def test_a_run_is_seen_while_it_lives_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(live, "SECONDS", 0.02)
    layout, heard = Layout(tmp_path), Heard()
    meter = Meter(heard)
    with shown(layout, "r1", meter):
        meter.planned(2, 0)
        meter.started("a", 7, 0)
        lives, told = look(layout, "r1")
        while not (told and told["total"]):  # it may have begun to tell before there was a plan
            time.sleep(0.02)
            lives, told = look(layout, "r1")
        assert lives
        assert told["total"] == 14
        assert abs(told["at"] - time.time()) < 5
    assert heard.told[-1].total == 14
    assert look(layout, "r1") == (False, None)
    assert list(layout.runs.iterdir()) == []


def test_a_run_that_was_killed_is_told_from_one_that_computes(tmp_path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom beph_store.engine.live import Meter, shown\n"
        "from beph_store.engine.report import Silent\nfrom beph_store.store.layout import Layout\n"
        "with shown(Layout(Path(sys.argv[1])), 'r1', Meter(Silent())):\n"
        "    print('on', flush=True)\n    time.sleep(60)\n"
    )
    layout = Layout(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "on\n"
        assert look(layout, "r1")[0]
    finally:
        process.kill()
        process.communicate()
    assert not look(layout, "r1")[0]
