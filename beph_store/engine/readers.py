"""The engine's side of the reader processes: starts them, feeds them, and survives their deaths."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.memory import crashed
from beph_store.engine.messages import Chunk, Closed, Failed, Free, Give, Given, Open, Opened, Read, Ready
from beph_store.engine.plan import SlideTask
from beph_store.engine.reader_handle import Reader, RingShape, start_reader
from beph_store.engine.reader_process import GIVE_MIN_TILES
from beph_store.engine.report import ReadStats
from beph_store.records import TileSet, TileSpec

#: A reader that says nothing for so long while it could work is taken for hung.
STALL_SECONDS = 300.0
#: With fewer tiles left on a slide, no further process is started to help with it.
START_MIN_TILES = 1024


@dataclass(frozen=True, slots=True)
class Tiles:
    """A chunk with its pixels (n, H, W, 3) uint8, valid until ``ReaderPool.give_back``."""

    slide_id: str
    tile_index: NDArray[np.int32]
    ok: NDArray[np.bool_]
    pixels: NDArray[np.uint8]
    source: Any
    slot: int


Event = Opened | Tiles | Closed | Failed


@dataclass(slots=True)
class _Slide:
    """A slide being read, by one reader or several; over when the last of them is done."""

    task: SlideTask
    readers: list[Reader]
    tiles: TileSet | None = None
    stats: ReadStats = field(default_factory=ReadStats)
    failed: bool = False


class ReaderPool:
    """``workers`` processes that read ``tasks`` in order. Iterate over ``events`` in one thread.

    A task is read only if ``admit`` says so when its turn comes. Every admitted slide ends with one
    ``Closed`` or ``Failed``. After ``Opened`` the slide waits for ``read``.
    A process without a slide of its own takes over half of what another has left, so that one giant slide does not
    end a run alone. ``read`` and ``give_back`` may be called from other threads.
    """

    def __init__(
        self,
        tasks: Sequence[SlideTask],
        spec: TileSpec,
        *,
        workers: int,
        admit: Callable[[SlideTask], bool] = lambda _: True,
        shape: RingShape | None = None,
    ) -> None:
        self._tasks = deque(tasks)
        self._spec = spec
        self._shape = shape or RingShape()
        self._admit = admit
        self._workers = workers
        self._readers = [self._start() for _ in range(min(workers, len(tasks)))]
        self._slides: dict[str, _Slide] = {}
        self._stop = threading.Event()
        self._over = threading.Event()
        self._receiving: tuple[Reader, float] | None = None

    def events(self) -> Iterator[Event]:
        """What the readers do, until every slide is over or ``stop`` was called."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        try:
            for reader in list(self._readers):
                self._next(reader)
            while self._busy() and not self._stop.is_set():
                yield from self._round()
        finally:
            self._shut_down()

    def _busy(self) -> bool:
        return any(reader.slide_id is not None for reader in self._readers)

    def _round(self) -> Iterator[Event]:
        handles: dict[Any, Reader] = {}
        for reader in self._readers:
            handles[reader.connection] = handles[reader.process.sentinel] = reader
        for reader in {handles[handle] for handle in wait(list(handles), timeout=0.2)}:
            yield from self._hear(reader)
        for reader in list(self._readers):
            if reader.stalled(STALL_SECONDS):
                yield from self._bury(reader, _stood_still())
        self._share_out()

    def read(self, slide_id: str, tile_index: NDArray[np.int32]) -> None:
        """Let an opened slide go on with these tiles; with none it is closed."""
        slide = self._slides.get(slide_id)
        for reader in list(slide.readers) if slide else ():
            self._let_read(reader, tile_index)

    def give_back(self, tiles: Tiles) -> None:
        """The pixels were used."""
        tiles.source.taken -= 1
        tiles.source.heard = time.monotonic()
        tiles.source.send(Free(tiles.slot))

    def stop(self) -> None:
        """Let ``events`` end soon, whatever is unfinished."""
        self._stop.set()

    def _shut_down(self) -> None:
        self._over.set()
        for reader in self._readers:
            reader.kill()
        for reader in self._readers:
            reader.close()

    def _watch(self) -> None:
        """End a reader that stopped in the middle of a message: whoever waits for the rest hears the end of it."""
        while not self._over.wait(min(1.0, STALL_SECONDS / 4)):
            receiving = self._receiving
            if receiving is not None and time.monotonic() - receiving[1] > STALL_SECONDS:
                receiving[0].hung = True
                receiving[0].process.kill()

    def _receive(self, reader: Reader) -> Any:
        self._receiving = reader, time.monotonic()
        try:
            return reader.connection.recv()
        finally:
            self._receiving = None

    def _hear(self, reader: Reader) -> Iterator[Event]:
        try:
            while reader.connection.poll():
                message = self._receive(reader)
                reader.heard = time.monotonic()
                yield from self._handle(reader, message)
            dead = not reader.process.is_alive() and not reader.connection.poll()
        except (EOFError, ConnectionResetError, OSError):
            dead = True
        if dead and reader in self._readers:
            reader.process.join(5)
            yield from self._bury(reader, _stood_still() if reader.hung else self._why_dead(reader))

    def _why_dead(self, reader: Reader) -> str:
        slide = self._slides.get(reader.slide_id or "")
        most = slide.task.memory_bytes if slide else 0
        return crashed(reader.process.exitcode, reader.how_it_ended(), most)

    def _handle(self, reader: Reader, message: Any) -> Iterator[Event]:
        if isinstance(message, Ready):
            reader.unlink_ring()
        elif isinstance(message, Chunk):
            reader.taken += 1
            reader.left -= len(message.tile_index)
            pixels = reader.slots[message.slot, : len(message.tile_index)]
            yield Tiles(message.slide_id, message.tile_index, message.ok, pixels, reader, message.slot)
        elif isinstance(message, Opened):
            reader.waiting = True
            self._slides[message.slide_id].tiles = message.tiles
            yield message
        elif isinstance(message, Given):
            self._take_over(reader, message)
        elif isinstance(message, Closed | Failed):
            yield from self._leave(reader, message)
            self._next(reader)

    def _leave(self, reader: Reader, message: Closed | Failed) -> Iterator[Event]:
        """A reader is done with its slide; the slide is over with the last one, or with the first that failed."""
        slide = self._slides[message.slide_id]
        slide.readers.remove(reader)
        slide.stats.add(message.stats)
        reader.slide_id, reader.left, reader.asked = None, 0, False
        if isinstance(message, Failed) and not slide.failed:
            slide.failed = True
            yield Failed(message.slide_id, message.error, message.stats)
            for other in slide.readers:
                other.send(Give(everything=True))
        if not slide.readers:
            del self._slides[message.slide_id]
            if not slide.failed:
                yield Closed(message.slide_id, slide.stats)

    def _bury(self, reader: Reader, why: str) -> Iterator[Event]:
        reader.kill()
        self._readers.remove(reader)
        if reader.slide_id is not None:
            yield from self._leave(reader, Failed(reader.slide_id, why, ReadStats()))
        if self._tasks and not self._stop.is_set():
            fresh = self._start()
            self._readers.append(fresh)
            self._next(fresh)
        reader.close()

    def _next(self, reader: Reader) -> None:
        while self._tasks and not self._stop.is_set():
            task = self._tasks.popleft()
            if not self._admit(task):
                continue
            self._slides[task.slide_id] = _Slide(task, [reader])
            self._open(reader, task, None)
            return

    def _open(self, reader: Reader, task: SlideTask, tiles: TileSet | None) -> None:
        reader.slide_id = task.slide_id
        reader.heard = time.monotonic()
        reader.send(Open(task, self._spec, tiles))

    def _let_read(self, reader: Reader, tile_index: NDArray[np.int32]) -> None:
        reader.waiting = False
        reader.left = len(tile_index)
        reader.heard = time.monotonic()
        reader.send(Read(tile_index))

    def _share_out(self) -> None:
        """Ask the readers with most left for half of it, one for each reader that has nothing to do."""
        if self._tasks or self._stop.is_set():
            return
        idle = sum(reader.slide_id is None for reader in self._readers)
        idle -= sum(reader.asked for reader in self._readers)
        richest = sorted((r for r in self._readers if not r.asked), key=lambda r: r.left, reverse=True)
        for reader in richest:
            if idle <= 0 and reader.left >= START_MIN_TILES and len(self._readers) < self._workers:
                self._readers.append(self._start())  # it takes a second; what it gets is decided then
                idle += 1
            if idle <= 0 or reader.left < 2 * GIVE_MIN_TILES:
                return
            reader.asked = True
            reader.send(Give())
            idle -= 1

    def _take_over(self, giver: Reader, given: Given) -> None:
        """Hand what a reader gave up to one that has nothing to do."""
        giver.asked = False
        slide = self._slides[given.slide_id]
        giver.left -= len(given.tile_index)
        if slide.failed or not len(given.tile_index):
            return
        taker = next((r for r in self._readers if r.slide_id is None), None) or self._start_one()
        slide.readers.append(taker)
        self._open(taker, slide.task, slide.tiles)
        self._let_read(taker, given.tile_index)

    def _start_one(self) -> Reader:
        """For the rare case that the reader for whom something was given up has died meanwhile."""
        self._readers.append(self._start())
        return self._readers[-1]

    def _start(self) -> Reader:
        return start_reader(self._shape, self._spec.tile_px)


def _stood_still() -> str:
    return f"the reader did nothing for {STALL_SECONDS:.0f} s and was stopped"
