"""Splits as CLAM and its descendants keep them: ``splits_0.csv``, ``splits_1.csv``, … with slide ids in ragged columns.

The columns are ``train``, ``val`` and ``test``, each as long as it has slides, with or without a column of row numbers
before them. The companions ``splits_0_bool.csv`` and ``splits_0_descriptor.csv`` say nothing more and are passed over.
Such files list slides, and those in circulation separate slides of one patient: ``leaks.check_splits`` tells.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

from beph_store.cohort.ids import SlideIndex, stem
from beph_store.cohort.join import Cohort
from beph_store.cohort.labels import some
from beph_store.cohort.sheets import canonical, is_missing, read_sheet
from beph_store.errors import AmbiguousColumn, CohortError
from beph_store.records import Split

_NUMBERED = re.compile(r"splits_(\d+)\.csv")
_SUBSETS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class SlideSplit:
    """One division of slides as a file has it, named after the file; ids as written there."""

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def subsets(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """("train", slides), ("val", slides), ("test", slides)."""
        return ((name, getattr(self, name)) for name in _SUBSETS)


def read_slide_splits(path: str | Path) -> list[SlideSplit]:
    """The splits in one file, or in the ``splits_<i>.csv`` of a folder in the order of their numbers.

    Raises:
        CohortError: no such file, no splits in the folder, or a file without these columns or without slides.
    """
    place = Path(path)
    if not place.is_dir():
        return [_read(place)]
    numbered = sorted((int(m[1]), f) for f in place.iterdir() if (m := _NUMBERED.fullmatch(f.name)))
    if not numbered:
        raise CohortError(
            f"{place} has no splits_0.csv, splits_1.csv, …: name the folder that holds them", path=place
        )
    return [_read(file) for _, file in numbered]


def read_splits(
    path: str | Path, slides_to_case: Mapping[str, str], allow_leaks: bool = False
) -> list[Split]:
    """The same by case. ``slides_to_case`` slide id of the store → case id, as in ``Cohort.case_of``.

    Slides that are not in the mapping are passed over (``check_splits`` counts them).

    Raises:
        CohortError: a case is in two subsets of a split and ``allow_leaks`` is not set, a slide id fits several
            slides of different cases, or a split is left without training or test cases.
    """
    index = SlideIndex(slides_to_case)
    splits = []
    for split in read_slide_splits(path):
        parts = {name: _cases(slides, index, slides_to_case) for name, slides in split.subsets()}
        if empty := [name for name in ("train", "test") if not parts[name]]:
            raise CohortError(
                f"{split.name}: none of its {empty[0]} slides is in the cohort, for example "
                f"{some(getattr(split, empty[0]), 1) or 'none is listed'}"
            )
        splits.append(Split(split.name, parts["train"], parts["val"], parts["test"]))
        if not allow_leaks:
            _refuse_shared(splits[-1])
    return splits


def write_splits(splits: Sequence[Split], cohort: Cohort, folder: str | Path) -> list[Path]:
    """``splits_<i>.csv`` for each split, with the slides of its cases; the files in order.

    A slide is written as CLAM names its features: the file name without folders and suffix.

    Raises:
        CohortError: the folder holds splits already, two slides would have one name, or a case is not of the cohort.
    """
    place = Path(folder)
    if place.is_dir() and any(_NUMBERED.fullmatch(file.name) for file in place.iterdir()):
        raise CohortError(f"{place} holds splits already: name another folder", path=place)
    names = _names(cohort)
    if strangers := sorted({c for s in splits for c in (*s.train, *s.val, *s.test)} - set(names)):
        raise CohortError(
            f"the splits have {len(strangers)} cases that the cohort has not: {some(strangers)}"
        )
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for number, split in enumerate(splits):
        columns = [
            [slide for case in part for slide in names[case]] for part in (split.train, split.val, split.test)
        ]
        file = place / f"splits_{number}.csv"
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(["", *_SUBSETS])
            writer.writerows([i, *row] for i, row in enumerate(zip_longest(*columns, fillvalue="")))
        written.append(file)
    return written


def _read(file: Path) -> SlideSplit:
    sheet = read_sheet(file, lambda name: canonical(name) in _SUBSETS)
    found = [canonical(name) for name, _ in sheet.columns]
    if sorted(found) != sorted(_SUBSETS):
        raise (AmbiguousColumn if len(set(found)) < len(found) else CohortError)(
            f"{file} needs the columns train, val and test, once each; it has {sheet.listing()}", path=file
        )
    cells = dict(zip(found, (cells for _, cells in sheet.columns), strict=True))
    parts = {name: tuple(cell for cell in cells[name] if not is_missing(cell)) for name in _SUBSETS}
    if not any(parts.values()):
        raise CohortError(f"{file} lists no slides", path=file)
    return SlideSplit(file.stem, parts["train"], parts["val"], parts["test"])


def _cases(slides: Sequence[str], index: SlideIndex, case_of: Mapping[str, str]) -> tuple[str, ...]:
    cases: dict[str, None] = {}
    for slide in slides:
        fits = {case_of[found] for found in index.find(slide)}
        if len(fits) > 1:
            raise CohortError(
                f"slide {slide} of the split may be of any of the cases {some(sorted(fits))}: name it fully"
            )
        cases.update(dict.fromkeys(fits))
    return tuple(cases)


def _refuse_shared(split: Split) -> None:
    pairs = (("train", split.train), ("val", split.val), ("test", split.test))
    for i, (one, mine) in enumerate(pairs):
        for other, theirs in pairs[i + 1 :]:
            if shared := sorted(set(mine) & set(theirs)):
                raise CohortError(
                    f"{split.name}: {len(shared)} cases are in {one} and in {other} ({some(shared)}): make splits by "
                    "case, or pass --allow-leaks to reproduce published figures"
                )


def _names(cohort: Cohort) -> dict[str, list[str]]:
    """Case id → names of its slides as CLAM writes them."""
    names = {case.case_id: [stem(slide) for slide in case.slide_ids] for case in cohort.cases}
    every = sorted(name for mine in names.values() for name in mine)
    if twice := sorted({a for a, b in pairwise(every) if a == b}):
        raise CohortError(
            f"{len(twice)} names belong to several slides ({some(twice)}): CLAM's splits have no folders"
        )
    return names
