"""What a table of labels says, as plain data: rows, what was left out and why, and how each column was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from beph_store.records import ClassLabel, SurvivalLabel

Task = Literal["classify", "survive"]
Label = ClassLabel | SurvivalLabel


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """What the user says about a table; None leaves it to the column names. Each field is a flag.

    ``case``, ``slide``, ``target``, ``event``, ``time`` name columns (``--case-column``, ``--slide-column``,
    ``--target``, ``--event-column``, ``--time-column``). ``classes`` (``--classes``): those to keep, in the order that
    counts for the positive class and for quadratic kappa; empty keeps all, in the order of the alphabet.
    ``time_unit`` (``--time-unit``) goes before what the column's name says. ``event_means`` (``--event-means``):
    whether 1 / true / yes means that the event was seen or that the case was censored. ``event_value``
    (``--event-value``): the one value with that meaning, for columns in other words. ``conflicts``
    (``--on-conflict``): what becomes of cases whose rows contradict each other; ``keep`` is for work on tiles, where
    a case may hold several classes.
    """

    case: str | None = None
    slide: str | None = None
    target: str | None = None
    classes: tuple[str, ...] = ()
    event: str | None = None
    time: str | None = None
    time_unit: Literal["days", "months", "years"] | None = None
    event_means: Literal["event", "censored"] | None = None
    event_value: str | None = None
    conflicts: Literal["refuse", "drop", "keep"] = "refuse"

    def columns(self) -> tuple[str, ...]:
        """The columns named."""
        return tuple(name for name in (self.case, self.slide, self.target, self.event, self.time) if name)


#: No flag at all.
BY_NAME = ColumnChoice()


@dataclass(frozen=True, slots=True)
class ColumnUse:
    """``role`` (slide, case, class, event, time, table) was taken from ``column`` as ``how`` says, for the report."""

    role: str
    column: str
    how: str

    def __str__(self) -> str:
        return f"{self.role}: {self.column} ({self.how})" if self.how else f"{self.role}: {self.column}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something left out: ``row`` of the table (1-based, without the header; None for a slide of the store), ``id``.

    ``reason`` is one of few fixed sentences, so that reasons can be counted; ``detail`` is about this one.
    """

    row: int | None
    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row: ``slide_id`` as the table writes it, None in a table of cases."""

    row: int
    slide_id: str | None
    case_id: str
    label: Label


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A table of labels as read. Rows of one case agree; a slide is listed once, a case without slides too.

    ``classes`` in the order that the user named them in, empty if none were named.
    """

    path: str
    task: Task
    rows: tuple[LabelRow, ...]
    dropped: tuple[Dropped, ...]
    used: tuple[ColumnUse, ...]
    classes: tuple[str, ...] = ()

    @property
    def by_slide(self) -> bool:
        """Whether the rows are slides; otherwise they are cases."""
        return any(row.slide_id is not None for row in self.rows)


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    counts = Counter(one.reason for one in dropped)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def some(names: Iterable[str], limit: int = 3) -> str:
    """A few names and how many more there are, for a message."""
    every = [" ".join(name.split()) for name in names]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more
