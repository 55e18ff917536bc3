"""A table of labels joined with the slides of a store: the cohort that heads learn from, and what fell out on the way.

``SlideIndex.find`` says when a name in a table fits a slide. A table of cases has no names of slides: a slide then
belongs to the case that the store recorded for it (``store_cases``), else to the one whose TCGA patient it names,
else to the one that is called like the slide or one of its folders. A prefix is not enough: ``P1`` begins ``P12``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beph_store.cohort.columns import fitting_column
from beph_store.cohort.ids import SlideIndex, parts_of, stem, tcga_patient
from beph_store.cohort.labels import Dropped, Label, LabelRow, LabelTable, Task, some
from beph_store.cohort.tables import REPEATED, label_text, same_label
from beph_store.errors import CohortError
from beph_store.records import Case, ClassLabel, ClassTarget, SurvivalLabel, SurvivalTarget

NOT_IN_STORE = "no such slide in the store"
ELSEWHERE = "the store has it under other folders or another UUID only"
SEVERAL_SLIDES = "fits several slides of the store"
CASE_NOT_IN_STORE = "no slide of this case in the store"
NOT_IN_TABLE = "slide of the store without a label"
SEVERAL_CASES = "slide of the store that fits several cases"


@dataclass(frozen=True, slots=True)
class Flow:
    """Counts for a data-flow figure.

    Of ``rows`` in the table ``rows_usable`` had a label; of these ``rows_joined`` found slides. Of ``store_slides``
    ``slides_joined`` found a label; they are ``cases`` cases. ``labels``: cases of each class, or with an event
    and censored.
    """

    rows: int
    rows_usable: int
    rows_joined: int
    store_slides: int
    slides_joined: int
    cases: int
    labels: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Cases in the order of their ids, each with its label and slides of the store; ``labels`` aligns with ``cases``.

    ``dropped``: rows of the table and slides of the store that are not in it. ``flow`` counts all of it.
    ``classes`` in the order that was asked for; empty for the order of the alphabet.
    """

    cases: tuple[Case, ...]
    labels: tuple[Label, ...]
    dropped: tuple[Dropped, ...]
    flow: Flow
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def task(self) -> Task:
        """What the labels are for."""
        return "survive" if isinstance(self.labels[0], SurvivalLabel) else "classify"

    @property
    def case_ids(self) -> tuple[str, ...]:
        """The ids of the cases, in order."""
        return tuple(case.case_id for case in self.cases)

    @property
    def case_of(self) -> dict[str, str]:
        """Slide id → case id."""
        return {slide: case.case_id for case in self.cases for slide in case.slide_ids}

    @property
    def cohort_sha256(self) -> str:
        """SHA-256, hex, over cases, slides and labels: equal for equal content in whatever order the table was."""
        content = [
            [c.case_id, sorted(c.slide_ids), _plain(x)] for c, x in zip(self.cases, self.labels, strict=True)
        ]
        text = json.dumps([self.task, content], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def target(self, task: Task) -> ClassTarget | SurvivalTarget:
        """The labels as heads learn them, aligned with ``cases``; classes as asked for, else sorted.

        Raises:
            CohortError: the labels are for the other task.
        """
        if task != self.task:
            raise CohortError(
                f"the labels of this cohort are to {self.task}, not to {task}: read the table for it"
            )
        if task == "survive":
            outcomes = [label for label in self.labels if isinstance(label, SurvivalLabel)]
            event = np.array([label.event for label in outcomes], dtype=np.bool_)
            return SurvivalTarget(event, np.array([label.time_days for label in outcomes], dtype=np.float64))
        values = [label.value for label in self.labels if isinstance(label, ClassLabel)]
        present = set(values)
        classes = tuple(name for name in self.classes if name in present) or tuple(sorted(present))
        number = {name: i for i, name in enumerate(classes)}
        return ClassTarget(classes, np.array([number[value] for value in values], dtype=np.int64))


def join(
    table: LabelTable,
    slide_ids: Sequence[str],
    store_cases: Mapping[str, str] | None = None,
    min_cases: int = 4,
) -> Cohort:
    """The cases that have a label and slides in the store.

    ``slide_ids`` of the store, relative paths; ``store_cases`` the case that the store recorded for a slide, if any.

    Raises:
        CohortError: nothing fits, two rows contradict each other about a slide, the table separates slides that
            the store recorded as one case, or the cohort cannot be learned from: fewer than ``min_cases`` cases, one
            class, no event.
    """
    cohort = match(table, slide_ids, store_cases)
    if wrong := problem(cohort, min_cases):
        raise CohortError(wrong)
    return cohort


def match(
    table: LabelTable, slide_ids: Sequence[str], store_cases: Mapping[str, str] | None = None
) -> Cohort:
    """``join``, whether or not the cohort can be learned from: ``problem`` says that."""
    recorded = {slide: case for slide, case in (store_cases or {}).items() if case}
    slides = tuple(dict.fromkeys(slide_ids))
    if table.by_slide:
        found, dropped = _by_slide(table.rows, slides)
        _check_recorded(found, recorded)
    else:
        found, dropped = _by_case(table.rows, slides, recorded)
    if not found:
        raise CohortError(_nothing_fits(table, slides))
    lost = {one.id for one in dropped if one.row is None}
    dropped += [Dropped(None, s, NOT_IN_TABLE) for s in slides if s not in found and s not in lost]
    return _cohort(table, slides, found, dropped)


def _by_slide(rows: Iterable[LabelRow], slides: Sequence[str]) -> tuple[dict[str, LabelRow], list[Dropped]]:
    index = SlideIndex(slides)
    found: dict[str, LabelRow] = {}
    dropped: list[Dropped] = []
    for row in rows:
        name = row.slide_id or ""
        fits = index.find(name)
        if len(fits) != 1:
            near = fits or index.near(name)
            reason = SEVERAL_SLIDES if fits else ELSEWHERE if near else NOT_IN_STORE
            dropped.append(Dropped(row.row, name, reason, some(near)))
            continue
        earlier = found.setdefault(fits[0], row)
        if earlier is row:
            continue
        if earlier.case_id != row.case_id or not same_label(earlier.label, row.label):
            raise CohortError(
                f"rows {earlier.row} and {row.row} of the table are both slide {fits[0]} and contradict each other "
                f"({earlier.case_id}: {label_text(earlier.label)}; {row.case_id}: {label_text(row.label)}): correct it"
            )
        dropped.append(Dropped(row.row, name, REPEATED, f"row {earlier.row}"))
    return found, dropped


def _by_case(
    rows: Sequence[LabelRow], slides: Sequence[str], recorded: Mapping[str, str]
) -> tuple[dict[str, LabelRow], list[Dropped]]:
    by_id = {row.case_id.casefold(): row for row in rows}
    found: dict[str, LabelRow] = {}
    dropped: list[Dropped] = []
    for slide in sorted(slides):
        names = [recorded[slide]] if slide in recorded else _case_names(slide)
        fits = {row.row: row for name in names if (row := by_id.get(name.casefold()))}
        if len(fits) == 1:
            (found[slide],) = fits.values()
        elif fits:
            dropped.append(Dropped(None, slide, SEVERAL_CASES, some(row.case_id for row in fits.values())))
    seen = {row.row for row in found.values()}
    dropped += [Dropped(row.row, row.case_id, CASE_NOT_IN_STORE) for row in rows if row.row not in seen]
    return found, dropped


def _case_names(slide: str) -> list[str]:
    """What the case of a slide may be called, if its names tell: the TCGA patient, else the name or a folder."""
    patient = tcga_patient(slide)
    return [patient] if patient else [stem(slide), *parts_of(slide)]


def _check_recorded(found: Mapping[str, LabelRow], recorded: Mapping[str, str]) -> None:
    """A patient that the store knows must be one case in the table too, or it could straddle a split."""
    cases: dict[str, set[str]] = defaultdict(set)
    for slide, row in found.items():
        if slide in recorded:
            cases[recorded[slide]].add(row.case_id)
    torn = {case: sorted(names) for case, names in cases.items() if len(names) > 1}
    if torn:
        case, names = next(iter(sorted(torn.items())))
        raise CohortError(
            f"the table separates slides of {len(torn)} cases that the store recorded as one each ({case} is "
            f"{some(names)} there): name the column of patients with --case-column"
        )


def _cohort(
    table: LabelTable, slides: Sequence[str], found: Mapping[str, LabelRow], dropped: Sequence[Dropped]
) -> Cohort:
    members: dict[str, list[str]] = defaultdict(list)
    labels: dict[str, Label] = {}
    for slide, row in sorted(found.items(), key=lambda pair: pair[1].row):
        members[row.case_id].append(slide)
        labels.setdefault(row.case_id, row.label)
    ids = sorted(members)
    counts = Counter(_group(labels[case]) for case in ids)
    flow = Flow(
        rows=len(table.rows) + len(table.dropped),
        rows_usable=len(table.rows),
        rows_joined=len({row.row for row in found.values()}),
        store_slides=len(slides),
        slides_joined=len(found),
        cases=len(ids),
        labels=tuple(sorted(counts.items())),
    )
    return Cohort(
        tuple(Case(case, tuple(members[case])) for case in ids),
        tuple(labels[case] for case in ids),
        (*table.dropped, *dropped),
        flow,
        tuple(dict.fromkeys(table.classes)),
    )


def problem(cohort: Cohort, min_cases: int = 4) -> str | None:
    """Why nothing can be learned from a cohort; None where it can."""
    counts = dict(cohort.flow.labels)
    if len(cohort) < min_cases:
        return (
            f"{len(cohort)} cases have a label and slides in the store, fewer than {min_cases}: ingest more slides "
            "or check the slide ids of the table"
        )
    if cohort.task == "survive" and "event" not in counts:
        return (
            f"none of the {len(cohort)} cases has an event, so there is nothing to learn: if 1 means censored in "
            "the table, pass --event-means"
        )
    if cohort.task == "classify" and len(counts) < 2:
        return f"all {len(cohort)} cases are of class {next(iter(counts))!r}: classification needs two"
    return None


def _nothing_fits(table: LabelTable, slides: Sequence[str]) -> str:
    if not slides:
        return "the store holds no slides: ingest some first"
    theirs = some((row.slide_id or row.case_id for row in table.rows), 2)
    if better := fitting_column(table.path, table.used, SlideIndex(slides)):
        what = f"--slide-column {shlex.quote(better[0])}, which names {better[1]} of them"
    elif table.by_slide:
        what = "--slide-column"
    else:
        what = "a table with a slide column, or case_id in the --manifest of ingest"
    return (
        f"no row of {table.path} fits a slide of the store: the table has {theirs}; the store has {some(slides, 2)}; "
        f"try {what}"
    )


def _group(label: Label) -> str:
    if isinstance(label, ClassLabel):
        return label.value
    return "event" if label.event else "censored"


def _plain(label: Label) -> list[Any]:
    return [label.value] if isinstance(label, ClassLabel) else [label.event, float(label.time_days)]
