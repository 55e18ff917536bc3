"""Reading on a cluster: what a task does with a slide or a span of it, and the pool that an encoder takes tiles from.

A task is a process of Ray's own: a decoder that crashes on a bad file costs that task, and the slide if it happens
again. Pixels come as objects in shared memory, a few ahead of the encoder and no more.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.memory import memory_limit
from beph_store.engine.messages import Closed, Failed
from beph_store.engine.plan import SlideTask
from beph_store.engine.reader_process import reason_of, survey
from beph_store.engine.readers import STALL_SECONDS, Event, Tiles
from beph_store.engine.report import ReadStats
from beph_store.errors import ClusterUnavailable
from beph_store.records import Rasters, SlideInfo, TileSet, TileSpec
from beph_store.slides import SlideReader, TileReader

#: Tiles of one object: large enough that what Ray does with each hardly counts.
CHUNK_TILES = 32
#: Objects that a reader is ahead of the encoder, and those taken from readers and not yet encoded, a reader.
AHEAD, HELD = 4, 2
#: How often a span is read again whose reader was lost, before the slide is given up.
TRIES = 3
#: A slide in object storage may first have to come whole.
FETCH_SECONDS = 3600.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Surveyed:
    """A slide as it was cut; ``order`` (N,) int32 its tiles as they are read best, ``stats`` what that took."""

    info: SlideInfo
    tiles: TileSet
    backend: str
    order: NDArray[np.int32]
    stats: ReadStats


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """``pixels`` (n, H, W, 3) uint8 of the tiles ``tile_index`` (n,), those that are ``ok``."""

    tile_index: NDArray[np.int32]
    ok: NDArray[np.bool_]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Begun:
    """A reader's first word: until then it waited for a core."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A span as a reader gets it. ``tiles`` are its own and then those before it, which it only counts.

    ``tile_index`` (n,) int32 names its own by their place in the whole slide.
    """

    task: SlideTask
    tiles: TileSet
    tile_index: NDArray[np.int32]

    def left(self, read: NDArray[np.bool_]) -> Work:
        """Without those of its own (n,) that were read."""
        own = len(self.tile_index)
        keep = np.concatenate([np.flatnonzero(~read), np.arange(own, len(self.tiles))])
        return Work(self.task, _some(self.tiles, keep), self.tile_index[~read])


Said = Begun | Piece | Closed | Failed


def work_of(
    task: SlideTask, tiles: TileSet, tile_index: NDArray[np.int32], before: NDArray[np.int32]
) -> Work:
    """The span ``tile_index`` of a slide's ``tiles``."""
    return Work(task, _some(tiles, np.concatenate([tile_index, before])), tile_index)


def _some(tiles: TileSet, rows: NDArray[Any]) -> TileSet:
    return replace(tiles, origin_l0=tiles.origin_l0[rows], tissue=tiles.tissue[rows])


@contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    """The system ends this process if the block is not over by then, wherever it hangs; Ray tells the loss.

    Only in a process's main thread, which is where Ray runs a task; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler of Python's would wait for the decoder
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _patience(task: SlideTask) -> float:
    return STALL_SECONDS if task.remote is None else FETCH_SECONDS


def survey_slide(task: SlideTask, spec: TileSpec) -> tuple[Surveyed | Failed, Rasters | None]:
    """Open a slide, find its tissue, cut it. A decoder that hangs takes the process with it."""
    start = time.perf_counter()
    stats = ReadStats()
    try:
        with ends_after(_patience(task)), memory_limit(task.memory_bytes), task.open() as slide:
            tiles, rasters = survey(slide, spec)
            order = TileReader(slide, tiles).order()
            info, backend = slide.info, slide.backend
    except Exception as error:  # noqa: BLE001 - a decoder's own error must cost this slide only
        return Failed(task.slide_id, reason_of(error, task.memory_bytes), stats), None
    stats.busy = time.perf_counter() - start
    return Surveyed(info, tiles, backend, order, stats), rasters


def read_span(work: Work, chunk: int = CHUNK_TILES) -> Iterator[Said]:
    """The tiles of a span, piece by piece, and at the end ``Closed``; ``Failed`` where the slide cannot be used."""
    yield Begun()
    slide_id = work.task.slide_id
    stats = ReadStats()
    start = time.perf_counter()
    try:
        with memory_limit(work.task.memory_bytes), work.task.open() as slide:
            own = np.arange(len(work.tile_index))
            reader = TileReader(slide, work.tiles)
            order = reader.order(own)
            reader.fetch_ahead(order)
            side = work.tiles.spec.tile_px
            pixels = np.empty((chunk, side, side, 3), np.uint8)
            for first in range(0, len(order), chunk):
                rows = order[first : first + chunk]
                ok = reader.read(rows, pixels)
                stats.busy += time.perf_counter() - start
                yield Piece(work.tile_index[rows], ok, pixels[: len(rows)])  # copied before we go on
                start = time.perf_counter()
            stats.decodes = slide.decodes or 0
            # Those on the cut are told as their own by both sides.
            before = np.arange(len(own), len(work.tiles))
            stats.distinct = (slide.distinct or 0) - reader.common_macro_tiles(own, before)
    except Exception as error:  # noqa: BLE001 - as above
        yield Failed(slide_id, reason_of(error, work.task.memory_bytes), stats)
        return
    stats.busy += time.perf_counter() - start
    yield Closed(slide_id, stats)


def opened(task: SlideTask) -> SlideReader:
    """The slide of a task."""
    return task.open()


@dataclass(slots=True, eq=False)
class _Reading:
    """A span that a task reads: which of its own tiles have come, and how often it was begun."""

    work: Work
    stream: Any
    near: bool
    tries: int
    read: NDArray[np.bool_]
    begun: bool = False
    heard: float = field(default_factory=time.monotonic)

    def note(self, piece: Piece) -> None:
        self.read[np.isin(self.work.tile_index, piece.tile_index)] = True


class SpanPool:
    """Spans in, tiles out: a pool for ``pipeline.run``, which ends when ``finish`` was called and all is read.

    ``start(work, near)`` begins a streaming task, on this node where ``near``. ``near`` and ``far`` tasks are under
    way at once, a few more wait. Every span ends with ``Closed``, or a slide with ``Failed``. Methods may be called
    from any thread, ``events`` from one.
    """

    def __init__(self, ray: Any, start: Callable[[Work, bool], Any], *, near: int, far: int = 0) -> None:
        self._ray = ray
        self._start = start
        self._most = {True: near, False: far}
        self._queue: deque[tuple[Work, int]] = deque()
        self._reading: list[_Reading] = []
        self._room = (near + far) * HELD + AHEAD
        self._held = 0
        self._changed = threading.Condition()
        self._finished = self._stopped = False
        self._dropped: set[str] = set()

    def give(self, works: Sequence[Work]) -> None:
        """Read these, too."""
        with self._changed:
            for work in works:
                self._dropped.discard(work.task.slide_id)
                self._queue.append((work, 1))
            self._changed.notify_all()

    def drop(self, slide_id: str) -> None:
        """Nothing more of this slide is wanted."""
        with self._changed:
            self._dropped.add(slide_id)

    def finish(self) -> None:
        """Nothing more will be given."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Let ``events`` end soon, whatever is unfinished."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def give_back(self, tiles: Tiles) -> None:
        """The pixels were used."""
        with self._changed:
            self._held -= 1
            self._changed.notify_all()

    def events(self) -> Iterator[Event]:
        """What the readers do."""
        try:
            while not self._stopped:
                self._begin()
                if self._reading and self._has_room():
                    yield from self._round()
                elif not self._reading and self._finished and not self._queue:
                    return
                else:
                    with self._changed:
                        self._changed.wait(_LOOK_SECONDS)
        finally:
            for reading in self._reading:
                self._ray.cancel(reading.stream, force=True)

    def _has_room(self) -> bool:
        return self._held < self._room

    def _begin(self) -> None:
        """Start as many tasks as may run, and one more that begins as soon as one of them ends."""
        for near in (True, False):
            most = self._most[near] + (1 if near else 0)
            while sum(reading.near is near for reading in self._reading) < most:
                taken = self._next()
                if taken is None:
                    return
                work, tries = taken
                none = np.zeros(len(work.tile_index), bool)
                self._reading.append(_Reading(work, self._start(work, near), near, tries, none))

    def _next(self) -> tuple[Work, int] | None:
        with self._changed:
            while self._queue:
                work, tries = self._queue.popleft()
                if work.task.slide_id not in self._dropped:
                    return work, tries
        return None

    def _round(self) -> Iterator[Event]:
        streams = [reading.stream for reading in self._reading]
        ready, _ = self._ray.wait(streams, num_returns=1, timeout=_LOOK_SECONDS)
        for reading in list(self._reading):
            if reading.work.task.slide_id in self._dropped:
                self._end(reading)
            elif reading.stream in ready:
                yield from self._hear(reading)
            elif self._stalled(reading):
                why = f"the reader did nothing for {time.monotonic() - reading.heard:.0f} s and was stopped"
                self._end(reading)
                yield Failed(reading.work.task.slide_id, why, ReadStats())
        if not any(reading.begun for reading in self._reading):
            self._require_a_core()

    def _stalled(self, reading: _Reading) -> bool:
        """Whether it has begun and says nothing any more; one that is merely not asked is not stalled."""
        most = _patience(reading.work.task)
        if not reading.begun or time.monotonic() - reading.heard < most:
            return False
        return not self._ray.wait([reading.stream], num_returns=1, timeout=0)[0]

    def _require_a_core(self) -> None:
        if self._reading and time.monotonic() - max(r.heard for r in self._reading) > STALL_SECONDS:
            raise ClusterUnavailable(
                f"no reader was given a core for {STALL_SECONDS:.0f} s: others use the cluster; run again later"
            )

    def _hear(self, reading: _Reading) -> Iterator[Event]:
        try:
            item = self._ray.get(next(reading.stream))
        except StopIteration:
            yield from self._lost(reading, "it ended early")
        except self._ray.exceptions.RayTaskError as error:  # what it was sent cannot be used on its node
            self._reading.remove(reading)
            task = reading.work.task
            yield Failed(task.slide_id, reason_of(error.cause, task.memory_bytes), ReadStats())
        except self._ray.exceptions.RayError as error:
            yield from self._lost(reading, type(error).__name__)
        else:
            yield from self._take(reading, item)

    def _take(self, reading: _Reading, item: Said) -> Iterator[Event]:
        reading.heard, reading.begun = time.monotonic(), True
        if isinstance(item, Begun):
            return
        if not isinstance(item, Piece):
            self._reading.remove(reading)
            yield item
            return
        reading.note(item)
        with self._changed:
            self._held += 1
        yield Tiles(reading.work.task.slide_id, item.tile_index, item.ok, item.pixels, None, 0)

    def _lost(self, reading: _Reading, how: str) -> Iterator[Event]:
        """Its process or its node is gone, perhaps by no fault of the slide: another reads what it had not."""
        self._reading.remove(reading)
        slide_id = reading.work.task.slide_id
        if reading.read.all():
            yield Closed(slide_id, ReadStats())
        elif reading.tries >= TRIES:
            why = f"the reader crashed on this file {TRIES} times ({how}): check it with another viewer, or convert it"
            yield Failed(slide_id, why, ReadStats())
        else:
            # Whoever got further was not hindered by the file.
            tries = 1 if reading.read.any() else reading.tries + 1
            with self._changed:
                self._queue.appendleft((reading.work.left(reading.read), tries))

    def _end(self, reading: _Reading) -> None:
        self._reading.remove(reading)
        self._ray.cancel(reading.stream, force=True)
