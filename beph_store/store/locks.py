"""Who is writing what right now: lock files in a folder on a disk, leases in a bucket.

A lock file is freed by the system when its process dies. A lease is an object that names its holder's session, a
second object that the holder puts again every few seconds. By the server's own clock a session that was not put for a
minute is dead, and whoever wants one of its leases takes it over by a put that fails if somebody else was quicker.

Leases save work done twice and keep `compact` away from what is being written. They decide nothing: a holder that
slept through its death and goes on is no danger, because the registry gives a slide to one writer only.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from filelock import FileLock, Timeout

from beph_store.errors import BephStoreError, StoreError
from beph_store.store.conditional import require_conditional_puts
from beph_store.store.layout import Layout
from beph_store.store.place import ObjectPath

#: Seconds after which a session that was not put again is dead, and between two puts.
DEAD_S, BEAT_S = 60.0, 15.0
#: Seconds between two looks at a lease that another holds, at most.
_WAIT_S = 1.0
_SUFFIX = ".lease"
_BUSY = "another process is writing to the store: compact it when the ingest has ended"


class Hold(Protocol):
    """What is held until it is released; a second release does nothing."""

    def release(self) -> None:
        """Let it go."""


def claim(layout: Layout, name: str) -> Hold | None:
    """Hold ``name`` alone, or None while another process does. Waits for `compact`, which must not meet a new claim."""
    root = layout.root
    if isinstance(root, ObjectPath):
        session = _session(root)
        lease = session.take(name)
        # The lease first and then this look, as `compact` does the reverse: one of the two sees the other.
        while lease is not None and session.lives(_COMPACT):
            lease.release()
            time.sleep(_WAIT_S)
            lease = session.take(name)
        return lease
    lock = FileLock(layout.locks / f"{name}.lock", timeout=0, thread_local=False)
    try:
        with FileLock(layout.commit_lock):
            lock.acquire()
    except Timeout:
        return None
    return lock


@contextmanager
def held(layout: Layout, name: str) -> Iterator[None]:
    """Hold ``name`` alone while inside; waits for it."""
    root = layout.root
    if not isinstance(root, ObjectPath):
        with FileLock(layout.locks / f"{name}.lock"):
            yield
        return
    session = _session(root)
    pause = 0.05
    while (lease := session.take(name)) is None:
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, _WAIT_S)
    try:
        yield
    finally:
        lease.release()


@contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Nobody else writes while inside; StoreError while somebody does. What dead holders left is gone afterwards."""
    root = layout.root
    with ExitStack() as locks:
        if isinstance(root, ObjectPath):
            locks.enter_context(_alone_remotely(root))
        _alone_here(layout, locks)
        yield
        # Nobody holds or awaits these: a claim takes the commit lock, ours, first.
        for path in set(layout.locks.glob("*.lock")) - {layout.commit_lock}:
            path.unlink()


def _alone_here(layout: Layout, locks: ExitStack) -> None:
    layout.locks.mkdir(parents=True, exist_ok=True)
    try:
        # The commit lock first: no slide can be claimed while we hold it, so the list below is all there is.
        locks.enter_context(FileLock(layout.commit_lock, timeout=0, thread_local=False))
        for path in set(layout.locks.glob("*.lock")) - {layout.commit_lock}:
            locks.enter_context(FileLock(path, timeout=0, thread_local=False))
    except Timeout:
        raise StoreError(_BUSY) from None


_COMPACT, _COMMIT = "compact", "commit"


@contextmanager
def _alone_remotely(root: ObjectPath) -> Iterator[None]:
    session = _session(root)
    with ExitStack() as own:
        for name in (_COMPACT, _COMMIT):
            lease = session.take(name)
            if lease is None:
                raise StoreError(_BUSY)
            own.callback(lease.release)
        others = [p for p in session.leases() if p.stem not in (_COMPACT, _COMMIT)]
        if any(session.lives(path.stem) for path in others):
            raise StoreError(_BUSY)
        yield
        for path in others:
            path.unlink()
        session.bury()


@dataclass(slots=True)
class Lease:
    """A lease of ours; see `claim`."""

    session: _Session
    path: ObjectPath
    data: bytes

    def release(self) -> None:
        """Let it go."""
        self.session.drop(self)


@dataclass(slots=True)
class _Session:
    """What this process is as a holder of leases of one store. A thread puts its object again while it holds any."""

    root: ObjectPath
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    #: What each lease of ours says.
    _held: dict[ObjectPath, bytes] = field(default_factory=dict)
    _late: list[Lease] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _end: threading.Event = field(default_factory=threading.Event)

    @property
    def _object(self) -> ObjectPath:
        return self._folder / f"{self.name}.session"

    @property
    def _folder(self) -> ObjectPath:
        return self.root / "locks"

    def leases(self) -> list[ObjectPath]:
        """Every lease of the store, whoever holds it."""
        return [path for path in self._folder.iterdir() if path.suffix == _SUFFIX]

    def take(self, name: str) -> Lease | None:
        """The lease of that name, or None while a live session, this one too, holds it."""
        path = self._folder / f"{name}{_SUFFIX}"
        with self._guard:
            if path in self._held:
                return None
            self._start()
            data = json.dumps({"session": self.name, "token": uuid.uuid4().hex}).encode()
            self._held[path] = data
        taken = None
        try:
            taken = self._take(Lease(self, path, data))
        finally:
            if taken is None:
                self._forget(path)
        return taken

    def _take(self, lease: Lease) -> Lease | None:
        path = lease.path
        for _ in range(3):
            if path.put_new(lease.data):
                return lease
            try:
                data, seen = path.read_tagged()
            except FileNotFoundError:
                continue  # released in this moment
            if not self._is_dead(_holder(data)):
                return None
            return lease if path.swap(lease.data, seen) else None
        return None

    def lives(self, name: str) -> bool:
        """Whether a live session holds the lease of that name."""
        try:
            data = (self._folder / f"{name}{_SUFFIX}").read_bytes()
        except FileNotFoundError:
            return False
        return not self._is_dead(_holder(data))

    def _is_dead(self, name: str) -> bool:
        if name == self.name:
            return False
        try:
            last = (self._folder / f"{name}.session").stat().st_mtime
        except FileNotFoundError:
            return True
        return self._now() - last > DEAD_S

    def _now(self) -> float:
        """Seconds since 1970 by the server's clock: when it says that our own object was put just now."""
        self._beat()
        return self._object.stat().st_mtime

    def _beat(self) -> None:
        self._object.write_bytes(json.dumps({"pid": os.getpid(), "at": time.time()}).encode())

    def drop(self, lease: Lease) -> None:
        """Delete a lease, unless another has taken it over; what cannot be deleted now is deleted later."""
        with self._guard:
            if self._held.get(lease.path) != lease.data:
                return
        try:
            with suppress(FileNotFoundError):
                if lease.path.read_bytes() == lease.data:
                    lease.path.unlink()
        except (OSError, BephStoreError):
            with self._guard:
                self._late.append(lease)
            return
        self._forget(lease.path)

    def _forget(self, path: ObjectPath) -> None:
        with self._guard:
            self._held.pop(path, None)

    def bury(self) -> None:
        """Delete the objects of dead sessions."""
        for path in list(self._folder.iterdir()):
            if path.suffix == ".session" and self._is_dead(path.stem):
                path.unlink()

    def _start(self) -> None:
        """Be seen as alive before the first lease says who holds it. Call with the guard."""
        if self._thread is None:
            require_conditional_puts(self.root)
            self._beat()
            self._end.clear()
            self._thread = threading.Thread(target=self._live, name="leases", daemon=True)
            self._thread.start()

    def _live(self) -> None:
        while not self._end.wait(BEAT_S):
            with suppress(OSError, BephStoreError):  # one beat may fail: there are four to a death
                self._beat()
            with self._guard:
                late, self._late = self._late, []
            for lease in late:
                self.drop(lease)
            with self._guard:
                if not self._held:
                    self._leave()  # within the guard: a session that starts again must find it gone
                    self._thread = None
                    return
        self._leave()

    def _leave(self) -> None:
        with suppress(OSError, BephStoreError):
            self._object.unlink()

    def close(self) -> None:
        """Give back what is still held; for the end of the process."""
        thread = self._thread
        if thread is not None:
            for path in list(self._held):
                with suppress(OSError, BephStoreError):
                    if _holder(path.read_bytes()) == self.name:
                        path.unlink()
            self._end.set()
            thread.join(timeout=5)


def _holder(data: bytes) -> str:
    try:
        return str(json.loads(data)["session"])
    except (ValueError, KeyError, TypeError):
        return "nobody"


_SESSIONS: dict[tuple[int, ObjectPath], _Session] = {}
_SESSIONS_GUARD = threading.Lock()


def _session(root: ObjectPath) -> _Session:
    """The session of this process on a store."""
    with _SESSIONS_GUARD:
        return _SESSIONS.setdefault((os.getpid(), root), _Session(root))


@atexit.register
def _close() -> None:
    for (pid, _), session in list(_SESSIONS.items()):
        if pid == os.getpid():
            session.close()
