"""Reading a table of labels: which rows there are, what each says, and what had to be left out.

Rows of one case that contradict each other are refused, by name, unless the user asks to drop such cases: taking
the first or the most frequent label would be a guess.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from beph_store.cohort.columns import (
    CASES,
    CLASSES,
    FILES,
    SAMPLES,
    SLIDES,
    Ids,
    find_classes,
    find_ids,
    known,
)
from beph_store.cohort.ids import slide_key
from beph_store.cohort.labels import (
    BY_NAME,
    ColumnChoice,
    ColumnUse,
    Dropped,
    Label,
    LabelRow,
    LabelTable,
    Task,
    count_reasons,
    some,
)
from beph_store.cohort.outcomes import NAMES as OUTCOMES
from beph_store.cohort.outcomes import find_outcomes
from beph_store.cohort.sheets import Sheet, is_missing, read_sheet
from beph_store.errors import CohortError
from beph_store.records import ClassLabel, SurvivalLabel

_IDS = (*SLIDES, *FILES, *CASES, *SAMPLES)
NO_SLIDE = "no slide id"
NO_CASE = "no case id"
NO_CLASS = "no class"
OTHER_CLASS = "a class that was not asked for"
REPEATED = "repeats an earlier row"
CONTRADICTED = "its case has contradicting labels"


def read_labels(path: str | Path, task: Task, columns: ColumnChoice = BY_NAME) -> LabelTable:
    """The labels in a CSV or TSV (gzipped too), a Parquet file, or a clinical table of the GDC.

    ``task`` "classify" wants a class a case, "survive" an event and a time. Rows that cannot be used are in
    ``dropped``, each with its reason; ``used`` says which column served as what and how it was read.

    Raises:
        CohortError: the file cannot be read, a column is missing, no row is left, or rows contradict each other.
        AmbiguousColumn: it can be read in two ways; the message names the flag that decides.
    """
    sheet = read_sheet(path, known((*_IDS, *(CLASSES if task == "classify" else OUTCOMES)), columns))
    ids = find_ids(sheet, columns)
    labels, used = _classes(sheet, ids, columns) if task == "classify" else _outcomes(sheet, ids, columns)
    rows, dropped = _rows(sheet, ids, labels)
    rows, contradicting = _settle(rows, columns, sheet.path)
    dropped = sorted([*dropped, *contradicting], key=lambda one: one.row or 0)
    if not rows:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in count_reasons(dropped).items())
        raise CohortError(f"{sheet.path}: no row can be used: {reasons}", path=sheet.path)
    notes = tuple(ColumnUse("table", Path(sheet.path).name, note) for note in sheet.notes)
    return LabelTable(
        sheet.path, task, tuple(rows), tuple(dropped), (*notes, *ids.used, *used), columns.classes
    )


def _classes(sheet: Sheet, ids: Ids, choice: ColumnChoice) -> tuple[list[Label | str], tuple[ColumnUse, ...]]:
    """The label of each row, or the reason why it has none."""
    values, use = find_classes(sheet, choice)
    absent = sorted(set(choice.classes) - set(values))
    if absent:
        raise CohortError(
            f"{sheet.path}: no row has the class {some(absent)} (--classes); there are {use.how}",
            path=sheet.path,
        )
    labels: list[Label | str] = []
    for case, value in zip(ids.cases, values, strict=True):
        wanted = not choice.classes or value in choice.classes
        labels.append(ClassLabel(case, value) if value and wanted else OTHER_CLASS if value else NO_CLASS)
    return labels, (use,)


def _outcomes(
    sheet: Sheet, ids: Ids, choice: ColumnChoice
) -> tuple[list[Label | str], tuple[ColumnUse, ...]]:
    event, time = find_outcomes(sheet, ids.cases, choice)
    labels: list[Label | str] = []
    for i, case in enumerate(ids.cases):
        seen, days = event.values[i], time.values[i]
        if seen is None or days is None:
            labels.append(event.why[i] or time.why[i])
        else:
            labels.append(SurvivalLabel(case, seen, days))
    return labels, (ColumnUse("event", event.column, event.how), ColumnUse("time", time.column, time.how))


def _rows(sheet: Sheet, ids: Ids, labels: Sequence[Label | str]) -> tuple[list[LabelRow], list[Dropped]]:
    rows: list[LabelRow] = []
    dropped: list[Dropped] = []
    first: dict[str, LabelRow] = {}
    for i, (number, case, label) in enumerate(zip(sheet.rows, ids.cases, labels, strict=True)):
        slide = ids.slides[i] if ids.slides is not None else None
        name = slide or case
        if slide is not None and is_missing(slide):
            dropped.append(Dropped(number, case, NO_SLIDE))
        elif is_missing(case):
            dropped.append(Dropped(number, name, NO_CASE))
        elif isinstance(label, str):
            dropped.append(Dropped(number, name, label))
        else:
            row = LabelRow(number, slide, case, label)
            earlier = first.setdefault(slide_key(slide) if slide else case, row)
            if earlier.case_id != case:
                raise CohortError(
                    f"{sheet.path}: slide {slide} is of case {earlier.case_id} in row {earlier.row} and of {case} in "
                    f"row {number}: correct the table",
                    path=sheet.path,
                )
            if earlier is row or not same_label(earlier.label, label):
                rows.append(row)
            else:
                dropped.append(Dropped(number, name, REPEATED, f"row {earlier.row}"))
    return rows, dropped


def same_label(a: Label, b: Label) -> bool:
    """Whether two labels say the same, whatever case they are of."""
    if isinstance(a, SurvivalLabel) and isinstance(b, SurvivalLabel):
        return a.event == b.event and math.isclose(a.time_days, b.time_days, rel_tol=1e-6)
    return isinstance(a, ClassLabel) and isinstance(b, ClassLabel) and a.value == b.value


def label_text(label: Label) -> str:
    """A label in a message."""
    if isinstance(label, ClassLabel):
        return label.value
    return f"{'event' if label.event else 'censored'} at {label.time_days:g} days"


def _settle(
    rows: Sequence[LabelRow], choice: ColumnChoice, path: str
) -> tuple[list[LabelRow], list[Dropped]]:
    """The rows whose case says one thing; cases that say two are refused, or dropped or kept on demand."""
    if choice.conflicts == "keep":
        return list(rows), []
    said: dict[str, list[Label]] = defaultdict(list)
    for row in rows:
        if not any(same_label(row.label, label) for label in said[row.case_id]):
            said[row.case_id].append(row.label)
    torn = {case: labels for case, labels in said.items() if len(labels) > 1}
    if torn and choice.conflicts == "refuse":
        cases = some(f"{case}: {some(map(label_text, labels))}" for case, labels in torn.items())
        raise CohortError(
            f"{path}: {len(torn)} of {len(said)} cases have rows with different labels ({cases}): a case has one "
            "label; correct the table, or leave these cases out with --on-conflict drop",
            path=path,
        )
    dropped = [
        Dropped(row.row, row.slide_id or row.case_id, CONTRADICTED, some(map(label_text, torn[row.case_id])))
        for row in rows
        if row.case_id in torn
    ]
    return [row for row in rows if row.case_id not in torn], dropped
