"""What happens to a job, in order: a JSON object a line, numbered by its line from 1.

One process at a time appends: a server before the job runs, then its worker, then its keeper. A line that a kill has
torn counts as a number and is passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beph_store.serve.jobs.record import now

#: More than this is not kept of what may be left out; a training of 100 splits of 100 epochs has half as many.
MOST_LINES = 20_000


def append(path: Path, event: dict[str, Any]) -> None:
    """Add an event, with the time. One write, so that a reader sees whole lines."""
    line = json.dumps({**event, "at": now()}, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, (b"" if _ends_whole(path) else b"\n") + line)
    finally:
        os.close(handle)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@dataclass(slots=True)
class Tail:
    """Reads a file of events as it grows."""

    path: Path
    number: int = 0
    _offset: int = 0

    def more(self) -> list[dict[str, Any]]:
        """The events since the last call, each with its number ``n``; a line that is not whole is left for later."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        found = []
        for line in data[:whole].split(b"\n")[:-1]:
            self.number += 1
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    found.append({"n": self.number, **event})
        return found


def read_events(path: Path, after: int = 0) -> list[dict[str, Any]]:
    """The events with a number above ``after``."""
    return [event for event in Tail(path).more() if event["n"] > after]
