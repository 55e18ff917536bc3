"""What the terminal shows: tables within 100 columns, progress with an ETA, or one JSON object."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beph_store.errors import UsageError
from beph_store_cli.synonyms import meant

WIDTH = 100
#: What a column of text is left at least before an id beside it is broken.
_ROOM = 16

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else there.")
]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder of the store.")]


def choice(value: Any, flag: str, *names: str) -> Any:
    """The value if it is one of ``names`` or absent; UsageError names the flag."""
    if value is not None and value not in names:
        raise UsageError(f"{flag} {value!r}: {meant(flag, str(value), names)}choose from {', '.join(names)}")
    return value


def console(*, stderr: bool = False) -> Console:
    """A console no wider than ``WIDTH``; 100 columns where there is no terminal. Brackets in names are no markup."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False, markup=False, emoji=False)
    made.width = min(WIDTH, made.width) if made.is_terminal else WIDTH
    return made


def print_json(data: dict[str, Any]) -> None:
    """One JSON object, one line, on stdout; null where a number is not finite, which JSON cannot say."""
    try:
        text = json.dumps(data, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), ensure_ascii=False, default=str)
    sys.stdout.write(text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A plain table; columns whose name begins with '#' are numbers, to the right.

    Ids are kept in one piece where the width allows it, so that they can be copied; sentences are wrapped first.
    """
    made = Table(
        title=title, box=None, title_justify="left", header_style="bold", pad_edge=False, title_style="bold"
    )
    cells = [
        [cell if isinstance(cell, Text) else Text(spelled(number(cell), keep="\n")) for cell in row]
        for row in rows
    ]
    whole = _in_one_piece(columns, cells)
    for at, name in enumerate(columns):
        if name.startswith("#"):
            made.add_column(name[1:], justify="right", no_wrap=True)
        else:
            made.add_column(name, overflow="fold", no_wrap=at in whole)
    for row in cells:
        made.add_row(*row)
    return made


def _in_one_piece(columns: Sequence[str], cells: Sequence[Sequence[Text]]) -> set[int]:
    """Columns of single words, as ids are, that are not to be broken: the narrow first, as long as there is room."""
    wide = [
        max(
            [
                cell_len(name.removeprefix("#")),
                *(cell_len(line) for row in cells for line in row[at].plain.split("\n")),
            ]
        )
        for at, name in enumerate(columns)
    ]
    text = [at for at, name in enumerate(columns) if not name.startswith("#")]
    left = console().width - 2 * (len(columns) - 1)
    left -= sum(min(width, _ROOM) if at in text else width for at, width in enumerate(wide))
    whole: set[int] = set()
    for at in sorted(text, key=lambda at: wide[at]):
        more = max(0, wide[at] - _ROOM)
        if more <= left and not any(" " in row[at].plain for row in cells):
            whole.add(at)
            left -= more
    return whole


def spelled(text: str, keep: str = "") -> str:
    """The text with control characters spelled out: a file's name must not steer a terminal, nor break a line."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def number(value: Any) -> str:
    """Thousands separated, floats short, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value)


def size(nbytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


_COLOURS = {"done": "green", "skipped": "dim", "empty": "yellow", "failed": "red", "ok": "green"}


def status(word: str) -> Text:
    """A status word in its colour."""
    return Text(word, style=_COLOURS.get(word, ""))
