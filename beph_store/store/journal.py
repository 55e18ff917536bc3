"""A journal: JSON objects, one a line, only ever appended to, on the disk before the writer is told so.

A line counts when it ended in a line feed. What a power cut or a full disk left of one is closed by the next writer
with a mark that makes it no JSON, and is passed over by every reader: it was never acknowledged. Several processes may
write, one at a time by a lock file beside the journal (not in ``locks/``, which `compact` empties).

In a bucket the journal is one object. It is put whole, with the new line, on the condition that it is still the one
that was read; who loses reads again. Thousands of labels are less than a megabyte.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from beph_store.errors import StoreError
from beph_store.store.conditional import require_conditional_puts
from beph_store.store.durable import sync_file, sync_folder
from beph_store.store.place import ObjectPath, ObjectStat, Place

Entry = dict[str, Any]
#: How long, in seconds, a writer waits for another: an append takes milliseconds.
_PATIENCE = 20.0
_TORN = b" (torn)\n"
#: How often an append to an object is tried again that others changed meanwhile.
_TRIES = 50


class Journal:
    """The entries of one file, read once and then only as far as it has grown. Usable from several threads."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self._object = _Object(path) if isinstance(path, ObjectPath) else None
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
            if self._object:
                self._entries, self._torn = self._object.read()
            else:
                self._catch_up()
            return tuple(self._entries)

    def append(self, make: Callable[[Sequence[Entry]], Entry]) -> Entry:
        """Write what ``make`` returns for the entries so far; nobody else writes in between.

        What ``make`` raises goes through, and nothing is written. Raises StoreError where the journal cannot be
        written; a part of a line may then be there, and does not count.
        """
        if self._object:
            with self._guard:
                return self._object.append(make)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with (
                FileLock(self._file.with_suffix(".lock"), timeout=_PATIENCE, thread_local=False),
                self._guard,
            ):
                tail = self._catch_up()
                entry = make(tuple(self._entries))
                line = _line(entry)
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

    @property
    def _file(self) -> Path:
        assert isinstance(self.path, Path)
        return self.path

    def _write(self, data: bytes) -> None:
        if self._file.is_symlink():
            raise OSError("it is a link, and nothing is written through one")
        new = not self._file.exists()
        with self._file.open("ab", buffering=0) as file:
            while data:
                data = data[file.write(data) :]
        sync_file(self._file)
        if new:
            sync_folder(self._file.parent)

    def _catch_up(self) -> bool:
        """Read what was added; whether the file ends in a part of a line."""
        try:
            with self._file.open("rb") as file:
                self._follow(file.fileno())
                file.seek(self._read_to)
                added = file.read()
        except FileNotFoundError:
            self._entries, self._read_to, self._torn = [], 0, 0
            return False
        except OSError as error:
            raise StoreError(f"{self.path.name} cannot be read: {error}", path=self.path) from error
        entries, torn, tail = _split(added)
        self._entries += entries
        self._torn += torn
        self._read_to += len(added) - len(tail)
        return bool(tail)

    def _follow(self, handle: int) -> None:
        """Start again where this is another file, such as a copy that was put back."""
        stat = os.fstat(handle)
        if stat.st_ino != self._inode or stat.st_size < self._read_to:
            self._entries, self._read_to, self._torn, self._inode = [], 0, 0, stat.st_ino


class _Object:
    """The journal as an object."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._data = b""
        self._seen: ObjectStat | None = None

    def read(self) -> tuple[list[Entry], int]:
        """Entries and torn lines; read again only where the object has changed."""
        try:
            now = self._path.stat()
            if self._seen is None or (now.e_tag, now.st_size) != (self._seen.e_tag, self._seen.st_size):
                self._data, self._seen = self._path.read_tagged()
        except FileNotFoundError:
            self._data, self._seen = b"", None
        except OSError as error:
            raise StoreError(f"{self._path.name} cannot be read: {error}", path=self._path) from error
        entries, torn, _ = _split(self._data)
        return entries, torn

    def append(self, make: Callable[[Sequence[Entry]], Entry]) -> Entry:
        require_conditional_puts(self._path.parent.parent)
        for _ in range(_TRIES):
            entry = make(tuple(self.read()[0]))
            data = (
                self._data + (b"" if self._data.endswith(b"\n") or not self._data else _TORN) + _line(entry)
            )
            try:
                done = self._path.swap(data, self._seen) if self._seen else self._path.put_new(data)
                # Ours, though the answer was lost and another has written behind it.
                if done or self._path.read_bytes().startswith(data):
                    return entry
            except OSError as error:
                raise StoreError(f"{self._path.name} cannot be written: {error}", path=self._path) from error
            time.sleep(random.uniform(0, 0.1))
        raise StoreError(f"others keep writing to {self._path.name}: try again", path=self._path)


def _line(entry: Entry) -> bytes:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _split(data: bytes) -> tuple[list[Entry], int, bytes]:
    """Entries, how many lines were never written whole, and what comes after the last line."""
    *lines, tail = data.split(b"\n")
    parsed = [_parsed(line) for line in lines]
    entries = [entry for entry in parsed if entry is not None]
    return entries, len(parsed) - len(entries), tail


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
