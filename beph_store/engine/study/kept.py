"""Tables of labels that are kept in the store, named by their content: what a training by request learns from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beph_store.cohort.columns import CASES, CLASSES, SAMPLES, SLIDES
from beph_store.cohort.outcomes import CENSORED, EVENTS, TIMES, UNCLEAR
from beph_store.cohort.sheets import Sheet, canonical, is_missing, parse_sheet
from beph_store.engine.provenance import now
from beph_store.errors import CohortError
from beph_store.store import Store
from beph_store.store.durable import write_atomic, write_json
from beph_store.store.place import Place, local_copy

KINDS = (".csv", ".tsv")
#: Values of a column that are listed one by one, and how long one may be to be listed.
_LISTED_VALUES = 50
_LONGEST_VALUE = 200
#: A table of labels has a row a slide; what is far above is something else, and would take gigabytes as text.
_MOST_CELLS = 4_000_000

_ROLES: Mapping[str, tuple[str, ...]] = {
    "slide": (*SLIDES, *SAMPLES),
    "case": (*CASES, *SAMPLES),
    "class": tuple(CLASSES),
    "event": (*EVENTS, *CENSORED, *UNCLEAR),
    "time": tuple(TIMES),
}


@dataclass(frozen=True, slots=True)
class KeptTable:
    """``name`` is what its owner calls it, ``path`` the file in the store; ``about`` its columns, rows and date."""

    id: str
    name: str
    path: Path
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Without the path."""
        return {"cohort": self.id, "name": self.name, **self.about}


def keep_table(store: Store, data: bytes, kind: str, name: str) -> KeptTable:
    """Keep a table; the same content of the same ``kind`` is the same table, and takes the last name it was given.

    Raises CohortError for what is no table, naming the line; nothing is written then.
    """
    about = describe_table(data, kind, name)
    made = table_id(data, kind)
    path = store.layout.labels / f"{made}{kind}"
    write_atomic(path, data)
    # Written last: a table that has it is whole.
    write_json(path.with_suffix(".json"), {"name": name, "kind": kind, **about})
    return KeptTable(made, name, _here(store, path), about)


def table_id(data: bytes, kind: str) -> str:
    """16 hex digits of the SHA-256 of kind and content."""
    return hashlib.sha256(kind.encode() + b"\0" + data).hexdigest()[:16]


def describe_table(data: bytes, kind: str, name: str) -> dict[str, Any]:
    """Columns with their values, rows, and which column may be what; CohortError for what is no table."""
    cells = sum(data.count(mark) for mark in (b"\n", b"\r", b",", b"\t", b";"))
    if cells > _MOST_CELLS:
        raise CohortError(f"{name} has more than {_MOST_CELLS:,} cells: keep only ids and labels")
    sheet = parse_sheet(data, Path(name), kind, lambda _: True)
    columns = [_column(column, values) for column, values in sheet.columns]
    suggested = {role: _named(sheet, names) for role, names in _ROLES.items()}
    return {"rows": len(sheet.rows), "columns": columns, "suggested": suggested, "uploaded_at": now()}


def _column(name: str, cells: Iterable[str]) -> dict[str, Any]:
    given = [cell for cell in cells if not is_missing(cell, words=False)]
    counts = Counter(given)
    told: dict[str, Any] = {"name": name, "distinct": len(counts), "given": len(given)}
    if len(counts) <= _LISTED_VALUES and all(len(value) <= _LONGEST_VALUE for value in counts):
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        told["values"] = [{"value": value, "rows": rows} for value, rows in ordered]
    return told


def _named(sheet: Sheet, names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return list(dict.fromkeys(column for column in sheet.names if canonical(column) in wanted))


def kept_tables(store: Store) -> dict[str, KeptTable]:
    """Every kept table by id, the newest last; what cannot be read is left out."""
    found = []
    for record in store.layout.labels.glob("*.json"):
        try:
            about = json.loads(record.read_bytes())
            name, kind = str(about.pop("name")), about.pop("kind")
            # Dates are in seconds; within one, the file system knows better.
            written = (str(about.get("uploaded_at")), record.stat().st_mtime_ns)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
        path = record.with_suffix(kind if kind in KINDS else ".csv")
        if path.is_file():
            found.append((written, KeptTable(record.stem, name, _here(store, path), about)))
    found.sort(key=lambda one: one[0])
    return {table.id: table for _, table in found}


def _here(store: Store, path: Place) -> Path:
    return local_copy(path, store.layout.work / "labels")


def kept_table(store: Store, table: str) -> KeptTable:
    """One kept table; CohortError for any other id."""
    found = kept_tables(store).get(table)
    if found is None:
        raise CohortError(f"no kept table of labels {table[:40]!r}: upload it again")
    return found


def drop_table(table: KeptTable) -> None:
    """Forget a table; what was trained on it stays."""
    table.path.with_suffix(".json").unlink(missing_ok=True)
    table.path.unlink(missing_ok=True)
