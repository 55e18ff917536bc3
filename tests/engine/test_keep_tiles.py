"""``ingest --keep-tiles``: the pixels in the store are those that were encoded, and the pipeline that brings them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from beph_store.engine import pipeline
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.messages import Closed
from beph_store.engine.pipeline import KEPT_WAITING, Encoded, Kept, Stored
from beph_store.engine.readers import Tiles
from beph_store.engine.report import ReadStats
from beph_store.engine.tile_source import open_source
from beph_store.runtimes.stream import Direct
from beph_store.slides import open_slide
from beph_store.store import Store, verify

LIMIT = 6


@pytest.fixture(scope="module")
def slides(drawn_slide, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for name in ("a.tif", "b.tif"):
        shutil.copy(drawn_slide.path, folder / name)
    return folder


@pytest.fixture(scope="module")
def kept(slides, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "S"
    return store, ingest([slides], store, options=IngestOptions(limit_tiles=LIMIT, keep_tiles=True))


def test_the_pixels_are_those_of_the_slide(kept, slides) -> None:
    store, report = kept
    opened = Store.open(store)
    assert verify(opened).ok
    bag = opened.bag(report.recipe, "b.tif")
    with open_slide(slides / "b.tif", prefer="openslide") as slide:
        tiles = np.stack([slide.read_level(0, x, y, 224, 224) for x, y in bag.origin_l0.tolist()])
    np.testing.assert_array_equal(opened.pixels(report.recipe).read("b.tif", bag.tile_index), tiles)
    source = open_source(store)
    assert len(source) == 2 * LIMIT
    np.testing.assert_array_equal(np.stack(source.read(np.arange(LIMIT, 2 * LIMIT))), tiles)


def test_the_report_says_what_is_kept(kept, slides) -> None:
    store, report = kept
    assert report.to_json()["kept_tiles"] == {"slides": 2, "without": 0}
    assert report.notes == ()
    assert set(report.busy) == {"read", "encode", "write", "keep"}
    again = ingest([slides], store, options=IngestOptions(limit_tiles=LIMIT, keep_tiles=True))
    assert [outcome.status for outcome in again.slides] == ["skipped", "skipped"]
    assert again.to_json()["kept_tiles"] == {"slides": 2, "without": 0}
    plain = ingest([slides], store, options=IngestOptions(limit_tiles=LIMIT))
    assert plain.to_json()["kept_tiles"] is None
    assert plain.recipe == report.recipe  # the flag is no part of it


def test_slides_without_pixels_are_told_and_replaced_when_asked(slides, tmp_path: Path) -> None:
    first = ingest([slides / "a.tif"], tmp_path / "S", options=IngestOptions(limit_tiles=LIMIT))
    assert set(first.busy) == {"read", "encode", "write"}
    store = Store.open(tmp_path / "S")
    before = store.bag(first.recipe, "a.tif").vectors
    second = ingest([slides], tmp_path / "S", options=IngestOptions(limit_tiles=LIMIT, keep_tiles=True))
    assert [outcome.status for outcome in second.slides] == ["skipped", "done"]
    assert second.to_json()["kept_tiles"] == {"slides": 1, "without": 1}
    (note,) = second.notes
    assert "without their tiles' pixels: 1" in note
    assert "--keep-tiles --replace" in note
    options = IngestOptions(limit_tiles=LIMIT, keep_tiles=True, replace=True)
    third = ingest([slides / "a.tif"], tmp_path / "S", options=options)
    assert third.to_json()["kept_tiles"] == {"slides": 1, "without": 0}
    assert store.pixels(first.recipe).slides == ("a.tif", "b.tif")
    np.testing.assert_array_equal(store.bag(first.recipe, "a.tif").vectors, before)
    assert verify(store).ok


class FakePool:
    """Says that it read ``chunks`` chunks of 4 tiles, the second of each unreadable; counts what it got back."""

    def __init__(self, chunks: int, limit: int) -> None:
        self.chunks, self.free = chunks, threading.Semaphore(limit)
        self.stopped = threading.Event()
        self.returned = 0

    def events(self) -> Iterator[Tiles | Closed]:
        for number in range(self.chunks):
            while not self.free.acquire(timeout=0.05):
                if self.stopped.is_set():
                    return
            if self.stopped.is_set():
                return
            index = np.arange(4 * number, 4 * number + 4, dtype=np.int32)
            tiles = np.full((4, 8, 8, 3), number, np.uint8)
            yield Tiles("a", index, np.array([True, False, True, True]), tiles, None, 0)
        yield Closed("a", ReadStats())

    def give_back(self, tiles: Tiles) -> None:
        tiles.pixels[...] = 255  # the reader fills it again
        self.returned += 1
        self.free.release()

    def stop(self) -> None:
        self.stopped.set()


class Notebook:
    """Writes down what it is given; waits or fails at the first ``Kept`` if told to."""

    def __init__(self, *, hold: threading.Event | None = None, fail: bool = False) -> None:
        self.items: list[Stored] = []
        self.hold, self.fail = hold, fail

    def take(self, item: Stored) -> None:
        if isinstance(item, Kept):
            if self.fail:
                raise OSError("disk full")
            if self.hold is not None:
                assert self.hold.wait(20)
        self.items.append(item)


def _stream() -> Direct:
    return Direct(lambda pixels: pixels.reshape(len(pixels), -1)[:, :2].astype(np.float32), (5, 8, 8, 3))


def test_pixels_come_before_the_vectors_of_their_tiles() -> None:
    pool, sink = FakePool(30, 3), Notebook()
    clocks = pipeline.run(pool, _stream(), sink, dim=2, keep=True)  # type: ignore[arg-type]
    seen: set[int] = set()
    encoded = []
    for item in sink.items:
        if isinstance(item, Kept):
            assert len(item.packed.chunks) == 3
            seen.update(item.tile_index.tolist())
        elif isinstance(item, Encoded):
            encoded += item.tile_index[item.ok].tolist()
            assert set(item.tile_index[item.ok].tolist()) <= seen
            np.testing.assert_array_equal(item.vectors[item.ok, 0], item.tile_index[item.ok] // 4)
    assert sorted(encoded) == sorted(seen) == [i for i in range(120) if i % 4 != 1]
    assert pool.returned == 30
    assert clocks.keep.busy > 0


def test_a_slow_disk_holds_the_readers_up_and_memory_stays_bounded() -> None:
    hold = threading.Event()
    pool, sink = FakePool(200, 10_000), Notebook(hold=hold)
    thread = threading.Thread(
        target=pipeline.run, args=(pool, _stream(), sink), kwargs={"dim": 2, "keep": True}
    )
    thread.start()
    threading.Event().wait(0.5)
    kept, returned = [item for item in sink.items if isinstance(item, Kept)], pool.returned
    hold.set()
    thread.join(20)
    assert not kept
    assert returned <= KEPT_WAITING + 2
    assert not thread.is_alive()
    assert sum(isinstance(item, Kept) for item in sink.items) == 200


@pytest.mark.parametrize("keep", [True, False])
def test_an_error_of_any_stage_ends_all(keep: bool) -> None:
    def broken(pixels: np.ndarray) -> np.ndarray:
        raise ValueError("the device is gone")

    for stream, sink, why in (
        (Direct(broken, (5, 8, 8, 3)), Notebook(), "device is gone"),
        (_stream(), Notebook(fail=True), "disk full"),
    ):
        if why == "disk full" and not keep:
            continue
        with pytest.raises((ValueError, OSError), match=why):
            pipeline.run(FakePool(500, 6), stream, sink, dim=2, keep=keep)  # type: ignore[arg-type]
        assert not [t for t in threading.enumerate() if t.name in ("pump", "keep", "store")]
