"""What is done for each kind of job, in the worker's process. Everything heavy is loaded by the kind that needs it."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from beph_store.serve.jobs.events import MOST_LINES, append
from beph_store.serve.jobs.files import Folder, write_json
from beph_store.serve.jobs.record import Job, now

if TYPE_CHECKING:
    from beph_store.engine.live import RunProgress
    from beph_store.records import SlideOutcome

#: Progress is written so often at most, and put among the events so often at most.
_WRITE_SECONDS = 0.5
_EVENT_SECONDS = 10.0
_RATE_SECONDS = 30.0
_SAMPLE_SECONDS = 0.1


@dataclass(slots=True)
class Teller:
    """Writes down how far a job is. That it cannot, on a full disk say, never stops the work."""

    folder: Folder
    _unit: str = ""
    _written: float = 0.0
    _put: float = field(default_factory=lambda: time.monotonic())
    _lines: int = 0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def event(self, event: dict[str, Any]) -> None:
        """Put something among the events."""
        self._lines += 1
        if self._lines <= MOST_LINES:
            with contextlib.suppress(OSError, ValueError):
                append(self.folder.events, event)

    def note(self, text: str) -> None:
        """Say in words what begins or has ended."""
        self.event({"kind": "note", "text": text})

    def count(self, unit: str) -> Callable[[int, int], None]:
        """To be called with (done, in all); the rate is that of the last half minute."""

        def told(done: int, total: int) -> None:
            at = time.monotonic()
            if unit != self._unit:
                self._unit = unit
                self._seen.clear()
                self._written = 0.0
            if not self._seen or at - self._seen[-1][0] >= _SAMPLE_SECONDS:
                self._seen.append((at, done))
            while self._seen[0][0] < at - _RATE_SECONDS:
                self._seen.popleft()
            if done < total and at - self._written < _WRITE_SECONDS:
                return
            start, before = self._seen[0]
            rate = (done - before) / (at - start) if done > before and at > start else None
            eta = (total - done) / rate if rate else None
            self.progress(
                {"done": done, "total": total, "unit": unit, "per_second": rate, "eta_seconds": eta}
            )

        return told

    def progress(self, data: dict[str, Any]) -> None:
        """Write down how far it is, as the API tells it."""
        self._written = time.monotonic()
        told = {"bottleneck": None, **data, "at": now()}
        with contextlib.suppress(OSError, ValueError):
            write_json(self.folder.progress, told, flush=False)
        if self._written - self._put >= _EVENT_SECONDS:
            self._put = self._written
            self.event({"kind": "progress", **data})


def train(job: Job, folder: Folder, tell: Teller) -> dict[str, Any]:
    """Train a head; it lies in ``out`` and is called by the job's id."""
    from beph_store.engine.study.asked import train_request, unit
    from beph_store.engine.study.job import train_job

    assert job.recipe is not None
    tell.note("reading embeddings")
    report = train_job(
        job.work["store"],
        job.recipe,
        job.options,
        folder.out,
        reading=tell.count("tiles"),
        progress=tell.count(unit(train_request(job.options).options)),
        event=tell.event,
    )
    metrics = {name: estimate.value for name, estimate in report.evaluation.metrics.items()}
    return {"head": job.job, "metrics": _finite(metrics), "warnings": list(report.warnings)}


def apply(job: Job, folder: Folder, tell: Teller) -> dict[str, Any]:
    """Ask a head about every slide; what it says is kept in the store."""
    from beph_store.engine.study.applied import apply_head
    from beph_store.engine.study.trained import TrainedRun
    from beph_store.store import Store

    run = TrainedRun.open(job.work["folder"], device="cpu")  # the GPU is for the heavy lane
    store = Store.open(job.work["store"])
    return apply_head(run, store, str(job.options["head"]), progress=tell.count("cases"))


def ingest(job: Job, folder: Folder, tell: Teller) -> dict[str, Any]:
    """Embed slides. They are looked for again: a link may lead elsewhere since the job was asked for."""
    from beph_store.engine.ingest import IngestOptions
    from beph_store.engine.ingest import ingest as run
    from beph_store.serve.jobs.roots import inside

    paths = inside(job.work["slides"], [Path(root) for root in job.work["roots"]])
    report = run(
        paths,
        job.work["store"],
        options=IngestOptions(**job.work["ingest"]),
        slide_mpp=job.work["slide_mpp"],
        progress=_Ingest(tell),
    )
    statuses = dict.fromkeys(("done", "skipped", "empty", "failed"), 0)
    for outcome in report.slides:
        statuses[outcome.status] += 1
    return {"run": report.run, "recipe": report.recipe, "tiles": report.tiles, "slides": statuses}


@dataclass(frozen=True, slots=True)
class _Ingest:
    """Follows an ingest, see `engine.live`."""

    tell: Teller

    def planned(self, slides: int, skipped: int) -> None:
        self.tell.note(f"{slides} slides, {skipped} of them in the store already")

    def started(self, slide_id: str, tiles: int, resumed: int) -> None:
        """Slides are told when they end."""

    def advanced(self, slide_id: str, tiles: int) -> None:
        """Counted by the meter."""

    def finished(self, outcome: SlideOutcome) -> None:
        if outcome.status == "skipped":
            return
        why = f": {outcome.error}" if outcome.error else f", {outcome.tiles:,} tiles, {outcome.seconds:.1f} s"
        self.tell.note(f"{outcome.slide_id}: {outcome.status}{why}")

    def measured(self, progress: RunProgress) -> None:
        self.tell.progress(
            {
                "done": progress.done,
                "total": progress.total,
                "unit": progress.unit,
                "per_second": progress.per_second,
                "eta_seconds": progress.eta_seconds,
                "bottleneck": progress.bottleneck,
                "slides": progress.slides,
                "ended": progress.ended,
            }
        )


def index(job: Job, folder: Folder, tell: Teller) -> dict[str, Any]:
    """Make the index for searches, or take into it what came since."""
    from beph_store.engine.search.indexing import make_index

    stages: dict[str, Callable[[int, int], None]] = {}

    def heard(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            tell.note(stage)
            stages[stage] = tell.count(stage)
        stages[stage](done, total)

    report = make_index(job.work["store"], recipe=job.recipe, progress=heard)
    return {"did": report.did, "rows": report.rows}


WORK: Mapping[str, Callable[[Job, Folder, Teller], dict[str, Any]]] = MappingProxyType(
    {"train": train, "ingest": ingest, "apply": apply, "index": index}
)


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no infinity."""
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}
