"""One reader process as the engine holds it: its pipe, its ring of pixels, and what it is at."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine import reader_process
from beph_store.engine.messages import Free, Give, Open, Read, RingSpec

Message = Open | Read | Free | Give

_MAIN = threading.Lock()
_RING_PREFIX = "beph-store-ring-"
#: A ring loses its name once its reader has started; one that has kept it so long is left by a killed run.
_RING_NAMED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class RingShape:
    """How far a reader may run ahead: ``slots`` chunks of ``chunk`` tiles."""

    slots: int = 6
    chunk: int = 32


@dataclass(slots=True, eq=False)
class Reader:
    """``left`` tiles that it was told to read and has not sent; ``asked`` it was told to give some of them up."""

    process: BaseProcess
    connection: Connection
    slots: NDArray[np.uint8]
    ring: RingSpec
    slide_id: str | None = None
    left: int = 0
    asked: bool = False
    waiting: bool = False  # for our Read
    taken: int = 0  # slots that we hold
    heard: float = field(default_factory=time.monotonic)
    hung: bool = False  # it was ended in the middle of a message
    _outbox: queue.SimpleQueue[Message | None] = field(default_factory=queue.SimpleQueue)
    _post: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._post = threading.Thread(target=_deliver, args=(self.connection, self._outbox), daemon=True)
        self._post.start()

    def send(self, message: Message) -> None:
        """Say something to it, without waiting: one that stands still does not empty its pipe.

        If it died, its pipe will tell; if it was let go, it needs no answer.
        """
        self._outbox.put(message)

    def kill(self) -> None:
        """End the process; it holds nothing that needs an orderly end."""
        self.process.kill()
        self.unlink_ring()

    def close(self) -> None:
        """After ``kill``: wait for its end, and let go of the pipe."""
        self.process.join(5)
        self._outbox.put(None)
        self._post.join(5)
        if not self._post.is_alive():  # else its pipe would be closed under it
            self.connection.close()

    def unlink_ring(self) -> None:
        """Once mapped by both sides the file needs no name; without one nothing can be left behind."""
        Path(self.ring.path).unlink(missing_ok=True)

    def stalled(self, seconds: float) -> bool:
        """Whether it has said nothing for so long while it could work."""
        could_work = self.slide_id is not None and not self.waiting and self.taken < self.ring.slots
        return could_work and time.monotonic() - self.heard > seconds

    def how_it_ended(self) -> str:
        """Exit code or signal of a process that is over."""
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _deliver(connection: Connection, outbox: queue.SimpleQueue[Message | None]) -> None:
    with contextlib.suppress(OSError):
        while (message := outbox.get()) is not None:
            connection.send(message)


def start_reader(shape: RingShape, tile_px: int) -> Reader:
    """Start a reader process; it says ``Ready`` when it has mapped its ring."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    ring, slots = _make_ring(shape, tile_px)
    process = context.Process(target=reader_process.run, args=(theirs, ring), daemon=True, name="reader")
    with without_main():
        process.start()
    theirs.close()
    return Reader(process, ours, slots, ring)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
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
