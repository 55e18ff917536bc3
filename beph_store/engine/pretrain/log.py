"""``log.jsonl``: one row each some steps, and what a stopped run wrote beyond its checkpoint is written anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: The order of the stages.
STAGES = ("tokenizer", "masked")

Row = dict[str, Any]


class Log:
    """The rows so far, in memory and on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = read_log(path)
        self._checked = False

    def add(self, row: Row) -> None:
        """Append. A row of a step that is there already says that the run went on from before it."""
        if not self._checked:
            self.rows = [old for old in self.rows if _place(old) < _place(row)]
            if self.path.exists() and self.path.read_text(encoding="utf-8") != _text(self.rows):
                self._rewrite(self.rows)  # a line that a crash cut short would swallow the next one
            self._checked = True
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _rewrite(self, rows: list[Row]) -> None:
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        aside.write_text(_text(rows), encoding="utf-8")
        aside.replace(self.path)


def read_log(path: Path) -> list[Row]:
    """The rows of a log; a line cut short by a crash is left out, as its step will be trained again."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _text(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _place(row: Row) -> tuple[int, int]:
    return STAGES.index(row["stage"]), int(row["step"])
