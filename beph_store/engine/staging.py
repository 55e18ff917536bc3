"""The next slides are fetched from object storage while others are read.

In a process of its own: it opens slides and finds tissue, to know which parts will be read, and C decoders crash on bad
files. What it could not fetch the reader fetches itself, and tells the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from beph_store.engine.memory import memory_limit
from beph_store.engine.plan import SlideTask
from beph_store.engine.reader_handle import without_main
from beph_store.engine.reader_process import survey
from beph_store.errors import BephStoreError
from beph_store.records import TileSpec
from beph_store.slides import Staging, TileReader
from beph_store.slides.copies import forget

Admit = Callable[[SlideTask], bool]


class FetchAhead:
    """Keeps ``ahead`` slides beyond those that are being read on local disk; nothing where none is remote.

    ``admit`` is asked as the pool of readers asks it, slide by slide in the order of ``tasks``: so it learns whose turn
    it is. Call ``close`` at the end.
    """

    def __init__(
        self, tasks: Sequence[SlideTask], spec: TileSpec, *, workers: int, ahead: int, admit: Admit
    ) -> None:
        self._admit = admit
        self._ahead = ahead
        self._spec = spec
        self._tasks = [task for task in tasks if task.remote is not None]
        self._number = {task.slide_id: number for number, task in enumerate(self._tasks)}
        self._next = workers  # those before it go to readers at once
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._start()

    def admit(self, task: SlideTask) -> bool:
        """Whether the slide is to be read; the ones after it may be fetched."""
        number = self._number.get(task.slide_id)
        if number is not None:
            self._allow(number + self._ahead)
        return self._admit(task)

    def close(self) -> None:
        """Stop fetching, and give the disk back."""
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
        if self._connection is not None:
            self._connection.close()
        if self._tasks:
            with contextlib.suppress(BephStoreError, OSError):
                forget([task.remote for task in self._tasks if task.remote is not None])

    def _start(self) -> None:
        left = self._tasks[self._next :] if self._ahead > 0 else []
        if not left:
            return
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=run, args=(theirs, left, self._next, self._spec), daemon=True, name="fetch"
        )
        with without_main():
            process.start()
        theirs.close()
        self._process, self._connection = process, ours

    def _allow(self, number: int) -> None:
        """Up to that one, and not the one that a process died of."""
        if self._process is None or self._connection is None:
            return
        with contextlib.suppress(OSError, EOFError):
            while self._connection.poll():
                self._next = self._connection.recv() + 1
        if not self._process.is_alive() and self._next < len(self._tasks):
            self._connection.close()
            self._process = None
            self._start()
        with contextlib.suppress(OSError):
            self._connection.send(number)


def run(connection: Connection, tasks: Sequence[SlideTask], first: int, spec: TileSpec) -> None:
    """The process: fetch ``tasks``, numbered from ``first``, as far as it is allowed; say which is begun."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allowed = -1
    try:
        for number, task in enumerate(tasks, first):
            while allowed < number:
                allowed = max(allowed, connection.recv())
            connection.send(number)
            with contextlib.suppress(BephStoreError, OSError, MemoryError), memory_limit(task.memory_bytes):
                fetch(task, spec)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the engine is gone, or done


def fetch(task: SlideTask, spec: TileSpec) -> None:
    """Have on local disk what reading the slide's tiles needs. Raises as ``open_slide`` does."""
    staging = dataclasses.replace(task.staging or Staging(), ahead=True)
    with dataclasses.replace(task, staging=staging).open() as slide:
        if slide.in_parts:
            tiles, _ = survey(slide, spec)
            TileReader(slide, tiles).want()
