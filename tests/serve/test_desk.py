"""Images are made once, off the event loop, whoever else waits for them."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from beph_store.errors import SlideUnreadable
from beph_store.serve.desk import Desk
from beph_store.serve.shelf import Shelf, handle
from beph_store.store import Store


@pytest.fixture
def desk(ingested):
    made = Desk(Shelf(Store.open(ingested[0])))
    yield made
    made.close()


def test_viewers_of_one_tile_share_its_making_and_the_loop_goes_on(desk) -> None:
    calls: list[str] = []
    go = threading.Event()

    def make() -> bytes:
        calls.append(threading.current_thread().name)
        assert go.wait(20)
        return b"tile"

    async def watch() -> list[bytes]:
        viewers = [asyncio.ensure_future(desk.image(("a",), make)) for _ in range(20)]
        await asyncio.sleep(0.05)  # the loop runs while the tile is being made
        viewers[0].cancel()  # the first has moved on; the others still get it
        go.set()
        return await asyncio.gather(*viewers[1:])

    assert asyncio.run(watch()) == [b"tile"] * 19
    assert len(calls) == 1
    assert calls[0].startswith("tiles")
    assert desk.images.get(("a",)) == b"tile"


def test_a_failure_is_everybodys_and_is_not_kept(desk) -> None:
    def fails() -> bytes:
        raise SlideUnreadable("damaged")

    async def watch() -> bytes:
        for _ in range(2):
            with pytest.raises(SlideUnreadable):
                await desk.image(("a",), fails)
        return await desk.image(("a",), lambda: b"again")

    assert asyncio.run(watch()) == b"again"


def test_what_an_ingest_adds_meanwhile_is_seen_soon(desk, monkeypatch) -> None:
    key = next(iter(desk.shelf.recipes()))
    row = desk.shelf.slide(key, handle("drawn.tif"))
    assert desk.shelf.known(key, handle("drawn.tif")) == row
    now = time.monotonic()
    monkeypatch.setattr("beph_store.serve.shelf.time.monotonic", lambda: now + 10)
    assert desk.shelf.known(key, handle("drawn.tif")) is None
    monkeypatch.setattr(Store, "rows", lambda self, key: [])
    assert desk.shelf.rows(key) == {}
