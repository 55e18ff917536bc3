"""What answers requests: the shelf, the open slides, finished images, and threads beside the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from beph_store.encoders import load_bundle
from beph_store.engine.choosing import choose
from beph_store.engine.search.ask import recipe_encoder
from beph_store.engine.search.table import SearchTable
from beph_store.runtimes import Runtime
from beph_store.serve.answers import Refused
from beph_store.serve.heads import HeadShelf
from beph_store.serve.jobs.feed import Feed, Watch
from beph_store.serve.jobs.queue import Jobs
from beph_store.serve.shelf import Shelf
from beph_store.serve.slide_tiles import Encoded, OpenSlides

T = TypeVar("T")
READS_ONLY = "this server only reads: start it with --allow-write"
#: Decoding lets go of the GIL: a thread a core, but never fewer than two, as one may wait for a disk.
_TILE_THREADS = max(2, min(8, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders beside the store that the operator named: slides may be ingested from under ``ingest``, and every folder
    in ``heads``, or in one of those, that `train` wrote is offered as a head.
    """

    ingest: tuple[Path, ...] = ()
    heads: tuple[Path, ...] = ()


@dataclass(slots=True)
class Desk:
    """Everything that a handler needs; ``request.app.state.desk`` is it."""

    shelf: Shelf
    writable: bool = False
    folders: Folders = field(default_factory=Folders)
    slides: OpenSlides = field(default_factory=OpenSlides)
    images: Encoded = field(default_factory=Encoded)
    heads: HeadShelf = field(default_factory=HeadShelf)
    jobs: Jobs = field(init=False)
    feed: Feed = field(init=False)
    _tiles: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_TILE_THREADS, "tiles"))
    _work: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "work"))
    _making: dict[tuple[object, ...], asyncio.Future[bytes]] = field(default_factory=dict)
    _encoders: dict[str, Runtime] = field(default_factory=dict)
    _encoding: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        layout = self.shelf.store.layout
        self.jobs = Jobs(layout.jobs)
        self.feed = Feed(Watch(self.jobs, layout))

    @classmethod
    def of(cls, request: Request) -> Desk:
        """The desk of the application that got the request."""
        desk: Desk = request.app.state.desk
        return desk

    async def work(self, make: Callable[[], T]) -> T:
        """``make()`` in a thread: searches, tables, the registry."""
        return await asyncio.get_running_loop().run_in_executor(self._work, make)

    async def image(self, key: tuple[object, ...], make: Callable[[], bytes]) -> bytes:
        """The image of that key: held, being made for another request, or made now in a thread."""
        data = self.images.get(key)
        if data is not None:
            return data
        making = self._making.get(key)
        if making is None:
            making = asyncio.get_running_loop().run_in_executor(self._tiles, self._kept, key, make)
            self._making[key] = making
            making.add_done_callback(lambda done: self._made(key, done))
        # Shielded: others may be waiting for it when this viewer has moved on.
        return await asyncio.shield(making)

    def _kept(self, key: tuple[object, ...], make: Callable[[], bytes]) -> bytes:
        data = make()
        self.images.put(key, data)
        return data

    def _made(self, key: tuple[object, ...], done: asyncio.Future[bytes]) -> None:
        self._making.pop(key, None)
        if not done.cancelled():
            done.exception()  # looked at, or the loop would complain where nobody waits any more

    def encode(self, table: SearchTable, tile: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(1, D) of one tile (H, W, 3) by the recipe's encoder, which is loaded once."""
        with self._encoding:
            key = table.record.recipe.key
            if key not in self._encoders:
                precision = table.record.recipe.encoder.precision
                bundle = load_bundle(recipe_encoder(table))
                self._encoders[key] = choose(bundle, precision=precision).runtime
            return self._encoders[key].encode(tile[None])

    def open(self) -> None:
        """Begin: where it may write, the jobs that wait are started from now on."""
        if self.writable:
            self.jobs.open()

    def close(self) -> None:
        """End the streams, let go of threads, slides and encoders. Jobs go on."""
        self.feed.close()
        self.jobs.close()
        self._tiles.shutdown(cancel_futures=True)
        self._work.shutdown(cancel_futures=True)
        self.slides.close()
        for runtime in self._encoders.values():
            runtime.close()


def writing(request: Request) -> Desk:
    """The desk for a request that writes into the store; 403 where the server only reads."""
    desk = Desk.of(request)
    if not desk.writable:
        raise Refused(403, READS_ONLY)
    return desk


def json_number(value: Any) -> Any:
    """``value`` as JSON has it: a float that is not finite is null."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
