"""What is known of the store: recipes, slides, labels, tables to search; looked up by key, never by path."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from beph_store.cohort.ids import tcga_patient
from beph_store.engine.search.table import SearchTable, open_table, read_slide_labels
from beph_store.serve.answers import missing
from beph_store.store import SlideRow, Store
from beph_store.store.reader import RecipeRecord

#: How long, in seconds, what was read of the registry is believed: an ingest may be going on.
_FRESH = 2.0


def handle(slide_id: str) -> str:
    """What URLs call a slide: 16 hex digits of its id's SHA-256. Ids may hold anything: slashes, quotes, HTML."""
    return hashlib.sha256(slide_id.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Registry rows of one recipe by handle, and when they were read."""

    at: float
    rows: Mapping[str, SlideRow]


class Shelf:
    """A store and the operator's labels. Usable from several threads."""

    def __init__(self, store: Store, labels: Path | None = None) -> None:
        self.store = store
        self.labels_path = labels
        self.labels = None if labels is None else read_slide_labels(labels)
        self._lock = threading.Lock()
        self._table_lock = threading.Lock()
        self._recipes: tuple[float, dict[str, RecipeRecord]] = (-_FRESH, {})
        self._seen: dict[str, _Seen] = {}
        self._tables: dict[str, tuple[int, SearchTable]] = {}

    def recipes(self) -> dict[str, RecipeRecord]:
        """Every recipe by key, oldest first."""
        with self._lock:
            if time.monotonic() - self._recipes[0] > _FRESH:
                found = {record.recipe.key: record for record in self.store.recipes()}
                self._recipes = (time.monotonic(), found)
            return self._recipes[1]

    def recipe(self, key: str) -> RecipeRecord:
        """One recipe; 404 for any other key."""
        record = self.recipes().get(key)
        if record is None:
            raise missing("no such recipe: /api/recipes lists them")
        return record

    def rows(self, key: str) -> Mapping[str, SlideRow]:
        """Registry rows of a recipe by handle, in the order of slide ids; up to two seconds old."""
        self.recipe(key)
        with self._lock:
            seen = self._seen.get(key)
            if seen is None or time.monotonic() - seen.at > _FRESH:
                seen = _Seen(time.monotonic(), {handle(row.slide_id): row for row in self.store.rows(key)})
                self._seen[key] = seen
            return seen.rows

    def slide(self, key: str, slide: str) -> SlideRow:
        """The registry row of a handle; 404 for any other."""
        row = self.rows(key).get(slide)
        if row is None:
            raise missing("no such slide under this recipe: /api/recipes/{recipe}/slides lists them")
        return row

    def known(self, key: str, slide: str) -> SlideRow | None:
        """The row if it was read just now; None otherwise. Never waits for a disk."""
        seen = self._seen.get(key)
        fresh = seen is not None and time.monotonic() - seen.at <= _FRESH
        return seen.rows.get(slide) if seen is not None and fresh else None

    def table(self, key: str) -> SearchTable:
        """The recipe's table for searches, as the registry is now; made at the first use, which may take a while."""
        self.recipe(key)
        with self._table_lock:
            version = self.store.registry.look(lambda table: int(table.version))
            held = self._tables.get(key)
            if held is None or held[0] != version:
                made = open_table(str(self.store.layout.root), recipe=key, labels=self.labels_path)
                held = self._tables[key] = (version, made)
            return held[1]

    def case(self, row: SlideRow) -> str:
        """The case of a slide: from the registry, a TCGA barcode, else the slide itself."""
        return row.case_id or tcga_patient(row.slide_id) or row.slide_id

    def frame(self, key: str) -> pl.DataFrame:
        """One row a slide in the order of ids: ``slide`` (the handle), what is known of it, and the labels' columns."""
        rows = self.rows(key)
        known = pl.DataFrame(
            [{"slide": name, **_listed(row), "case_id": self.case(row)} for name, row in rows.items()],
            schema=_LISTED,
        )
        if self.labels is None:
            return known
        by = "slide_id" if "slide_id" in self.labels.columns else "case_id"
        if by == "slide_id" and "case_id" in self.labels.columns:
            given = self.labels.select("slide_id", pl.col("case_id").cast(pl.String).alias("_case"))
            known = known.join(given, on="slide_id", how="left", maintain_order="left")
            known = known.with_columns(pl.coalesce("_case", "case_id").alias("case_id")).drop("_case")
        extra = self.labels.select(by, *self.label_columns())
        return known.join(extra, on=by, how="left", maintain_order="left")

    def label_columns(self) -> list[str]:
        """Names of the labels' columns, ids and names that the store uses itself left out."""
        return [] if self.labels is None else [name for name in self.labels.columns if name not in _LISTED]


_LISTED: dict[str, Any] = {
    "slide": pl.String,
    "slide_id": pl.String,
    "case_id": pl.String,
    "status": pl.String,
    "error": pl.String,
    "tiles": pl.Int64,
    "unreadable": pl.Int64,
    "width_l0": pl.Int64,
    "height_l0": pl.Int64,
    "mpp_x": pl.Float64,
    "mpp_y": pl.Float64,
    "mpp_source": pl.String,
    "footprint_l0": pl.Int64,
    "reader": pl.String,
    "seconds": pl.Float64,
    "run": pl.String,
    "created_at": pl.String,
}


def _listed(row: SlideRow) -> dict[str, Any]:
    return {name: value for name, value in row.to_json().items() if name in _LISTED}
