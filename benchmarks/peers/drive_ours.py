"""beph-store's own ingest, as a user runs it: it also finds the tissue and cuts the grid, within its time."""

from __future__ import annotations

from pathlib import Path

from job import Job, Stored, drive

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.store import Store

_ABOUT: dict[str, object] = {}


def work(job: Job) -> None:
    """All slides into one store."""
    options = IngestOptions(
        encoder=job.bundle,
        mpp=job.mpp,
        workers=job.workers,
        precision="auto" if job.variant == "auto" else None,
    )
    report = ingest(job.slides, Path(job.out) / "store", options=options, slide_mpp=job.mpp)
    if report.failed:
        raise SystemExit(str(report.failed))
    _ABOUT.update(
        runtime=f"{report.runtime} {report.precision}",
        steady_seconds=report.steady_seconds,
        busy={stage: round(share, 3) for stage, share in report.busy.items()},
    )


def read_back(job: Job) -> Stored:
    """Slide by slide, from the store."""
    store = Store.open(Path(job.out) / "store")
    key = store.recipes()[0].recipe.key
    stored = {}
    for row in store.rows(key):
        bag = store.bag(key, row.slide_id)
        stored[Path(row.slide_id).stem] = (bag.origin_l0, bag.vectors)
    return stored


if __name__ == "__main__":
    drive(work, read_back, about=_ABOUT)
