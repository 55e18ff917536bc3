"""A reader stands still, at the worst moments: the run notices, says so, and goes on; nobody waits for it."""

import os
import signal
import struct
import time
from multiprocessing import get_context

import numpy as np
import pytest

from beph_store.engine import reader_handle, readers
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.messages import Failed, Read
from beph_store.engine.plan import plan
from beph_store.engine.reader_handle import Reader, RingShape, start_reader
from beph_store.engine.readers import ReaderPool
from beph_store.records import TileSpec
from beph_store.store import Store, verify
from beph_store.testing.synthetic import SlidePlan, write_slide

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a process is stopped by a signal of POSIX")
SPEC = TileSpec(224, 0.5, 224, 0.25, "otsu-saturation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(("a.tif", "b.tif", "c.tif")):
        write_slide(out / name, SlidePlan(size=(2048, 2048), seed=seed, nuisances=()))
    return out


@pytest.fixture
def stops_at(monkeypatch):
    """Stop the reader of a slide when it says a word of that kind about it; patience is short until it is let go.

    A sound reader may need longer to start on a machine that has much to do.
    """

    def arrange(slide_id, kind):
        handle, leave = ReaderPool._handle, ReaderPool._leave
        patience, stopped = readers.STALL_SECONDS, []

        def handling(pool, reader, message):
            if isinstance(message, kind) and message.slide_id == slide_id and not stopped:
                os.kill(reader.process.pid, signal.SIGSTOP)
                stopped.append(reader.process.pid)
                monkeypatch.setattr(readers, "STALL_SECONDS", 1.0)
            yield from handle(pool, reader, message)

        def leaving(pool, reader, message):
            if stopped and reader.process.pid == stopped[0]:
                monkeypatch.setattr(readers, "STALL_SECONDS", patience)
            yield from leave(pool, reader, message)

        monkeypatch.setattr(ReaderPool, "_handle", handling)
        monkeypatch.setattr(ReaderPool, "_leave", leaving)
        return stopped

    return arrange


@pytest.mark.timeout(120)
def test_an_ingest_gives_up_the_slide_and_the_next_run_has_it(folder, tmp_path, stops_at, monkeypatch):
    # with room for one chunk it cannot be done with its slide when its first chunk is heard
    monkeypatch.setattr(readers, "RingShape", lambda: RingShape(slots=1, chunk=4))
    stopped = stops_at("b.tif", readers.Chunk)
    options = IngestOptions(limit_tiles=40, workers=1)
    report = ingest([folder], tmp_path / "S", options=options)
    assert stopped
    with pytest.raises(ProcessLookupError):
        os.kill(stopped[0], 0)
    assert [slide.status for slide in report.slides] == ["done", "failed", "done"]
    assert "did nothing for" in report.slides[1].error
    assert verify(Store.open(tmp_path / "S")).ok
    again = ingest([folder], tmp_path / "S", options=options)
    assert [slide.status for slide in again.slides] == ["skipped", "done", "skipped"]
    assert verify(Store.open(tmp_path / "S")).ok


@pytest.mark.timeout(60)
def test_nobody_waits_to_be_heard_by_one_that_stands_still():
    reader = start_reader(RingShape(slots=2, chunk=4), 64)
    try:
        os.kill(reader.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(4):
            reader.send(Read(np.zeros(1 << 20, np.int32)))  # a pipe holds a twentieth of one
        assert time.monotonic() - began < 5
    finally:
        reader.kill()
        began = time.monotonic()
        reader.close()
    assert time.monotonic() - began < 5
    assert reader.connection.closed


def _half_a_message(connection, ring):
    """A reader that stops in the middle of a word, whatever it is asked."""
    os.write(connection.fileno(), struct.pack("!i", 1 << 20) + b"x" * 100)
    time.sleep(600)


@pytest.mark.timeout(60)
def test_half_a_message_is_not_waited_for(folder, monkeypatch):
    def start(shape, tile_px):
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_half_a_message, args=(theirs, None), daemon=True)
        with reader_handle.without_main():
            process.start()
        theirs.close()
        assert ours.poll(50)  # patience begins when the half is there: to start takes a second or more
        ring, slots = reader_handle._make_ring(shape, tile_px)
        return Reader(process, ours, slots, ring)

    monkeypatch.setattr(readers, "start_reader", start)
    monkeypatch.setattr(readers, "STALL_SECONDS", 1.0)
    pool = ReaderPool(plan([folder / "a.tif"]), SPEC, workers=1)
    (end,) = list(pool.events())
    assert isinstance(end, Failed)
    assert "did nothing for" in end.error
