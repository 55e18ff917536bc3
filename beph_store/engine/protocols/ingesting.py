"""The slides of a cohort into a store, once for each encoder, on the same grid of tiles."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from beph_store.cohort import read_labels
from beph_store.cohort.ids import SlideIndex
from beph_store.cohort.labels import some
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.plan import SlideTask, plan
from beph_store.engine.protocols.options import Job, Tell
from beph_store.engine.protocols.studies import columns
from beph_store.engine.protocols.subjects import OF_ONE, Subject
from beph_store.engine.report import Silent
from beph_store.errors import CohortError
from beph_store.records import SlideOutcome


def ingest_all(
    job: Job, store: Path, subjects: Sequence[Subject], tell: Tell
) -> tuple[list[Subject], tuple[str, ...]]:
    """Each encoder's slides in the store; the subjects with their recipes, and the slides that failed with reasons.

    Only slides that the table names are ingested. CohortError where the folder has none of them.
    """
    tasks = of_cohort(job)
    manifest = _manifest(job, tasks)
    options = IngestOptions(mpp=job.mpp, stride_px=job.options.stride_px, limit_tiles=job.options.limit_tiles)
    out, broken = [], {task.slide_id: f"{task.slide_id}: {task.error}" for task in tasks if task.error}
    for subject in subjects:
        if not subject.ok or subject.source is None:
            out.append(subject)
            continue
        try:
            report = ingest(
                [],
                store,
                options=replace(options, encoder=subject.source),
                manifest=manifest,
                progress=_Slides(f"ingesting with {subject.name}", tell),
            )
        except OF_ONE as error:
            out.append(subject.failed(error))
            continue
        out.append(replace(subject, recipe=report.recipe))
        for failed in report.failed:
            broken.setdefault(failed.slide_id, f"{failed.slide_id}: {failed.error}")
    return out, tuple(broken.values())


def of_cohort(job: Job) -> list[SlideTask]:
    """The slides of the folder that the table names; all of them where it names cases only."""
    assert job.options.slides is not None
    assert job.options.cohort is not None
    tasks = plan([job.options.slides])
    table = read_labels(job.options.cohort, job.protocol.task, columns(job.protocol))
    if not table.by_slide:
        return tasks
    index = SlideIndex(task.slide_id for task in tasks)
    cases = {found[0]: row.case_id for row in table.rows if len(found := index.find(row.slide_id or "")) == 1}
    wanted = [replace(task, case_id=cases[task.slide_id]) for task in tasks if task.slide_id in cases]
    if not wanted:
        raise CohortError(
            f"none of the {len(tasks)} slides under {job.options.slides} is in {table.path}: the folder has "
            f"{some((task.slide_id for task in tasks), 2)}, the table {some((r.slide_id or '' for r in table.rows), 2)}"
        )
    return wanted


def _manifest(job: Job, tasks: Sequence[SlideTask]) -> Path:
    file = job.out / "slides.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["path", "slide_id", "case_id"])
        writer.writerows([task.path, task.slide_id, task.case_id or ""] for task in tasks if not task.error)
    return file


class _Slides(Silent):
    """Slides done, told on."""

    def __init__(self, what: str, tell: Tell) -> None:
        self._what, self._tell = what, tell
        self._done = self._total = 0

    def planned(self, slides: int, skipped: int) -> None:
        """Begin."""
        self._total = slides
        self._tell(self._what, self._done, slides)

    def finished(self, outcome: SlideOutcome) -> None:
        """One more."""
        self._done += 1
        self._tell(self._what, self._done, max(self._done, self._total))
