"""The engine's side of the reader processes: starts them, feeds them, and survives their deaths."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine import reader_process
from beph_store.engine.messages import Chunk, Closed, Failed, Free, Open, Opened, Read, Ready, RingSpec
from beph_store.engine.plan import SlideTask
from beph_store.engine.report import ReadStats
from beph_store.records import TileSpec

_MAIN = threading.Lock()
#: A reader that says nothing for so long while it could work is taken for hung.
STALL_SECONDS = 300.0
_RING_PREFIX = "beph-store-ring-"
#: A ring loses its name once its reader has started; one that has kept it so long is left by a killed run.
_RING_NAMED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class RingShape:
    """How far a reader may run ahead: ``slots`` chunks of ``chunk`` tiles."""

    slots: int = 6
    chunk: int = 32


@dataclass(slots=True, eq=False)
class _Reader:
    process: BaseProcess
    connection: Connection
    slots: NDArray[np.uint8]
    ring: RingSpec
    slide_id: str | None = None
    waiting: bool = False  # for our Read
    taken: int = 0  # slots that we hold
    heard: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Open | Read | Free) -> None:
        # If it died, `events` will say so; if it was let go after its last slide, it needs no answer.
        with self.lock, contextlib.suppress(OSError):
            self.connection.send(message)

    def unlink_ring(self) -> None:
        """Once mapped by both sides the file needs no name; without one nothing can be left behind."""
        Path(self.ring.path).unlink(missing_ok=True)

    def stalled(self) -> bool:
        could_work = self.slide_id is not None and not self.waiting and self.taken < self.ring.slots
        return could_work and time.monotonic() - self.heard > STALL_SECONDS


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


class ReaderPool:
    """``workers`` processes that read ``tasks`` in order. Iterate over ``events`` in one thread.

    A task is read only if ``admit`` says so when its turn comes. Every admitted slide ends with one
    ``Closed`` or ``Failed``. After ``Opened`` the slide waits for ``read``.
    ``read`` and ``give_back`` may be called from other threads.
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
        self._readers = [self._start() for _ in range(min(workers, len(tasks)))]
        self._by_slide: dict[str, _Reader] = {}
        self._stop = threading.Event()

    def events(self) -> Iterator[Event]:
        """What the readers do, until every slide is over or ``stop`` was called."""
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
        handles: dict[Any, _Reader] = {}
        for reader in self._readers:
            handles[reader.connection] = handles[reader.process.sentinel] = reader
        for reader in {handles[handle] for handle in wait(list(handles), timeout=0.2)}:
            yield from self._hear(reader)
        for reader in list(self._readers):
            if reader.stalled():
                yield self._bury(reader, f"the reader did nothing for {STALL_SECONDS:.0f} s and was stopped")

    def read(self, slide_id: str, tile_index: NDArray[np.int32]) -> None:
        """Let an opened slide go on with these tiles; with none it is closed."""
        reader = self._by_slide.get(slide_id)
        if reader is not None:
            reader.waiting = False
            reader.heard = time.monotonic()
            reader.send(Read(tile_index))

    def give_back(self, tiles: Tiles) -> None:
        """The pixels were used."""
        tiles.source.taken -= 1
        tiles.source.heard = time.monotonic()
        tiles.source.send(Free(tiles.slot))

    def stop(self) -> None:
        """Let ``events`` end soon, whatever is unfinished."""
        self._stop.set()

    def _shut_down(self) -> None:
        for reader in self._readers:
            reader.process.kill()  # it holds nothing that needs an orderly end
        for reader in self._readers:
            reader.process.join(5)
            reader.unlink_ring()
            reader.connection.close()

    def _hear(self, reader: _Reader) -> Iterator[Event]:
        try:
            while reader.connection.poll():
                message = reader.connection.recv()
                reader.heard = time.monotonic()
                if isinstance(message, Ready):
                    reader.unlink_ring()
                elif isinstance(message, Chunk):
                    reader.taken += 1
                    pixels = reader.slots[message.slot, : len(message.tile_index)]
                    yield Tiles(
                        message.slide_id, message.tile_index, message.ok, pixels, reader, message.slot
                    )
                elif isinstance(message, Opened):
                    reader.waiting = True
                    yield message
                elif isinstance(message, Closed | Failed):
                    self._next(reader)
                    yield message
            dead = not reader.process.is_alive() and not reader.connection.poll()
        except (EOFError, ConnectionResetError, OSError):
            dead = True
        if dead and reader in self._readers:
            reader.process.join(5)
            yield from self._bury_dead(reader)

    def _bury_dead(self, reader: _Reader) -> Iterator[Event]:
        code = reader.process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if reader.slide_id is None:
            self._readers.remove(reader)
            return
        yield self._bury(
            reader, f"the reader crashed on this file ({how}): check it with another viewer, or convert it"
        )

    def _bury(self, reader: _Reader, why: str) -> Failed:
        slide_id = reader.slide_id or ""
        reader.process.kill()
        reader.unlink_ring()
        self._readers.remove(reader)
        self._by_slide.pop(slide_id, None)
        if self._tasks and not self._stop.is_set():
            fresh = self._start()
            self._readers.append(fresh)
            self._next(fresh)
        return Failed(slide_id, why, ReadStats())

    def _next(self, reader: _Reader) -> None:
        if reader.slide_id is not None:
            self._by_slide.pop(reader.slide_id, None)
        reader.slide_id = None
        while self._tasks and not self._stop.is_set():
            task = self._tasks.popleft()
            if not self._admit(task):
                continue
            reader.slide_id = task.slide_id
            self._by_slide[task.slide_id] = reader
            reader.heard = time.monotonic()
            reader.send(Open(task, self._spec))
            return

    def _start(self) -> _Reader:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        ring, slots = _make_ring(self._shape, self._spec.tile_px)
        process = context.Process(target=reader_process.run, args=(theirs, ring), daemon=True, name="reader")
        with _without_main():
            process.start()
        theirs.close()
        return _Reader(process, ours, slots, ring)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep a spawned process from running the user's script again: a reader needs nothing of it.

    Otherwise a script that calls ``ingest`` without ``if __name__ == "__main__"`` would start itself in every reader.
    """
    main = sys.modules["__main__"]
    with _MAIN:
        kept: dict[str, Any] = {
            name: main.__dict__.pop(name) for name in ("__spec__", "__file__") if name in main.__dict__
        }
        main.__spec__ = None
        try:
            yield
        finally:
            main.__dict__.update(kept)


def _make_ring(shape: RingShape, tile_px: int) -> tuple[RingSpec, NDArray[np.uint8]]:
    spec = RingSpec("", shape.slots, shape.chunk, tile_px)
    folder = _ring_folder(spec.nbytes)
    _sweep(folder or tempfile.gettempdir())
    handle, path = tempfile.mkstemp(prefix=_RING_PREFIX, dir=folder)
    with os.fdopen(handle, "r+b") as file:
        file.truncate(spec.nbytes)
        memory = mmap.mmap(file.fileno(), spec.nbytes)
    return RingSpec(path, shape.slots, shape.chunk, tile_px), np.frombuffer(memory, np.uint8).reshape(
        spec.shape
    )


def _sweep(folder: str) -> None:
    """Remove rings of runs that were killed while their readers started."""
    for ring in Path(folder).glob(f"{_RING_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone by now
            if time.time() - ring.stat().st_mtime > _RING_NAMED_SECONDS:
                ring.unlink()


def _ring_folder(nbytes: int) -> str | None:
    """/dev/shm when it has room: containers often give it 64 MB, and writing past that kills the process."""
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK):
        stat = os.statvfs(shm)
        if stat.f_bavail * stat.f_frsize > 4 * nbytes:
            return str(shm)
    return None
