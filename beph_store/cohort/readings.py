"""One column (or pair) understood as events or as times, and what happens where two of them disagree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from beph_store.cohort.sheets import is_missing
from beph_store.errors import AmbiguousColumn

Value = TypeVar("Value", bool, float)
Unit = Literal["days", "months", "years"]

#: Days in each unit: the Julian year, as in survival tables made from days.
DAYS_IN: dict[Unit, float] = {"days": 1.0, "months": 365.25 / 12, "years": 365.25}

NOT_POSITIVE = "the time is not above 0"
NO_TIME = "no time"
NOT_A_NUMBER = "the time is not a number"


@dataclass(frozen=True, slots=True, eq=False)
class Reading(Generic[Value]):
    """``values`` one a row, None where there is none and ``why`` (else "") says the reason; ``unit`` of a time."""

    column: str
    how: str
    values: tuple[Value | None, ...]
    why: tuple[str, ...]
    unit: Unit = "days"


def parse_number(text: str) -> float | None:
    """A finite number in plain notation, else None: no underscores, no decimal comma, no infinity."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def in_days(cell: str, factor: float = 1.0) -> tuple[float | None, str]:
    """(days, "") or (None, the reason) of a cell that holds a time."""
    if is_missing(cell):
        return None, NO_TIME
    value = parse_number(cell)
    if value is None:
        return None, NOT_A_NUMBER
    return (value * factor, "") if value > 0 else (None, NOT_POSITIVE)


def same_time(a: float, b: float, unit: Unit) -> bool:
    """Whether two times in days are one time, the coarser of the two rounded or cut to whole units or finer."""
    return abs(a - b) <= DAYS_IN[unit] + 0.01 * max(a, b)


def agreeing(
    readings: Sequence[Reading[Value]],
    rows: Sequence[int],
    same: Callable[[Value, Value, Unit], bool],
    flag: str,
) -> Reading[Value]:
    """The first reading, if all others that say anything agree with it row by row.

    Raises:
        AmbiguousColumn: two contradict each other; the flag decides.
    """
    speaking = [r for r in readings if any(v is not None for v in r.values)] or list(readings[:1])
    first = speaking[0]
    for other in speaking[1:]:
        unit = max(first.unit, other.unit, key=lambda name: DAYS_IN[name])
        against = [
            row
            for row, a, b in zip(rows, first.values, other.values, strict=True)
            if a is not None and b is not None and not same(a, b, unit)
        ]
        if against:
            raise AmbiguousColumn(
                f"{first.column!r} and {other.column!r} contradict each other in {len(against)} of {len(rows)} rows "
                f"(first in row {against[0]}): name the right one with {flag}"
            )
    return first
