"""A table that names the class of single tiles: slide, then x and y or the tile's number, then the class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.columns import CASES, CLASSES, SLIDES, find_classes, find_ids, known
from beph_store.cohort.ids import tcga_patient
from beph_store.cohort.labels import ColumnChoice, ColumnUse, Dropped, some
from beph_store.cohort.readings import parse_number
from beph_store.cohort.sheets import Sheet, canonical, is_missing, read_sheet
from beph_store.errors import CohortError

NO_PLACE = "no whole numbers for its place"
NO_CLASS = "no class"
NO_SLIDE = "no slide id"
NO_CASE = "no case id"
OTHER_CLASS = "a class that was not asked for"


@dataclass(frozen=True, slots=True, eq=False)
class TileLabels:
    """Rows of single tiles as read. ``place`` (n, 2) int64: (x, y) level-0 px of the top left, or with ``by_number``
    (tile, 0). ``cases`` is None where the table names none: the store may.
    """

    path: str
    rows: tuple[int, ...]
    slides: tuple[str, ...]
    cases: tuple[str, ...] | None
    labels: tuple[str, ...]
    place: NDArray[np.int64]
    by_number: bool
    dropped: tuple[Dropped, ...]
    used: tuple[ColumnUse, ...]


def names_tiles(path: str | Path) -> bool:
    """Whether the table has a column ``tile``, or ``x`` and ``y``: its rows are then single tiles."""
    names = {canonical(name) for name in read_sheet(path, lambda name: False).names}
    return "tile" in names or {"x", "y"} <= names


def read_tile_labels(path: str | Path, columns: ColumnChoice) -> TileLabels:
    """The tiles of a table with slide, x and y or tile, and class; perhaps the case.

    Raises CohortError for a table that cannot be used as it is, AmbiguousColumn where a flag has to decide.
    """
    sheet = read_sheet(path, known((*SLIDES, *CASES, *CLASSES, "tile", "x", "y"), columns))
    slides, cases, used = _ids(sheet, columns)
    values, use = find_classes(sheet, columns)
    absent = sorted(set(columns.classes) - set(values))
    if absent:
        raise CohortError(f"{path}: no row has the class {some(absent)} (--classes); there are {use.how}")
    by_number = "tile" in map(canonical, sheet.names)
    where = ("tile",) if by_number else ("x", "y")
    numbers = [[parse_number(cell) for cell in sheet.find(name, name)[1]] for name in where]
    kept: list[int] = []
    place: list[tuple[int, int]] = []
    dropped = []
    for i, row in enumerate(sheet.rows):
        spot = [column[i] for column in numbers]
        why = _unusable(slides[i], values[i], spot, columns)
        if cases is not None and not why and is_missing(cases[i]):
            why = NO_CASE
        if why:
            dropped.append(Dropped(row, slides[i], why))
        else:
            kept.append(i)
            whole = [int(value) for value in spot if value is not None]
            place.append((whole[0], whole[1] if len(whole) > 1 else 0))
    if not kept:
        raise CohortError(
            f"{path}: none of {len(sheet.rows)} rows names a tile and its class: {dropped[0].reason}"
        )
    return TileLabels(
        str(path),
        tuple(sheet.rows[i] for i in kept),
        tuple(slides[i] for i in kept),
        None if cases is None else tuple(cases[i] for i in kept),
        tuple(values[i] for i in kept),
        np.array(place, np.int64).reshape(-1, 2),
        by_number,
        tuple(dropped),
        (*used, use, ColumnUse("tile", " and ".join(where), "level-0 px" if not by_number else "number")),
    )


def _unusable(slide: str, value: str, spot: list[float | None], columns: ColumnChoice) -> str:
    if is_missing(slide):
        return NO_SLIDE
    if not value:
        return NO_CLASS
    if columns.classes and value not in columns.classes:
        return OTHER_CLASS
    return "" if all(v is not None and v == int(v) for v in spot) else NO_PLACE


def _ids(
    sheet: Sheet, columns: ColumnChoice
) -> tuple[tuple[str, ...], tuple[str, ...] | None, tuple[ColumnUse, ...]]:
    """Slides and cases; without a column of cases, what TCGA barcodes say, else None."""
    names = {canonical(name) for name in sheet.names}
    slide_names = [name for name in SLIDES if name in names]
    if not slide_names and columns.slide is None:
        raise CohortError(
            f"{sheet.path}: no column is known to hold slides: name it with --slide-column; it has {sheet.listing()}"
        )
    if columns.case or names & set(CASES):
        ids = find_ids(sheet, columns)
        return ids.slides or (), ids.cases, ids.used
    name, cells = sheet.find(columns.slide or slide_names[0], "--slide-column")
    patients = [tcga_patient(cell) for cell in cells]
    known_to_name = all(patients)
    cases = tuple(patient or "" for patient in patients) if known_to_name else None
    return cells, cases, (ColumnUse("slide", name, ""),)
