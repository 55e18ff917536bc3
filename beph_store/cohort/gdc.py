"""Times from clinical tables of the NCI Genomic Data Commons.

The GDC has no column of survival times: a dead patient's is ``days_to_death``, a living one's
``days_to_last_follow_up``, and ``vital_status`` says which. Its exports write ``'--`` for missing, hold a row per
treatment (each patient twice and more), and keep the barcode in ``case_submitter_id`` beside a UUID in ``case_id``.
Newer exports put the entity before the name (``demographic.vital_status``); both are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beph_store.cohort.readings import NO_TIME, Reading, in_days, parse_number

VITAL = ("vital_status", "demographic_vital_status")
DEATH = ("days_to_death", "demographic_days_to_death")
FOLLOW_UP = ("days_to_last_follow_up", "days_to_last_followup", "diagnoses_days_to_last_follow_up")
#: Canonical names of every column that ``gdc_time`` may want.
COLUMNS = frozenset((*VITAL, *DEATH, *FOLLOW_UP))

NO_VITAL_STATUS = "vital_status is neither Alive nor Dead"
ALIVE_WITH_DEATH = "vital_status is Alive, yet there is a days_to_death"


def gdc_time(columns: Mapping[str, Sequence[str]], cases: Sequence[str]) -> Reading[float] | None:
    """Days to death or last follow-up, row by row; None if the table has not all three columns.

    ``columns`` canonical name → cells; ``cases`` the case of each row. Where the rows of a living patient name
    several last follow-ups, the latest is the last.
    """
    vital, death, seen = (_first(columns, names) for names in (VITAL, DEATH, FOLLOW_UP))
    if vital is None or death is None or seen is None:
        return None
    last: dict[str, str] = {}
    for case, cell in zip(cases, seen, strict=True):
        days = parse_number(cell)
        if days is not None and days > (parse_number(last.get(case, "")) or float("-inf")):
            last[case] = cell
    pairs = [
        _days(status.strip().lower(), dead, last.get(case, cell))
        for status, dead, cell, case in zip(vital, death, seen, cases, strict=True)
    ]
    return Reading(
        "days_to_death / days_to_last_follow_up",
        "days; to death if vital_status is Dead, else to the last follow-up",
        tuple(days for days, _ in pairs),
        tuple(why for _, why in pairs),
    )


def _days(status: str, death: str, follow_up: str) -> tuple[float | None, str]:
    if status == "dead":
        days, why = in_days(death)
        return days, "dead, but no days_to_death" if why == NO_TIME else why
    if status != "alive":
        return None, NO_VITAL_STATUS
    if in_days(death)[0] is not None:
        return None, ALIVE_WITH_DEATH
    days, why = in_days(follow_up)
    return days, "alive, but no days_to_last_follow_up" if why == NO_TIME else why


def _first(columns: Mapping[str, Sequence[str]], names: Sequence[str]) -> Sequence[str] | None:
    return next((columns[name] for name in names if name in columns), None)
