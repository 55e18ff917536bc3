"""The server's side of the jobs of a store: ask for one, look at them, cancel, delete; and start what is next."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beph_store.errors import UsageError
from beph_store.serve.jobs import keeper
from beph_store.serve.jobs.events import append
from beph_store.serve.jobs.files import CAN_RUN, Folder, is_locked, locked, read_json, sync_folder, write_json
from beph_store.serve.jobs.record import KINDS, Job, boot_id, is_id, now, read, write

#: Jobs that may wait or run at a time.
MOST_OPEN = 100
#: A process that ends before it has written that the job runs is started anew so often.
_MOST_STARTS = 3
_LOOK_SECONDS = 0.5
#: Folders that a crash left half made or half deleted are removed when they are so old.
_LEFT_SECONDS = 3600.0
_LETTING_GO_SECONDS = 5.0
_HANDED = 3  # number of the lock's file in the keeper
_log = logging.getLogger(__name__)


class NoSuchJob(UsageError):
    """There is no job of that id."""


class Busy(UsageError):
    """The job, or the queue, is in a state that does not allow it."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """What somebody asks for, checked; see ``Job``."""

    kind: str
    title: str
    options: dict[str, Any]
    recipe: str | None
    work: dict[str, Any]


@dataclass(slots=True)
class Jobs:
    """The jobs in a folder, which is made with the first of them. Usable from several threads and servers."""

    root: Path
    #: What starts a keeper; the folder and the number of the lock are put behind it.
    command: tuple[str, ...] = (sys.executable, "-P", "-m", keeper.__name__)
    #: Keepers that this process started and has to wait for.
    _children: set[int] = field(default_factory=set)
    _wake: threading.Event = field(default_factory=threading.Event)
    #: Held from the count of what is open to the job that is one more: many may ask at once.
    _asking: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False
    _thread: threading.Thread | None = None
    #: Jobs that have ended, by id, and the stamp of the record that says so.
    _over: dict[str, tuple[int, Job]] = field(default_factory=dict)

    def folder(self, job: str) -> Folder:
        """Where a job lies; NoSuchJob for what is none."""
        folder = Folder(self.root / job)
        if not is_id(job) or not folder.record.is_file():
            raise NoSuchJob("no such job: /api/jobs lists them")
        return folder

    def all(self) -> list[Job]:
        """Every job as it stands now, the oldest first."""
        found = [job for folder in self._folders() if (job := self._seen(folder)) is not None]
        return sorted(found, key=lambda job: (job.created_at, job.job))

    def get(self, job: str) -> Job:
        """One of them."""
        found = self._seen(self.folder(job))
        if found is None:
            raise NoSuchJob("the record of this job cannot be read: delete its folder by hand")
        return found

    def submit(self, new: NewJob) -> Job:
        """Put a job into the queue, for good. Busy where too many wait already."""
        if not CAN_RUN:
            raise Busy("jobs need file locks that can be handed to a child: run the server on Linux or macOS")
        with self._asking:
            if sum(not job.ended for job in self.all()) >= MOST_OPEN:
                raise Busy(f"{MOST_OPEN} jobs are waiting: cancel some, or wait")
            job = self._queued(new)
        self._wake.set()
        return job

    def _queued(self, new: NewJob) -> Job:
        created = now()
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        job = Job(name, new.kind, new.title, new.options, created, new.recipe, new.work)
        # Under a name that is no job's until it is whole.
        aside = Folder(self.root / f".new-{name}")
        aside.root.mkdir(parents=True)
        with locked(aside.lock) as held:
            if held is None:
                shutil.rmtree(aside.root)
                raise Busy(
                    "the store lies on a disk without file locks, which jobs need: move it, or train there"
                )
        append(aside.events, {"kind": "state", "state": "queued"})
        write(aside, job)
        aside.root.rename(self.root / name)
        sync_folder(self.root)
        return job

    def cancel(self, job: str) -> Job:
        """Take a job out of the queue, or ask it to stop; Busy if it has ended."""
        folder = self.folder(job)
        if self.get(job).ended:
            raise Busy("this job has ended already")
        write_json(folder.cancel, {"at": now()})
        with locked(folder.lock) as held:
            found = read(folder)
            if held is not None and found is not None and found.state == "queued":
                keeper.end_job(folder, found, "cancelled")
        self._wake.set()
        return self.get(job)

    def delete(self, job: str) -> None:
        """Delete a job with all that it made; Busy unless it has ended."""
        folder = self.folder(job)
        aside = self.root / f".gone-{uuid.uuid4().hex[:8]}"
        end = time.monotonic() + _LETTING_GO_SECONDS
        while not _moved(folder, aside):
            if not self.get(job).ended or time.monotonic() > end:
                raise Busy("this job has not ended: cancel it first")
            time.sleep(0.05)  # its keeper has written the end and is about to go
        self._over.pop(job, None)
        shutil.rmtree(aside, ignore_errors=True)

    def _folders(self) -> Iterator[Folder]:
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.root):
                if is_id(entry.name):
                    yield Folder(Path(entry.path))

    def _read(self, folder: Folder) -> Job | None:
        """The record; of the many that have ended, as it was read before."""
        try:
            stamp = folder.record.stat().st_mtime_ns
        except OSError:
            return None
        known = self._over.get(folder.root.name)
        if known is not None and known[0] == stamp:
            return known[1]
        job = read(folder)
        if job is not None and job.ended:
            self._over[job.job] = (stamp, job)
        return job

    def _seen(self, folder: Folder) -> Job | None:
        """A job as it is, whatever its record says: one that runs with a free lock has died."""
        job = self._read(folder)
        if job is None or job.state != "running":
            return job
        if is_locked(folder.lock):
            return dataclasses.replace(job, progress=read_json(folder.progress))
        job = read(folder)  # it may have ended just now
        return died(job, folder) if job is not None and job.state == "running" else job

    # What follows is for a server that may write.

    def open(self) -> None:
        """Start what is next, from now on, in a thread."""
        self._closed = False
        for left in [*self.root.glob(".gone-*"), *self.root.glob(".new-*")]:
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Start nothing more. What runs goes on: the next server finds it."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            try:
                self.tick()
            except Exception:  # noqa: BLE001 - a full disk, a network that is away: or nothing would ever start again
                _log.exception("jobs: the queue could not be looked at")
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()

    def tick(self) -> None:
        """Write down who has died, and start what may be started."""
        self._reap()
        if not self.root.is_dir():
            return
        with locked(self.root / "lock") as held:
            if held is None:
                return  # another server is at it
            waiting, busy = self._settled()
            for job in waiting:
                lane = KINDS[job.kind].lane
                if lane not in busy and self._start(job):
                    busy.add(lane)

    def _settled(self) -> tuple[list[Job], set[str]]:
        """Jobs that wait, in order, and the lanes that are taken."""
        waiting: list[Job] = []
        busy: set[str] = set()
        for folder in self._folders():
            job = self._read(folder)
            if job is None or job.ended:
                continue
            with locked(folder.lock) as held:
                job = read(folder)
                if job is None or job.ended:
                    continue
                if held is None:
                    busy.add(KINDS[job.kind].lane)
                elif job.state == "running":
                    keeper.end_job(folder, job, "failed", error=died(job, folder).error)
                elif folder.cancel.exists():
                    keeper.end_job(folder, job, "cancelled")
                elif job.starts >= _MOST_STARTS:
                    why = f"its process does not start: see {folder.keeper_log.name} in its folder"
                    keeper.end_job(folder, job, "failed", error=why)
                else:
                    waiting.append(job)
        return sorted(waiting, key=lambda job: (job.created_at, job.job)), busy

    def _start(self, job: Job) -> bool:
        """Hand a job's lock to a new keeper. Returns whether its lane is taken then."""
        folder = Folder(self.root / job.job)
        with locked(folder.lock) as held:
            if held is None:
                return True  # its lane is taken, by whoever it is
            found = read(folder)
            if found is None or found.state != "queued":
                return False  # cancelled, or deleted, just now
            write(folder, dataclasses.replace(found, starts=found.starts + 1))
            self._children.add(_spawned(self.command, folder, held))
        return True

    def _reap(self) -> None:
        """Wait for keepers that have ended, or they would stay as zombies."""
        for child in list(self._children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(child, os.WNOHANG) == (0, 0):
                    continue
            self._children.discard(child)


def _moved(folder: Folder, aside: Path) -> bool:
    """Take a job that has ended out of sight; False where it has not, or is still held by somebody."""
    with locked(folder.lock) as held:
        found = read(folder)  # one that runs by its record has died: we hold its lock
        if held is None or (found is not None and found.state == "queued"):
            return False
        folder.root.rename(aside)
        return True


def died(job: Job, folder: Folder) -> Job:
    """A job that runs by its record and whose processes are gone."""
    before = job.worker or {}
    if before.get("boot") and boot_id() and before["boot"] != boot_id():
        why = "the machine was restarted while it ran: start it again"
    else:
        why = "its processes ended without a word, killed perhaps: see the log, and start it again"
    return dataclasses.replace(job, state="failed", error=why, progress=read_json(folder.progress))


def _spawned(command: tuple[str, ...], folder: Folder, lock: int) -> int:
    """A keeper in a session of its own, with the open lock and nothing else of ours. Returns its number."""
    line = [*command, str(folder.root.resolve()), str(_HANDED)]
    printed = str(folder.keeper_log)
    files = [
        (os.POSIX_SPAWN_DUP2, lock, _HANDED),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(line[0], line, os.environ, file_actions=files, setsid=True)
