"""What a worker prints, however much: its beginning and its end are kept."""

from __future__ import annotations

import os
from pathlib import Path

#: Bytes of the beginning, and of each of the two files that hold the end.
PART_BYTES = 512 << 10


class Log:
    """Takes bytes. ``path`` holds the beginning; ``.1`` and ``.2`` beside it take turns with what comes after that."""

    def __init__(self, path: Path, part_bytes: int = PART_BYTES) -> None:
        self._path = path
        self._part = part_bytes
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size

    def write(self, data: bytes) -> None:
        """Keep ``data``, or of a flood its end."""
        while data:
            room = self._part - self._size
            if room <= 0:
                self._turn()
                continue
            now, data = data[:room], data[room:]
            self._file.write(now)
            self._size += len(now)

    def _turn(self) -> None:
        """Go on in a new file: the one that was written last becomes the one before the last."""
        self._file.close()
        older, newer = _ends(self._path)
        if older.exists():
            _cut(self._path).touch()
        if newer.exists():
            newer.replace(older)
        self._file = newer.open("wb", buffering=0)
        self._size = 0

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read_log(path: Path) -> bytes:
    """What was kept; where something was left out, a line says so."""
    older, newer = (_content(end) for end in _ends(path))
    gap = b"\n\n[... left out ...]\n\n" if _cut(path).exists() else b""
    return _content(path) + gap + older + newer


def _cut(path: Path) -> Path:
    """There once something was left out."""
    return path.with_name(path.name + ".cut")


def _ends(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".1"), path.with_name(path.name + ".2")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(os.fstat(file.fileno()).st_size)
    except OSError:
        return b""
