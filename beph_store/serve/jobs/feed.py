"""What changes while somebody watches: jobs, their events, labels, running ingests; one stream for each tab.

The store is looked at twice a second while there is a stream, and only then: what another server or a command line does
is seen as well. Each stream reads one list of the last messages at its own pace, so a slow one costs no memory, and one
that comes back says which message it saw last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beph_store.engine.live import look
from beph_store.serve.jobs.events import Tail
from beph_store.serve.jobs.files import Folder
from beph_store.serve.jobs.queue import Jobs
from beph_store.store.layout import Layout

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
#: Messages that a stream which was away can catch up on.
_KEPT = 4000
#: Ingests renew what they tell every two seconds.
_LOOKS_A_RUN = 4

Said = tuple[str, dict[str, Any]]


@dataclass(slots=True)
class Watch:
    """What was seen at the last look; ``changes`` looks again. One thread at a time uses it."""

    jobs: Jobs
    layout: Layout
    _begun: bool = False
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)
    _tails: dict[str, Tail] = field(default_factory=dict)
    _labels: dict[str, tuple[int, int]] = field(default_factory=dict)
    _runs: dict[str, Any] = field(default_factory=dict)
    _looks: int = 0

    def changes(self) -> list[Said]:
        """(kind, data) of what is different now; nothing at the first look."""
        found = [*self._jobs_changed(), *self._labels_changed()]
        if self._looks % _LOOKS_A_RUN == 0:
            found += self._runs_changed()
        self._looks += 1
        begun, self._begun = self._begun, True
        return found if begun else []

    def open_jobs(self) -> list[dict[str, Any]]:
        """Jobs that had not ended at the last look."""
        return [job for job in self._known.values() if job["ended_at"] is None]

    def _jobs_changed(self) -> Iterator[Said]:
        now = {job.job: job for job in self.jobs.all()}
        for name in [name for name in self._known if name not in now]:
            del self._known[name]
            self._tails.pop(name, None)
            yield "job-gone", {"job": name}
        for name, job in now.items():
            if job.ended and self._known.get(name, {}).get("ended_at"):
                continue  # of most jobs nothing more will come
            if name not in self._known and not (job.ended and not self._begun):
                tail = self._tails[name] = Tail(Folder(self.jobs.root / name).events)
                if not self._begun:
                    tail.more()
            told = job.told()
            if told != self._known.get(name):
                self._known[name] = told
                yield "job", told
            if name in self._tails:
                for event in self._tails[name].more():
                    yield "job-event", {"job": name, **event}
                if job.ended:
                    del self._tails[name]

    def _labels_changed(self) -> Iterator[Said]:
        # A bucket is not asked several times a second: a store in one is only read here, and its labels at each visit.
        for entry in _listed(self.layout.work / "annotations", ".jsonl"):
            try:
                found = entry.stat()
            except OSError:
                continue
            stamp = (found.st_mtime_ns, found.st_size)
            recipe = entry.name.removesuffix(".jsonl")
            if self._labels.get(recipe) != stamp:
                self._labels[recipe] = stamp
                yield "labels", {"recipe": recipe}

    def _runs_changed(self) -> Iterator[Said]:
        now = {}
        for entry in _listed(self.layout.live, ".progress"):
            run = entry.name.removesuffix(".progress")
            lives, progress = look(self.layout, run)
            now[run] = {"run": run, "state": "running" if lives else "stopped", "progress": progress}
        for run, told in now.items():
            if told != self._runs.get(run):
                yield "run", told
        for run in self._runs:
            if run not in now:
                yield "run", {"run": run, "state": "ended", "progress": None}
        self._runs = now


def _listed(folder: Path, suffix: str) -> list[os.DirEntry[str]]:
    try:
        return [e for e in os.scandir(folder) if e.name.endswith(suffix) and not e.name.startswith(".")]
    except OSError:
        return []


@dataclass(slots=True, eq=False)
class Reader:
    """One open stream. ``ping`` is set when there is something to see; ``gone`` once nobody listens any more."""

    ping: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False

    async def pinged(self, seconds: float) -> bool:
        """Wait until there is something to see; False if there was nothing for so long."""
        self.ping.clear()
        try:
            await asyncio.wait_for(self.ping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def leave(self) -> None:
        """Nobody listens any more."""
        self.gone = True
        self.ping.set()


@dataclass(slots=True, eq=False)
class Feed:
    """The streams of a server, all in one event loop."""

    watch: Watch
    heartbeat: float = HEARTBEAT_SECONDS
    _name: str = field(default_factory=lambda: secrets.token_hex(4))
    _last: int = 0
    _kept: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _readers: set[Reader] = field(default_factory=set)
    _looking: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _closed: bool = False

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._readers)

    async def follow(self, reader: Reader, last_id: str | None) -> AsyncGenerator[bytes, None]:
        """What to send, as it comes, until the feed is closed or ``reader`` has gone.

        ``last_id`` is that of the last message that the stream's reader has seen. Where the messages since are not at
        hand, ``reset`` says so first. A new stream begins with the jobs that have not ended.
        """
        self._readers.add(reader)
        try:
            await self._look()
            if self._looking is None and not self._closed:
                self._looking = asyncio.create_task(self._look_on())
            yield b"retry: 2000\n\n"
            at, first = self._start(last_id)
            if first:
                yield first
            while not (self._closed or reader.gone):
                at, fresh = self._since(at)
                if fresh:
                    yield fresh
                elif not await reader.pinged(self.heartbeat):
                    yield b": still here\n\n"
        finally:
            self._readers.discard(reader)
            if not self._readers:
                self._rest()

    def _start(self, last_id: str | None) -> tuple[int, bytes]:
        """Number of the message after which a stream goes on, and what it begins with."""
        at = self._place(last_id)
        if at is not None:
            return at, b""
        lost = [_block("reset", {})] if last_id else []
        jobs = [_block("job", job) for job in self.watch.open_jobs()]
        return self._last, b"".join([*lost, *jobs, f"id: {self._name}-{self._last}\n\n".encode()])

    def _since(self, at: int) -> tuple[int, bytes]:
        """Number of the last message, and those after ``at``."""
        fresh = [message for number, message in self._kept if number > at]
        if self._last - at > len(fresh):
            fresh.insert(0, _block("reset", {}))
        return self._last, b"".join(fresh)

    def _rest(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        self._rest()
        for reader in self._readers:
            reader.ping.set()

    def _place(self, last_id: str | None) -> int | None:
        """Number of the message of that id, if all that came after it are kept."""
        name, _, number = (last_id or "").partition("-")
        if name != self._name or not number.isascii() or not number.isdigit() or len(number) > 15:
            return None
        oldest = self._kept[0][0] if self._kept else self._last + 1
        return int(number) if oldest - 1 <= int(number) <= self._last else None

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(OSError):
                await self._look()

    async def _look(self) -> None:
        """Look, and tell. Goes on when whoever asked for it leaves: what was seen would never be told."""
        task = asyncio.create_task(self._looked())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _looked(self) -> None:
        async with self._lock:
            found = await asyncio.to_thread(self.watch.changes)
            for kind, data in found:
                self._last += 1
                self._kept.append((self._last, _block(kind, data, f"{self._name}-{self._last}")))
        for reader in self._readers if found else ():
            reader.ping.set()


def _block(kind: str, data: dict[str, Any], number: str | None = None) -> bytes:
    """A message as the standard of event streams has it; JSON in ASCII holds no line break."""
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
