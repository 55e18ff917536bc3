"""Whether a table of labels can be trained on as asked, and what stands in the way, before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beph_store.cohort import Cohort, Dropped, LabelTable, count_reasons, read_labels
from beph_store.cohort.join import match, problem
from beph_store.engine.study.asked import TrainRequest, train_request
from beph_store.engine.study.data import NO_TILES, recorded_cases, with_tiles
from beph_store.engine.study.kept import KeptTable
from beph_store.engine.study.train import SplitOptions, cohort_splits, with_val
from beph_store.engine.study.wording import seen_by
from beph_store.errors import CohortError
from beph_store.records import ClassLabel, Split, SurvivalLabel
from beph_store.store import Store

_EXAMPLES = 5
#: Below so many cases a class's figures rest on too few predictions to be told without a word.
_FEW = 10


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many cases and slides of a class there are."""

    label: str
    cases: int
    slides: int


@dataclass(frozen=True, slots=True)
class Feasibility:
    """``problems`` must be solved first, ``notes`` need only be known; counts are of what would be learned from.

    ``classes`` None for survival, ``events`` None for classes; ``splits`` empty where there is a problem.
    """

    task: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    cases: int = 0
    slides: int = 0
    classes: tuple[ClassCount, ...] | None = None
    events: int | None = None
    dropped: tuple[Dropped, ...] = ()
    used: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    splits: tuple[Split, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON data; reasons of what was dropped are counted, with examples."""
        return {
            "ok": not self.problems,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "task": self.task,
            "cases": self.cases,
            "slides": self.slides,
            "classes": None
            if self.classes is None
            else [{"label": c.label, "cases": c.cases, "slides": c.slides} for c in self.classes],
            "events": self.events,
            "dropped": dropped_json(self.dropped),
            "columns_used": {
                role: {"column": column, "how": how} for role, (column, how) in self.used.items()
            },
            "splits": [
                {"name": s.name, "train": len(s.train), "val": len(s.val), "test": len(s.test)}
                for s in self.splits
            ],
        }


def dropped_json(dropped: Sequence[Dropped]) -> list[dict[str, Any]]:
    """Reasons, the most frequent first, with a few ids each."""
    found = []
    for reason, rows in count_reasons(dropped).items():
        examples = [one.id for one in dropped if one.reason == reason][:_EXAMPLES]
        found.append({"reason": reason, "rows": rows, "examples": examples})
    return found


def check_table(store: Store, recipe: str, table: KeptTable, options: Mapping[str, Any]) -> Feasibility:
    """Read the table, join it to the slides of a recipe and divide it, as a training with these options would.

    Nothing is written and no embedding is read. Raises UsageError for options that cannot be meant, RecipeMismatch for
    an unknown recipe; whatever is wrong with the table is a problem in the answer.
    """
    asked = train_request({**options, "cohort": table.id})
    record = store.recipe(recipe)
    rows = {row.slide_id: row for row in store.rows(record.recipe.key) if row.complete}
    read: LabelTable | None = None
    try:
        read = read_labels(table.path, asked.task, asked.columns)
        cohort = match(read, sorted(rows), recorded_cases(rows))
    except CohortError as error:
        text = str(error).replace(str(table.path), table.name)
        return Feasibility(
            asked.task,
            (text,),
            dropped=read.dropped if read else (),
            used=_used(read, table) if read else {},
        )
    cohort = with_tiles(cohort, rows)
    problems, splits = _divide(cohort, asked)
    notes = [*_notes(cohort), *seen_by(record.recipe.encoder.name, cohort.case_ids)] if len(cohort) else []
    survive = asked.task == "survive"
    return Feasibility(
        asked.task,
        tuple(problems),
        tuple(notes),
        len(cohort),
        sum(len(case.slide_ids) for case in cohort.cases),
        None if survive else tuple(_classes(cohort)),
        _events(cohort) if survive else None,
        cohort.dropped,
        _used(read, table),
        splits,
    )


def _divide(cohort: Cohort, asked: TrainRequest) -> tuple[list[str], tuple[Split, ...]]:
    """What prevents the splits, and the splits where nothing does."""
    if not len(cohort):
        return [f"no labelled case can be learned from: {NO_TILES}"], ()
    wrong = problem(cohort)
    problems = [wrong] if wrong else list(_too_few(cohort, asked.options.split))
    if problems:
        return problems, ()
    try:
        return [], tuple(cohort_splits(cohort, with_val(asked.options), asked.options.seed))
    except CohortError as error:
        return [str(error)], ()


def _too_few(cohort: Cohort, split: SplitOptions) -> Iterator[str]:
    """A sentence for each class, or the events, that the splits cannot be made with."""
    if cohort.task == "survive":
        if 0 < _events(cohort) < split.folds and split.scheme != "monte-carlo":
            yield _explained(f"{_cases(_events(cohort))} with an event", split, _events(cohort), False)
        return
    classes = list(_classes(cohort))
    for one in classes if len(classes) > 1 else ():
        # Where all fold numbers fail for another class, "use 3 folds" would send the reader in a circle.
        most = min(other.cases for other in classes)
        what = f"class {one.label!r} has {_cases(one.cases)}"
        if split.scheme == "monte-carlo" and one.cases < 3:
            yield f"{what}: train, val and test need one each. Add cases of it, or leave it out (--classes)."
        elif split.scheme != "monte-carlo" and one.cases < split.folds:
            yield _explained(what, split, most, len(classes) > 2)


def _explained(what: str, split: SplitOptions, possible: int, can_go: bool) -> str:
    cures = [f"use {possible} folds (--folds)"] if possible >= 2 else []
    cures.append("add cases of it")
    cures += ["leave it out (--classes)"] if can_go else []
    cure = f"{', '.join(cures[:-1])}, or {cures[-1]}" if len(cures) > 1 else cures[0]
    return (
        f"{what}, too few for {split.folds} folds: each fold needs one to test. {cure[0].upper()}{cure[1:]}."
    )


def _notes(cohort: Cohort) -> Iterator[str]:
    slides = sum(len(case.slide_ids) for case in cohort.cases)
    if slides > len(cohort):
        yield f"{slides} slides of {_cases(len(cohort))}: slides of one case always stay on one side of a split."
    if cohort.task == "survive":
        if 0 < _events(cohort) < _FEW:
            yield f"{_cases(_events(cohort))} with an event: expect wide intervals."
        return
    for one in _classes(cohort):
        if one.cases < _FEW:
            yield f"class {one.label!r} has {_cases(one.cases)}: expect wide intervals."


def _classes(cohort: Cohort) -> Iterator[ClassCount]:
    """In the order of the probabilities."""
    pairs = [
        (label.value, len(case.slide_ids))
        for case, label in zip(cohort.cases, cohort.labels, strict=True)
        if isinstance(label, ClassLabel)
    ]
    counts = Counter(name for name, _ in pairs)
    order = [name for name in cohort.classes if name in counts] or sorted(counts)
    for name in order:
        yield ClassCount(name, counts[name], sum(slides for label, slides in pairs if label == name))


def _events(cohort: Cohort) -> int:
    return sum(1 for label in cohort.labels if isinstance(label, SurvivalLabel) and label.event)


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _used(read: LabelTable, table: KeptTable) -> dict[str, tuple[str, str]]:
    """Role → column and how it was read; notes on the table itself are joined, under the owner's name for it."""
    used: dict[str, tuple[str, str]] = {}
    for use in read.used:
        column = table.name if use.role == "table" else use.column
        how = "; ".join(part for part in (used.get(use.role, ("", ""))[1], use.how) if part)
        used[use.role] = (column, how)
    return used


#: Flags of the command line in a message, and the words around those that JSON spells otherwise.
_FLAG = re.compile(r"--([a-z][a-z-]*[a-z])")


def flags_in(text: str) -> list[str]:
    """The options that a message names as flags, spelled as fields."""
    return list(dict.fromkeys(name.replace("-", "_") for name in _FLAG.findall(text)))


def without_flags(text: str) -> str:
    """A message for someone who fills in fields instead of flags: ``--time-unit`` → ``time_unit``."""
    return _FLAG.sub(lambda found: found[1].replace("-", "_"), text)
