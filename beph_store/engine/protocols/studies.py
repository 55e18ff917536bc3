"""The same cases for every encoder: labels joined with each one's vectors, reduced to what all of them have."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from beph_store.cohort import ColumnChoice, Dropped
from beph_store.engine.protocols.options import Job, Tell
from beph_store.engine.protocols.subjects import Subject
from beph_store.engine.protocols.table import Protocol
from beph_store.engine.study.data import Study, load_study
from beph_store.errors import CohortError
from beph_store.records import Case, ClassTarget, SurvivalLabel
from beph_store.store import Store, bags

NOT_IN_ALL = "slide without tiles in the vectors of some encoder"
#: Cases a class that draws need: one for train, val and test each.
LEAST = 3


def columns(protocol: Protocol) -> ColumnChoice:
    """How the table is read: by its column names; cases that contradict themselves are counted and left out."""
    return ColumnChoice(classes=protocol.classes, conflicts="drop")


def load_all(
    job: Job, store: Store, subjects: Sequence[Subject], tell: Tell
) -> tuple[list[Subject], dict[str, Study]]:
    """The subjects, those that cannot be joined with their reason, and the study of each other one by its name."""
    assert job.options.cohort is not None
    out, studies = [], {}
    errors: list[CohortError] = []
    for subject in subjects:
        what = f"reading {subject.name}"
        try:
            if subject.ok:
                studies[subject.name] = load_study(
                    str(store.layout.root),
                    job.options.cohort,
                    job.protocol.task,
                    recipe=subject.recipe,
                    columns=columns(job.protocol),
                    progress=lambda done, total, what=what: tell(what, done, total),  # type: ignore[misc]
                )
            out.append(subject)
        except CohortError as error:
            errors.append(error)
            out.append(subject.failed(error))
    if errors and not studies:
        raise errors[0]
    return out, studies


def in_common(studies: dict[str, Study], *, by_slide: bool) -> dict[str, Study]:
    """The studies over the slides that each of them has tiles of; ``by_slide`` makes each slide a case of its own."""
    shared = set.intersection(*(_with_tiles(study) for study in studies.values()))
    return {name: _reduced(study, shared, by_slide) for name, study in studies.items()}


def check_classes(protocol: Protocol, study: Study) -> None:
    """CohortError where a class has too few cases to draw train, val and test from, or there are too few events."""
    if not isinstance(study.target, ClassTarget):
        events = sum(label.event for label in study.cohort.labels if isinstance(label, SurvivalLabel))
        if events < LEAST:
            raise CohortError(
                f"{events} of {len(study.case_ids)} cases with slides have an event, {protocol.name} needs {LEAST}: "
                "add slides, or check the slide ids of the table"
            )
        return
    counts = counts_of(study)
    few = {name: counts.get(name, 0) for name in protocol.classes if counts.get(name, 0) < LEAST}
    if few:
        told = ", ".join(f"{name} {counts.get(name, 0)}" for name in protocol.classes)
        raise CohortError(
            f"{protocol.name} needs {LEAST} cases with slides of each class, there are {told}: add slides of "
            f"{', '.join(few)}, or check the slide ids of the table"
        )


def counts_of(study: Study) -> dict[str, int]:
    """Cases of each class, or with an event and censored."""
    labels = study.cohort.labels
    names = (
        ("event" if x.event else "censored") if isinstance(x, SurvivalLabel) else x.value for x in labels
    )
    return dict(sorted(Counter(names).items()))


def ingest_ids(study: Study) -> list[list[str]]:
    """Which attempt wrote the vectors of each slide: other ones are other vectors."""
    used = set(study.cohort.case_of)
    rows = study.store.rows(study.record.recipe.key)
    return [[row.slide_id, row.ingest_id or ""] for row in rows if row.slide_id in used]


def _with_tiles(study: Study) -> set[str]:
    rows = study.store.rows(study.record.recipe.key)
    full = {row.slide_id for row in rows if row.complete and row.tiles > row.unreadable}
    return full & set(study.cohort.case_of)


def _reduced(study: Study, shared: set[str], by_slide: bool) -> Study:
    cohort = study.cohort
    lost = [Dropped(None, slide, NOT_IN_ALL) for slide in cohort.case_of if slide not in shared]
    cases, labels = [], []
    for case, label in zip(cohort.cases, cohort.labels, strict=True):
        slides = tuple(slide for slide in case.slide_ids if slide in shared)
        parts = [(slide, (slide,)) for slide in slides] if by_slide else [(case.case_id, slides)]
        for name, own in parts:
            if own:
                cases.append(Case(name, own))
                labels.append(dataclasses.replace(label, case_id=name))
    if not cases:
        raise CohortError(
            "no labelled slide has tiles in the vectors of every encoder: ingest the slides with each of them, or "
            "leave an encoder out"
        )
    kept = dataclasses.replace(
        cohort, cases=tuple(cases), labels=tuple(labels), dropped=(*cohort.dropped, *lost)
    )
    flat = study.store.flat(study.record.recipe.key)
    return dataclasses.replace(study, cohort=kept, bags=bags(flat, kept.cases), target=kept.target(kept.task))
