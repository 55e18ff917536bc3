"""The labels of tiles that a store keeps itself, as the rows of a table."""

from __future__ import annotations

import numpy as np

from beph_store.cohort import ColumnChoice, Dropped
from beph_store.cohort.tile_labels import OTHER_CLASS, TileLabels
from beph_store.engine.active.labels import TileMark
from beph_store.engine.annotate import book_of
from beph_store.engine.search.table import SearchTable
from beph_store.errors import CohortError, UsageError


def kept_labels(table: SearchTable, columns: ColumnChoice) -> TileLabels:
    """The labelled tiles of the table's recipe: those of the page and of `annotate`, or of ``columns.target``.

    CohortError where there are none; UsageError for columns that only a table can have.
    """
    if columns.slide is not None or columns.case not in (None, "slide_id"):
        raise UsageError("--slide-column and --case-column name columns of a table: pass --labels with one")
    key = table.record.recipe.key
    labels = book_of(table.store, key, columns.target).labels()
    marks = [label.mark for label in labels.tiles.values() if isinstance(label.mark, TileMark)]
    kept = [mark for mark in marks if not columns.classes or mark.label in columns.classes]
    if not kept:
        what = f" under --target {columns.target}" if columns.target else ""
        raise CohortError(
            f"no tile of recipe {key} has a label{what}: `beph-store annotate` gives them, or pass --labels"
        )
    others = (mark for mark in marks if columns.classes and mark.label not in columns.classes)
    dropped = tuple(Dropped(0, mark.slide_id, OTHER_CLASS) for mark in others)
    slides = tuple(mark.slide_id for mark in kept)
    return TileLabels(
        "the store's labels",
        tuple(range(1, len(kept) + 1)),
        slides,
        slides if columns.case == "slide_id" else None,
        tuple(str(mark.label) for mark in kept),
        np.array([(mark.x, mark.y) for mark in kept], np.int64),
        False,
        dropped,
        (),
    )
