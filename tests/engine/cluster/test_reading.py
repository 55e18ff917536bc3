"""Spans read without a cluster: what a task says, and what the pool makes of tasks that are lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beph_store.engine.cluster import reading
from beph_store.engine.cluster.reading import (
    Begun,
    Piece,
    SpanPool,
    Surveyed,
    Work,
    read_span,
    survey_slide,
    work_of,
)
from beph_store.engine.messages import Closed, Failed
from beph_store.engine.plan import SlideTask
from beph_store.engine.readers import Tiles
from beph_store.errors import ClusterUnavailable
from beph_store.records import TileSpec

SPEC = TileSpec(224, 0.5, 224, 0.25, "otsu-saturation")


@pytest.fixture(scope="module")
def surveyed(drawn_slide) -> tuple[SlideTask, Surveyed]:
    task = SlideTask("a.tif", drawn_slide.path)
    known, rasters = survey_slide(task, SPEC)
    assert isinstance(known, Surveyed)
    assert rasters is not None
    return task, known


def test_spans_in_whatever_order_have_the_pixels_of_the_slide(surveyed) -> None:
    task, known = surveyed
    count = len(known.tiles)
    assert sorted(known.order.tolist()) == list(range(count))
    spans = np.array_split(known.order, 3)
    whole = _said(work_of(task, known.tiles, known.order, known.order[:0]))
    pixels = _pixels(whole)
    assert sorted(pixels) == list(range(count))
    decodes, distinct = 0, 0
    before = known.order[:0]
    for span in spans:
        said = _said(work_of(task, known.tiles, span, before))
        part = _pixels(said)
        assert sorted(part) == sorted(span.tolist())
        for index, tile in part.items():
            np.testing.assert_array_equal(tile, pixels[index])
        assert isinstance(said[0], Begun)
        assert isinstance(said[-1], Closed)
        decodes, distinct = decodes + said[-1].stats.decodes, distinct + said[-1].stats.distinct
        before = np.concatenate([before, span])
    assert isinstance(whole[-1], Closed)
    assert distinct == whole[-1].stats.distinct  # what lies on a cut is counted once
    assert decodes >= whole[-1].stats.decodes


def _said(work: Work) -> list[Any]:
    """A reader uses its buffer again: Ray copies what it says before it goes on."""
    return [
        replace(said, pixels=said.pixels.copy()) if isinstance(said, Piece) else said
        for said in read_span(work)
    ]


def _pixels(said: list[Any]) -> dict[int, np.ndarray]:
    """By tile."""
    pieces = [piece for piece in said if isinstance(piece, Piece)]
    index = np.concatenate([piece.tile_index for piece in pieces]).tolist()
    return dict(zip(index, np.concatenate([piece.pixels for piece in pieces]), strict=True))


HANGS = """
import sys, time
from types import SimpleNamespace
from beph_store.engine.cluster import reading
reading.STALL_SECONDS = 0.3 if sys.argv[1] == "hang" else 2.0
def open_slide():
    if sys.argv[1] == "hang":
        time.sleep(60)
    raise OSError("no such slide")
task = SimpleNamespace(slide_id="a.svs", remote=None, memory_bytes=1 << 32, open=open_slide)
print(reading.survey_slide(task, None)[0].error)
time.sleep(2.2)
"""


def test_a_survey_that_hangs_ends_its_process_and_no_other() -> None:
    def ended(how: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", HANGS, how], capture_output=True, text=True, timeout=60)

    assert ended("hang").returncode == -signal.SIGALRM
    done = ended("fail")
    assert (done.returncode, done.stdout.strip()) == (0, "the reader failed: OSError: no such slide"), (
        done.stderr
    )


def test_a_slide_that_is_not_there_is_a_slide_that_failed(tmp_path: Path) -> None:
    task = SlideTask("gone.svs", tmp_path / "gone.svs")
    known, rasters = survey_slide(task, SPEC)
    assert isinstance(known, Failed)
    assert rasters is None
    assert "gone.svs" in known.error


class _Lost(Exception):
    """Ray's errors, for a test without Ray."""


class _TaskError(_Lost):
    cause = ValueError("of the task")


class _Ray:
    """As much of Ray as a pool uses: a stream is an iterator, a reference what it refers to."""

    class exceptions:
        RayError = _Lost
        RayTaskError = _TaskError

    def __init__(self) -> None:
        self.cancelled: list[Any] = []

    def wait(self, streams: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        ready = [stream for stream in streams if stream.ready]
        return ready[:num_returns], streams

    def get(self, item: Any) -> Any:
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, stream: Any, force: bool) -> None:
        self.cancelled.append(stream)


class _Stream:
    def __init__(self, items: list[Any], *, ready: bool = True) -> None:
        self._items: Iterator[Any] = iter(items)
        self.ready = ready

    def __next__(self) -> Any:
        return next(self._items)


def _work(surveyed: tuple[SlideTask, Surveyed], count: int = 8) -> Work:
    task, known = surveyed
    return work_of(task, known.tiles, known.order[:count], known.order[:0])


def _piece(work: Work, first: int, last: int) -> Piece:
    index = work.tile_index[first:last]
    return Piece(index, np.ones(len(index), bool), np.zeros((len(index), 2, 2, 3), np.uint8))


def _events(pool: SpanPool) -> list[Any]:
    events = []
    for event in pool.events():
        events.append(event)
        if isinstance(event, Tiles):
            pool.give_back(event)
    return events


def test_another_reader_goes_on_where_one_was_lost(surveyed) -> None:
    begun: list[Work] = []
    ends: list[Any] = [_Lost(), Closed("a.tif", reading.ReadStats())]

    def start(work: Work, near: bool) -> _Stream:
        begun.append(work)
        half = len(work.tile_index) // 2 if len(begun) == 1 else len(work.tile_index)
        return _Stream([Begun(), _piece(work, 0, half), ends[len(begun) - 1]])

    pool = SpanPool(_Ray(), start, near=1)
    pool.give([_work(surveyed)])
    pool.finish()
    events = _events(pool)
    assert [type(event) for event in events] == [Tiles, Tiles, Closed]
    read = np.concatenate([event.tile_index for event in events[:2]])
    np.testing.assert_array_equal(read, surveyed[1].order[:8])  # each once
    np.testing.assert_array_equal(begun[1].tile_index, surveyed[1].order[4:8])
    np.testing.assert_array_equal(
        begun[1].tiles.origin_l0[:4], surveyed[1].tiles.origin_l0[begun[1].tile_index]
    )


def test_a_file_that_every_reader_crashes_on_fails_in_the_end(surveyed) -> None:
    starts = []

    def start(work: Work, near: bool) -> _Stream:
        starts.append(work)
        return _Stream([Begun(), _Lost()])

    pool = SpanPool(_Ray(), start, near=1)
    pool.give([_work(surveyed)])
    pool.finish()
    (failed,) = _events(pool)
    assert isinstance(failed, Failed)
    assert "crashed on this file 3 times" in failed.error
    assert len(starts) == reading.TRIES


def test_a_task_that_cannot_be_run_there_fails_by_its_reason(surveyed) -> None:
    pool = SpanPool(_Ray(), lambda *_: _Stream([_TaskError()]), near=1)
    pool.give([_work(surveyed)])
    pool.finish()
    (failed,) = _events(pool)
    assert failed.error == "the reader failed: ValueError: of the task"


def test_no_more_is_held_than_there_is_room_for_and_what_is_dropped_is_not_read(surveyed) -> None:
    ray = _Ray()

    def start(work: Work, near: bool) -> _Stream:
        return _Stream([Begun(), *(_piece(work, 0, 1) for _ in range(100))])

    pool = SpanPool(ray, start, near=1)
    pool.give([_work(surveyed)])
    events = pool.events()
    held = [next(events) for _ in range(reading.HELD + reading.AHEAD)]
    assert not pool._has_room()
    pool.drop("a.tif")
    pool.finish()
    for tiles in held:
        pool.give_back(tiles)
    assert list(events) == []
    assert len(ray.cancelled) == 1


def test_a_hung_reader_and_a_cluster_without_a_core_are_told(
    surveyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "STALL_SECONDS", 0.05)
    hung = _Stream([Begun()])
    pool = SpanPool(_Ray(), lambda *_: hung, near=1)
    pool.give([_work(surveyed)])
    pool.finish()
    events = pool.events()
    hung_once = iter([True])
    monkeypatch.setattr(
        _Ray,
        "wait",
        lambda self, streams, num_returns, timeout: (
            (streams[:1], []) if next(hung_once, False) else ([], streams)
        ),
    )
    failed = next(events)
    assert isinstance(failed, Failed)
    assert "did nothing" in failed.error
    pool = SpanPool(_Ray(), lambda *_: _Stream([], ready=False), near=1)
    pool.give([_work(surveyed)])
    with pytest.raises(ClusterUnavailable, match="no reader was given a core"):
        list(pool.events())
