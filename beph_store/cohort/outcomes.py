"""Which columns hold the event and the time, and what they mean. Senses and units are read from names or refused."""

from __future__ import annotations

import re
from collections.abc import Sequence

from beph_store.cohort.gdc import COLUMNS as GDC_COLUMNS
from beph_store.cohort.gdc import gdc_time
from beph_store.cohort.labels import ColumnChoice, some
from beph_store.cohort.readings import DAYS_IN, Reading, Unit, agreeing, in_days, parse_number, same_time
from beph_store.cohort.sheets import Sheet, canonical, is_missing
from beph_store.errors import AmbiguousColumn, CohortError

#: Canonical names of columns where 1 means that the event was seen …
EVENTS = [
    "event",
    "osfl",
    "os_event_ind",
    "os_event",
    "event_observed",
    "os_status",
    "os",
    "status",
    "vital_status",
    "demographic_vital_status",
    "death",
    "dead",
    "deceased",
    "died",
    "is_dead",
]
#: … where it means that the case was censored (CLAM's tables) …
CENSORED = ["censorship", "censored", "is_censored"]
#: … and where authors differ (R's ``cens`` is 1 for an event): a flag has to say.
UNCLEAR = ["censor", "cens", "censoring"]

_STEMS = [
    "",
    "time_",
    "time_in_",
    "survival_",
    "survival_in_",
    "survival_time_",
    "overall_survival_",
    "os_",
    "os_time_",
]
_STEMS += ["follow_up_", "followup_", "follow_up_time_"]
_WITH_UNIT = [f"{stem}{unit}" for unit in DAYS_IN for stem in _STEMS]
_WITHOUT_UNIT = [
    "os_time",
    "os_event_data",
    "time",
    "survival_time",
    "survival",
    "duration",
    "follow_up_time",
    "futime",
]
TIMES = (*_WITH_UNIT, *_WITHOUT_UNIT)
#: All that ``find_outcomes`` may want to see.
NAMES = (*EVENTS, *CENSORED, *UNCLEAR, *TIMES, *GDC_COLUMNS)

_EVENT_WORDS = frozenset(["dead", "deceased", "died", "death", "event"])
_CENSORED_WORDS = frozenset(["alive", "living", "censored", "no event"])
_TRUE = frozenset(["1", "1.0", "true", "t", "yes", "y"])
_FALSE = frozenset(["0", "0.0", "false", "f", "no", "n"])
#: Nobody is followed for longer.
_LONGEST_YEARS = 125
NO_EVENT = "no event status"


def find_outcomes(
    sheet: Sheet, cases: Sequence[str], choice: ColumnChoice
) -> tuple[Reading[bool], Reading[float]]:
    """Events and times (days) of each row.

    Raises:
        CohortError: no column is known to hold them.
        AmbiguousColumn: a sense or a unit is not said, or two columns contradict each other.
    """
    return _find_event(sheet, choice), _find_time(sheet, cases, choice)


def _find_event(sheet: Sheet, choice: ColumnChoice) -> Reading[bool]:
    if choice.event:
        return read_event(*sheet.find(choice.event, "--event-column"), choice)
    found = _named(sheet, (*EVENTS, *CENSORED, *UNCLEAR))
    if not found:
        raise CohortError(
            f"{sheet.path}: no column is known to hold events: name it with --event-column; it has {sheet.listing()}"
        )
    if len(found) > 1 and (choice.event_means or choice.event_value):
        names = ", ".join(name for name, _ in found)
        raise AmbiguousColumn(
            f"{sheet.path}: --event-means and --event-value could be about {names}: add --event-column"
        )
    readings = [read_event(name, cells, choice) for name, cells in found]
    return agreeing(readings, sheet.rows, lambda a, b, _: a == b, "--event-column")


def read_event(name: str, cells: Sequence[str], choice: ColumnChoice) -> Reading[bool]:
    """A column as events; every value in it has to be understood."""
    given = {cell.lower() for cell in cells if not is_missing(cell)}
    if choice.event_value is not None:
        truth, how = _by_value(name, given, choice)
    elif all(_word(value) is not None for value in given):
        if choice.event_means:
            raise AmbiguousColumn(
                f"column {name!r} says {some(sorted(given))} in words: leave --event-means out"
            )
        truth, how = {value: bool(_word(value)) for value in given}, "in words"
    elif given <= _TRUE | _FALSE:
        means = choice.event_means or _sense(name)
        truth = {value: (value in _TRUE) == (means == "event") for value in given}
        how = "1 = event" if means == "event" else "1 = censored"
    else:
        odd = sorted(value for value in given if _word(value) is None and value not in _TRUE | _FALSE)
        raise AmbiguousColumn(
            f"column {name!r} cannot be read as events because of {some(map(repr, odd or sorted(given)))}: name "
            "the value of an event with --event-value, or another column with --event-column"
        )
    values = tuple(None if is_missing(cell) else truth[cell.lower()] for cell in cells)
    return Reading(name, how, values, tuple(NO_EVENT if value is None else "" for value in values))


def _by_value(name: str, given: set[str], choice: ColumnChoice) -> tuple[dict[str, bool], str]:
    chosen = (choice.event_value or "").strip().lower()
    if chosen not in given:
        raise CohortError(
            f"column {name!r} never holds {choice.event_value!r} (--event-value); it holds {some(sorted(given), 8)}"
        )
    means = choice.event_means or "event"
    other = "censored" if means == "event" else "event"
    truth = {value: (value == chosen) == (means == "event") for value in given}
    return truth, f"{choice.event_value} = {means}, {some(sorted(given - {chosen}), 8)} = {other}"


def _word(value: str) -> bool | None:
    """Event or not, from a word, cBioPortal's ``1:DECEASED`` too; None for anything else."""
    plain = re.sub(r"^[01]:", "", value)
    return True if plain in _EVENT_WORDS else False if plain in _CENSORED_WORDS else None


def _sense(name: str) -> str:
    plain = canonical(name)
    if plain in EVENTS:
        return "event"
    if plain in CENSORED:
        return "censored"
    raise AmbiguousColumn(
        f"does 1 in column {name!r} mean an event or a censored case? say --event-means event|censored"
    )


def _find_time(sheet: Sheet, cases: Sequence[str], choice: ColumnChoice) -> Reading[float]:
    if choice.time:
        return read_time(*sheet.find(choice.time, "--time-column"), sheet, choice.time_unit)
    found = _named(sheet, TIMES)
    if len(found) > 1 and choice.time_unit:
        names = ", ".join(name for name, _ in found)
        raise AmbiguousColumn(f"{sheet.path}: --time-unit could be about {names}: add --time-column")
    readings = [read_time(name, cells, sheet, choice.time_unit) for name, cells in found]
    readings.sort(key=lambda reading: DAYS_IN[reading.unit])
    from_gdc = gdc_time({canonical(name): cells for name, cells in sheet.columns}, cases)
    if from_gdc:
        readings.append(from_gdc)
    if not readings:
        raise CohortError(
            f"{sheet.path}: no column is known to hold times: name it with --time-column; it has {sheet.listing()}"
        )
    return agreeing(readings, sheet.rows, same_time, "--time-column")


def read_time(name: str, cells: Sequence[str], sheet: Sheet, unit: Unit | None = None) -> Reading[float]:
    """A column as days, from the unit given, or the one that its name or a known layout says."""
    numbers = [n for cell in cells if not is_missing(cell) and (n := parse_number(cell)) is not None]
    unit = unit or _unit_in_name(name) or _unit_by_layout(name, sheet, numbers)
    if unit is None:
        raise AmbiguousColumn(
            f"{sheet.path}: column {name!r} does not say its unit: pass --time-unit days, months or years, "
            "or name another column with --time-column"
        )
    years = max(numbers, default=0) * DAYS_IN[unit] / DAYS_IN["years"]
    if years > _LONGEST_YEARS:
        spelled = f"{years:.0f}" if years < 1e6 else f"{years:.1e}"
        raise AmbiguousColumn(
            f"{sheet.path}: column {name!r} goes up to {max(numbers):g}, which in {unit} is {spelled} years: "
            "pass the right --time-unit"
        )
    factor = DAYS_IN[unit]
    pairs = [in_days(cell, factor) for cell in cells]
    how = "days" if unit == "days" else f"{unit} × {factor:g}"
    return Reading(name, how, tuple(days for days, _ in pairs), tuple(why for _, why in pairs), unit)


def _unit_in_name(name: str) -> Unit | None:
    words = set(canonical(name).split("_"))
    units: list[Unit] = [unit for unit in DAYS_IN if {unit, unit[:-1]} & words]
    return units[0] if len(units) == 1 else None


def _unit_by_layout(name: str, sheet: Sheet, numbers: Sequence[float]) -> Unit | None:
    """The unit of a published layout that leaves it out, if the numbers bear it out.

    UCSC Xena and the TCGA clinical data resource have ``OS`` beside ``OS.time`` in days: whole numbers, some too large
    for months. The released HPL tables have ``os_event_ind`` beside ``os_event_data`` in months of 365 / 12 days:
    fractions that are whole numbers of days in that unit, and in no other.
    """
    plain, others = canonical(name), {canonical(other) for other in sheet.names}
    if plain == "os_time" and "os" in others and numbers:
        whole = all(value == int(value) for value in numbers)
        return "days" if whole and max(numbers) > 12 * _LONGEST_YEARS else None
    if plain == "os_event_data" and "os_event_ind" in others and numbers:
        days = [value * 365 / 12 for value in numbers]
        exact = all(abs(value - round(value)) < 1e-6 for value in days)
        return "months" if exact and any(value != int(value) for value in numbers) else None
    return None


def _named(sheet: Sheet, names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    order = {name: i for i, name in enumerate(names)}
    found = [column for column in sheet.columns if canonical(column[0]) in order]
    return sorted(found, key=lambda column: order[canonical(column[0])])
