"""Splits that someone hands over, checked for leaks."""

from __future__ import annotations

from pathlib import Path

from beph_store.cohort import ColumnChoice, Leak, check_splits, read_slide_splits
from beph_store.cohort.columns import find_ids
from beph_store.cohort.sheets import read_sheet


def check(path: str | Path, cohort: str | Path | None = None) -> tuple[Leak, ...]:
    """What is wrong with the splits of a file or folder; ``cohort`` is a table that names each slide's case."""
    return check_splits(read_slide_splits(path), None if cohort is None else _cases(Path(cohort)))


def _cases(path: Path) -> dict[str, str]:
    choice = ColumnChoice()
    ids = find_ids(read_sheet(path, lambda _: True), choice)
    return dict(zip(ids.slides, ids.cases, strict=True)) if ids.slides is not None else {}
