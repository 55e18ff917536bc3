"""Reader processes: what they deliver, and that their death costs one slide."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from beph_store.engine import reader_handle, readers
from beph_store.engine.messages import Closed, Failed, Opened
from beph_store.engine.plan import plan
from beph_store.engine.readers import Event, ReaderPool, RingShape, Tiles
from beph_store.records import TileSpec
from beph_store.slides import open_slide
from beph_store.testing.synthetic import SlidePlan, write_slide

SPEC = TileSpec(224, 0.5, 224, 0.25, "otsu-saturation")


@pytest.fixture(scope="module")
def folder(drawn_slide, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("slides")
    for name in ("a.tif", "b.tif", "c.tif"):
        shutil.copy(drawn_slide.path, out / name)
    return out


def _serve(pool: ReaderPool, event: Event) -> None:
    if isinstance(event, Opened):
        pool.read(event.slide_id, np.arange(len(event.tiles), dtype=np.int32))
    elif isinstance(event, Tiles):
        pool.give_back(event)


def test_every_tile_comes_once_with_the_pixels_of_the_slide(folder: Path) -> None:
    pool = ReaderPool(plan([folder]), SPEC, workers=2, shape=RingShape(slots=2, chunk=7))
    origins, seen, checked = {}, {}, 0
    with open_slide(folder / "a.tif", prefer="openslide") as slide:
        for event in pool.events():
            if isinstance(event, Opened):
                origins[event.slide_id] = event.tiles.origin_l0
                seen[event.slide_id] = []
            if isinstance(event, Tiles):
                assert event.ok.all()
                seen[event.slide_id] += event.tile_index.tolist()
                x, y = origins[event.slide_id][event.tile_index[-1]].tolist()
                np.testing.assert_array_equal(
                    event.pixels[len(event.tile_index) - 1], slide.read_level(0, x, y, 224, 224)
                )
                checked += 1
            assert not isinstance(event, Failed)
            _serve(pool, event)
    assert {name: sorted(index) for name, index in seen.items()} == {
        name: list(range(len(origin))) for name, origin in origins.items()
    }
    assert len(seen) == 3
    assert checked >= 3


def test_a_reader_that_dies_costs_its_slide_only(folder: Path) -> None:
    pool = ReaderPool(plan([folder]), SPEC, workers=1)
    ends = {}
    for event in pool.events():
        if isinstance(event, Opened) and event.slide_id == "b.tif":
            os.kill(pool._readers[0].process.pid, signal.SIGSEGV)
            continue
        if isinstance(event, Closed | Failed):
            ends[event.slide_id] = event
        _serve(pool, event)
    assert isinstance(ends["b.tif"], Failed)
    assert f"signal {signal.SIGSEGV.value}" in ends["b.tif"].error
    assert isinstance(ends["a.tif"], Closed)
    assert isinstance(ends["c.tif"], Closed)


def test_a_hung_reader_is_stopped(folder: Path, monkeypatch) -> None:
    """Patience is short only while the reader hangs: on a loaded machine a sound one may need longer to start."""
    pool = ReaderPool(plan([folder]), SPEC, workers=1)
    ends = {}
    for event in pool.events():
        if isinstance(event, Opened) and event.slide_id == "a.tif":
            # Before it is told what to read: its ring has room for the whole slide, and it would be done in no time.
            os.kill(pool._readers[0].process.pid, signal.SIGSTOP)
            monkeypatch.setattr("beph_store.engine.readers.STALL_SECONDS", 1.5)
        _serve(pool, event)
        if isinstance(event, Closed | Failed):
            monkeypatch.undo()
            ends[event.slide_id] = event
    assert "did nothing" in ends["a.tif"].error
    assert isinstance(ends["b.tif"], Closed)


def test_nothing_is_left_behind(folder: Path) -> None:
    pool = ReaderPool(plan([folder]), SPEC, workers=1)
    processes = [reader.process for reader in pool._readers]
    rings = [Path(reader.ring.path) for reader in pool._readers]
    assert all(ring.exists() for ring in rings)
    for event in pool.events():
        if isinstance(event, Opened):
            pool.stop()
    assert not any(process.is_alive() for process in processes)
    assert not any(ring.exists() for ring in rings)


def test_what_is_not_admitted_is_not_read(folder: Path) -> None:
    pool = ReaderPool(plan([folder]), SPEC, workers=1, admit=lambda task: task.slide_id == "c.tif")
    ends = []
    for event in pool.events():
        _serve(pool, event)
        if isinstance(event, Closed):
            ends.append(event.slide_id)
    assert ends == ["c.tif"]


def test_rings_of_killed_runs_are_swept_and_those_of_starting_runs_are_not(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(reader_handle, "_ring_folder", lambda nbytes: str(tmp_path))
    old, fresh, other = (tmp_path / n for n in ("beph-store-ring-old", "beph-store-ring-new", "else"))
    for path in (old, fresh, other):
        path.write_bytes(b"")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    ring, _ = reader_handle._make_ring(RingShape(), 8)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [fresh.name, other.name, Path(ring.path).name]
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """One slide of 2,100 tiles, by a hundred px, so that a few readers can share it."""
    path = tmp_path_factory.mktemp("wide") / "wide.tif"
    write_slide(path, SlidePlan(size=(4800, 4800), seed=3, nuisances=()))
    return path


DENSE = TileSpec(100, 0.5, 100, 0.0, "otsu-saturation")


def _all(pool: ReaderPool) -> tuple[dict[int, int], set[int], list[Event]]:
    """How often each tile came, from which processes, and how the slides ended.

    Once the first reader has given up half, it stands still until the helper has sent something.
    """
    times: dict[int, int] = {}
    sources, ends, held = set(), [], []
    for event in pool.events():
        if isinstance(event, Tiles):
            for number in event.tile_index.tolist():
                times[number] = times.get(number, 0) + 1
            sources.add(event.source.process.pid)
            held.append(event)
            while held and not (_shared(pool, event) and len(sources) == 1):
                pool.give_back(held.pop())
            continue
        if isinstance(event, Closed | Failed):
            ends.append(event)
        _serve(pool, event)
    return times, sources, ends


def _shared(pool: ReaderPool, tiles: Tiles) -> bool:
    """Whether more than one reader has a part of the slide."""
    return len(pool._slides[tiles.slide_id].readers) > 1


def test_readers_without_a_slide_take_over_half_of_what_another_has_left(wide: Path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "START_MIN_TILES", 512)
    alone, _, (whole,) = _all(ReaderPool(plan([wide]), DENSE, workers=1))
    times, sources, (end,) = _all(
        ReaderPool(plan([wide]), DENSE, workers=3, shape=RingShape(slots=2, chunk=16))
    )
    assert times == alone == dict.fromkeys(range(len(alone)), 1)
    assert len(sources) > 1
    # Macro-tiles on a cut are decoded on both sides: told as decodes, counted once as distinct.
    assert whole.stats.decodes == whole.stats.distinct
    assert end.stats.distinct == whole.stats.distinct
    assert end.stats.decodes > end.stats.distinct


def test_a_helper_that_dies_fails_the_slide_once_and_stops_the_others(wide: Path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "START_MIN_TILES", 512)
    pool = ReaderPool(plan([wide]), DENSE, workers=2, shape=RingShape(slots=2, chunk=16))
    first, ends, held, after = None, [], [], 0
    for event in pool.events():
        if isinstance(event, Tiles):
            after += bool(ends)
            first = first or event.source
            if event.source is not first and not ends:
                os.kill(event.source.process.pid, signal.SIGSEGV)
            if _shared(pool, event) and not ends:
                held.append(
                    event
                )  # the first reader stands still, with most of its half, until the helper is dead
                continue
        if isinstance(event, Closed | Failed):
            ends.append(event)
            while held:
                pool.give_back(held.pop())
        _serve(pool, event)
    (end,) = ends
    assert isinstance(end, Failed)
    assert "crashed on this file" in end.error
    assert after < 10  # what was on its way already; some 60 chunks were left
