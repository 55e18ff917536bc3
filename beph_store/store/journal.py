"""A journal: JSON objects, one a line, only ever appended to, on the disk before the writer is told so.

A line counts when it ended in a line feed. What a power cut or a full disk left of one is closed by the next writer
with a mark that makes it no JSON, and is passed over by every reader: it was never acknowledged. Several processes may
write, one at a time by a lock file beside the journal (not in ``locks/``, which `compact` empties).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from beph_store.errors import StoreError
from beph_store.store.durable import sync_file, sync_folder

Entry = dict[str, Any]
#: How long, in seconds, a writer waits for another: an append takes milliseconds.
_PATIENCE = 20.0
_TORN = b" (torn)\n"


class Journal:
    """The entries of one file, read once and then only as far as it has grown. Usable from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._entries: list[Entry] = []
        self._read_to = 0
        self._inode = -1
        self._torn = 0

    @property
    def torn(self) -> int:
        """Lines, of those read so far, that were never written whole."""
        return self._torn

    def read(self) -> Sequence[Entry]:
        """Every entry so far, oldest first. StoreError where the file is there and cannot be read."""
        with self._guard:
            self._catch_up()
            return tuple(self._entries)

    def append(self, make: Callable[[Sequence[Entry]], Entry]) -> Entry:
        """Write what ``make`` returns for the entries so far; nobody else writes in between.

        What ``make`` raises goes through, and nothing is written. Raises StoreError where the journal cannot be
        written; a part of a line may then be there, and does not count.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock"), timeout=_PATIENCE, thread_local=False), self._guard:
                tail = self._catch_up()
                entry = make(tuple(self._entries))
                line = json.dumps(entry, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
                self._write((_TORN if tail else b"") + line)
                self._catch_up()
                return entry
        except Timeout:
            raise StoreError(
                f"another process has held {self.path.with_suffix('.lock').name} for {_PATIENCE:.0f} s: try again",
                path=self.path,
            ) from None
        except OSError as error:
            raise StoreError(f"{self.path.name} cannot be written: {error}", path=self.path) from error

    def _write(self, data: bytes) -> None:
        new = not self.path.exists()
        with self.path.open("ab", buffering=0) as file:
            while data:
                data = data[file.write(data) :]
        sync_file(self.path)
        if new:
            sync_folder(self.path.parent)

    def _catch_up(self) -> bool:
        """Read what was added; whether the file ends in a part of a line."""
        try:
            with self.path.open("rb") as file:
                self._follow(file.fileno())
                file.seek(self._read_to)
                added = file.read()
        except FileNotFoundError:
            self._entries, self._read_to, self._torn = [], 0, 0
            return False
        except OSError as error:
            raise StoreError(f"{self.path.name} cannot be read: {error}", path=self.path) from error
        *lines, tail = added.split(b"\n")
        for line in lines:
            entry = _parsed(line)
            if entry is None:
                self._torn += 1
            else:
                self._entries.append(entry)
        self._read_to += len(added) - len(tail)
        return bool(tail)

    def _follow(self, handle: int) -> None:
        """Start again where this is another file, such as a copy that was put back."""
        stat = os.fstat(handle)
        if stat.st_ino != self._inode or stat.st_size < self._read_to:
            self._entries, self._read_to, self._torn, self._inode = [], 0, 0, stat.st_ino


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
