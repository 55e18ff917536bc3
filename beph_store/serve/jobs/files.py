"""The files of a job, and the lock that says whether it lives."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

#: Locks that a dead process lets go of, and that a child can be handed.
CAN_RUN = sys.platform != "win32"


@dataclass(frozen=True, slots=True)
class Folder:
    """Where everything of one job lies."""

    root: Path

    @property
    def record(self) -> Path:
        """What the job is and how it stands, see `record`."""
        return self.root / "job.json"

    @property
    def lock(self) -> Path:
        """Locked while a process of the job lives, or while its record is being changed."""
        return self.root / "lock"

    @property
    def cancel(self) -> Path:
        """There once somebody wants the job to end."""
        return self.root / "cancel"

    @property
    def progress(self) -> Path:
        """How far it is; renewed often, never flushed to the disk."""
        return self.root / "progress.json"

    @property
    def result(self) -> Path:
        """What the worker says at its end: ``{"result": …}`` or ``{"error": …}``."""
        return self.root / "result.json"

    @property
    def events(self) -> Path:
        """What happened, a JSON object a line."""
        return self.root / "events.jsonl"

    @property
    def log(self) -> Path:
        """What the worker printed; see `log` for the rest of a long one."""
        return self.root / "log.txt"

    @property
    def keeper_log(self) -> Path:
        """What the keeper printed: nothing, unless it is broken."""
        return self.root / "keeper.txt"

    @property
    def out(self) -> Path:
        """What the work makes."""
        return self.root / "out"


def write_json(path: Path, data: Any, *, flush: bool = True) -> None:
    """Write aside, flush, rename. `beph_store.store.durable` does the same and loads Lance."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    if flush:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is none."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """An open file that has the lock ``path``, or None where somebody else has it or the folder is gone.

    The lock belongs to the open file, not to the process: who inherits the file has the lock as well, and it is free
    when the last of them has closed it.
    """
    handle = _opened(path, os.O_RDWR | os.O_CREAT)  # network disks lock for writing only what is open for it
    if handle is None:
        yield None
        return
    try:
        yield handle if _lock(handle, alone=True) and _is(path, handle) else None
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock; so it is said where that cannot be seen, of another user's files for one.

    To look, the lock is shared for a moment: who wants it just then must try again.
    """
    handle = _opened(path, os.O_RDONLY)
    if handle is None:
        return path.exists()
    try:
        return not _lock(handle, alone=False)
    finally:
        os.close(handle)


def _opened(path: Path, flags: int) -> int | None:
    try:
        return os.open(path, flags, 0o666)
    except OSError:
        return None


def _lock(handle: int, *, alone: bool) -> bool:
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether the file is still that of the folder: the job may have been deleted in the meantime."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False
