"""One slide after the other out of a table of tiles, each from where it lies.

A filter reads the slide ids of the whole table for each slide, so that reading all slides costs the square of their
number. One pass over the ids says in which rows of which fragment a slide lies. That holds for one version of the
table; where it is gone (`compact` drops old ones), or says something else than the registry, the filter is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beph_store.records import Embeddings
from beph_store.store.reader import Store, bag_of
from beph_store.store.registry import SlideRow
from beph_store.store.vectors import SlideRows

#: So few slides are found by the filter: finding out where all lie costs as much as one of them.
_FEW = 2
_COLUMNS = ["tile", "x", "y", "tissue", "embedding", "ingest_id"]
_ID_BATCH = 1 << 16


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows ``start`` to ``start + rows`` of those that a fragment has; deleted ones do not count."""

    fragment: int
    start: int
    rows: int


@dataclass(slots=True)
class SlideFinder:
    """Reads finished slides of the recipe ``key``, as ``Store.slide_rows`` does, many of them. For one thread."""

    store: Store
    key: str
    _asked: int = 0
    _known: bool = False
    _fragments: dict[int, lance.LanceFragment] = field(default_factory=dict)
    _runs: dict[str, list[_Run]] = field(default_factory=dict)

    def rows(self, row: SlideRow) -> SlideRows:
        """All tiles of a finished slide."""
        return SlideRows.from_table(self.table(row))

    def table(self, row: SlideRow) -> pa.Table:
        """The rows of a finished slide in no particular order: at least tile, x, y, tissue, embedding, ingest_id."""
        found = self._next(row)
        return self.store.slide_table(row) if found is None else found

    def bag(self, row: SlideRow) -> Embeddings:
        """Its embeddings, as ``Store.bag``: those of now, where it was replaced since ``row`` was read."""
        found = self._next(row)
        return (
            self.store.bag(self.key, row.slide_id)
            if found is None
            else bag_of(row, SlideRows.from_table(found))
        )

    def _next(self, row: SlideRow) -> pa.Table | None:
        self._asked += 1
        return None if self._asked <= _FEW else self._read(row)

    def _read(self, row: SlideRow) -> pa.Table | None:
        """The rows from where they lay when it was found out; None where they are not there."""
        try:
            if not self._known:
                self._known = True  # once, even where it fails: the filter says what is wrong
                self._find_out()
            runs = self._runs.get(str(row.ingest_id), [])
            if not runs or sum(run.rows for run in runs) != row.tiles:
                return None
            found = pa.concat_tables(
                self._fragments[run.fragment].to_table(columns=_COLUMNS, offset=run.start, limit=run.rows)
                for run in runs
            )
            return found if found.num_rows == row.tiles and _all_of(found, row) else None
        except (OSError, ValueError, pa.ArrowException):
            return None

    def _find_out(self) -> None:
        table = self.store.dataset(self.key)
        self._fragments = {int(fragment.fragment_id): fragment for fragment in table.get_fragments()}
        seen: dict[int, int] = dict.fromkeys(self._fragments, 0)
        scan = table.scanner(
            columns=["ingest_id"], with_row_address=True, batch_size=_ID_BATCH, scan_in_order=True
        )
        for batch in scan.to_batches():
            for ingest_id, fragment, rows in _runs_of(batch):
                self._runs.setdefault(ingest_id, []).append(_Run(fragment, seen[fragment], rows))
                seen[fragment] += rows


def _runs_of(batch: pa.RecordBatch) -> list[tuple[str, int, int]]:
    """(ingest id, fragment, number of rows) of rows that lie one after the other."""
    ids = batch.column("ingest_id").dictionary_encode()
    codes = ids.indices.to_numpy(zero_copy_only=False)
    fragments = batch.column("_rowaddr").to_numpy(zero_copy_only=False) >> np.uint64(32)
    changes = (np.diff(codes) != 0) | (np.diff(fragments) != 0)
    borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(codes)]
    return [
        (ids.dictionary[codes[start]].as_py(), int(fragments[start]), stop - start)
        for start, stop in pairwise(borders)
        if stop > start
    ]


def _all_of(table: Any, row: SlideRow) -> bool:
    return bool(pc.all(pc.equal(table.column("ingest_id"), row.ingest_id)).as_py())
