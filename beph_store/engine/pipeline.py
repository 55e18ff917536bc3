"""Three stages that overlap: readers fill rings, this thread encodes, a writer thread stores.

Where the tiles' pixels are to be kept a fourth lies between the first two: a thread that compresses what is in the
rings and passes it on, so that the pixels of a tile always come to the writer before its vector.

Batches are cut from whatever tiles come next, so they cross slides and stay full. On a GPU some are
under way while the next is filled and the last is stored, see `runtimes.stream`. Every queue is
bounded: rings by their slots, the writer's queue by its length, so memory does not grow with a slide.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.messages import Closed, Failed, Opened
from beph_store.engine.readers import Event, Tiles
from beph_store.engine.report import StageClock
from beph_store.runtimes import Stream
from beph_store.store import Packed, pack

#: Longest time that tiles of an incomplete batch wait for company.
LINGER_SECONDS = 0.25
#: Chunks of compressed pixels that may wait for the writer: 32 tiles each, some 40 MB in all.
KEPT_WAITING = 8


@dataclass(frozen=True, slots=True)
class Encoded:
    """(n,) tiles of one slide with their (n, D) float32 vectors, meaningless where not ``ok``."""

    slide_id: str
    tile_index: NDArray[np.int32]
    ok: NDArray[np.bool_]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kept:
    """The compressed pixels of (n,) tiles of one slide, all of them readable."""

    slide_id: str
    tile_index: NDArray[np.int32]
    packed: Packed


Stored = Opened | Kept | Encoded | Closed | Failed


class Pool(Protocol):
    """Where tiles come from: reader processes, or readers of a cluster."""

    def events(self) -> Iterator[Event]:
        """What the readers do, until nothing is left or ``stop`` was called; one thread iterates."""

    def give_back(self, tiles: Tiles) -> None:
        """The pixels were used; called from another thread."""

    def stop(self) -> None:
        """Let ``events`` end soon, whatever is unfinished."""


class Sink(Protocol):
    """Takes everything in order, in one thread."""

    def take(self, item: Stored) -> None:
        """Handle one item."""


@dataclass(slots=True)
class Clocks:
    """Seconds that the device computed, working time of the others, and when encoding began and ended."""

    encode: float = 0.0
    keep: StageClock = field(default_factory=StageClock)
    write: StageClock = field(default_factory=StageClock)
    first: float | None = None
    last: float | None = None


def packers() -> int:
    """Threads that compress pixels: one for every four cores keeps up with what their readers read."""
    return max(1, min(8, (os.cpu_count() or 1) // 4))


def run(
    pool: Pool,
    stream: Stream,
    sink: Sink,
    *,
    dim: int,
    keep: bool = False,
    clocks: Clocks | None = None,
) -> Clocks:
    """Run until every slide of the pool is over. The first error of any stage stops all and is raised.

    With ``keep`` the sink gets the pixels too, as ``Kept``. The clocks returned are ``clocks`` where they are given:
    another thread may read them meanwhile.
    """
    flow = _Flow(pool, stream, sink, dim, keep=keep)
    flow.clocks = clocks or flow.clocks
    stages = [flow.pump, *([flow.keep] if keep else []), flow.store]
    threads = [threading.Thread(target=flow.guard, args=(stage,), name=stage.__name__) for stage in stages]
    for thread in threads:
        thread.start()
    try:
        flow.encode()
    except BaseException:
        flow.abort()
        raise
    finally:
        for thread in threads[:-1]:
            thread.join()
        flow.to_store.put(None)  # the last to stop: the others wait for it to take what they put
        threads[-1].join()
    if flow.error is not None:
        raise flow.error
    return flow.clocks


@dataclass(frozen=True, slots=True)
class _Part:
    slide_id: str
    tile_index: NDArray[np.int32]


class _Flow:
    def __init__(self, pool: Pool, stream: Stream, sink: Sink, dim: int, *, keep: bool) -> None:
        self._pool = pool
        self._stream = stream
        self._sink = sink
        self._dim = dim
        self._to_encode: queue.SimpleQueue[Tiles | None] = queue.SimpleQueue()  # bounded by the rings
        self._to_keep: queue.SimpleQueue[Tiles | None] = queue.SimpleQueue()
        self._read = self._to_keep if keep else self._to_encode
        self._room = threading.Semaphore(KEPT_WAITING)
        self.to_store: queue.Queue[Stored | None] = queue.Queue(maxsize=64)
        self._under_way: deque[list[_Part]] = deque()  # parts of each batch submitted and not collected
        self.clocks = Clocks()
        self._before = stream.busy  # of an earlier use
        self.error: BaseException | None = None

    def guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            self.error = self.error or error
            self.abort()

    def abort(self) -> None:
        self._pool.stop()
        self._to_keep.put(None)
        self._to_encode.put(None)

    def pump(self) -> None:
        for event in self._pool.events():
            if isinstance(event, Tiles):
                self._read.put(event)
            else:
                self._put(event)
        self._read.put(None)

    def keep(self) -> None:
        """Compress for the writer what is on its way to the encoder."""
        with ThreadPoolExecutor(packers()) as threads:
            while (tiles := self._to_keep.get()) is not None:
                good = np.flatnonzero(tiles.ok)
                if len(good):
                    with self.clocks.keep.work():
                        packed = pack(
                            tiles.pixels[good] if len(good) < len(tiles.ok) else tiles.pixels, threads.map
                        )
                    self._room.acquire()
                    self._put(Kept(tiles.slide_id, tiles.tile_index[good], packed))
                self._to_encode.put(tiles)
        self._to_encode.put(None)

    def store(self) -> None:
        while (item := self.to_store.get()) is not None:
            if isinstance(item, Kept):
                self._room.release()
            if self.error is not None:
                continue  # keep emptying the queue, or the stages before would wait for ever
            try:
                with self.clocks.write.work():
                    self._sink.take(item)
            except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
                self.error = error
                self.abort()

    def _put(self, item: Stored) -> None:
        self.to_store.put(item)

    def encode(self) -> None:
        """Cut full batches from what arrives; keep as many under way as the stream wants."""
        parts: list[_Part] = []
        used = 0
        for tiles in self._arrivals():
            if tiles is None:  # nothing came for a while
                used, parts = self._submit(used, parts)
                self._collect(0)
                continue
            good = np.flatnonzero(tiles.ok)
            self._tell_unreadable(tiles)
            while len(good):
                buffer = self._stream.buffer()
                now, good = good[: len(buffer) - used], good[len(buffer) - used :]
                buffer[used : used + len(now)] = tiles.pixels[now]
                parts.append(_Part(tiles.slide_id, tiles.tile_index[now]))
                used += len(now)
                if used == len(buffer):
                    used, parts = self._submit(used, parts)
            self._pool.give_back(tiles)
        self._submit(used, parts)
        self._collect(0)
        self.clocks.encode = self._stream.busy - self._before

    def _submit(self, count: int, parts: list[_Part]) -> tuple[int, list[_Part]]:
        """Returns where the next batch begins: nothing used, no parts."""
        if count:
            self.clocks.first = self.clocks.first or time.perf_counter()
            self._stream.submit(count)
            self._under_way.append(parts)
            self._collect(self._stream.depth - 1)
        return 0, []

    def _collect(self, leave: int) -> None:
        """Hand on finished batches until no more than ``leave`` are under way."""
        while len(self._under_way) > leave:
            vectors = self._stream.collect()
            self.clocks.last = time.perf_counter()
            self.clocks.encode = self._stream.busy - self._before
            self._deliver(vectors, self._under_way.popleft())

    def _arrivals(self) -> Iterator[Tiles | None]:
        while True:
            try:
                tiles = self._to_encode.get(timeout=LINGER_SECONDS)
            except queue.Empty:
                yield None
                continue
            if tiles is None:
                return
            yield tiles

    def _tell_unreadable(self, tiles: Tiles) -> None:
        lost = tiles.tile_index[~tiles.ok]
        if len(lost):
            none = np.zeros((len(lost), self._dim), np.float32)
            self._put(Encoded(tiles.slide_id, lost, np.zeros(len(lost), bool), none))

    def _deliver(self, vectors: NDArray[np.float32], parts: list[_Part]) -> None:
        start = 0
        for part in parts:
            end = start + len(part.tile_index)
            ok = np.ones(end - start, bool)
            self._put(Encoded(part.slide_id, part.tile_index, ok, vectors[start:end]))
            start = end
