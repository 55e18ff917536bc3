"""Slides in, embeddings out: the main job."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from beph_store.encoders import Bundle, load_bundle
from beph_store.engine.intake import Finish, Intake
from beph_store.engine.live import Meter, shown
from beph_store.engine.local import LocalHands
from beph_store.engine.memory import give_back
from beph_store.engine.options import IngestOptions, default_workers, make_recipe
from beph_store.engine.plan import SlideTask, plan
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.engine.remarks import remarks
from beph_store.engine.report import Computing, Figures, IngestReport, KeptCount, Progress, Silent, count
from beph_store.errors import UsageError
from beph_store.records import Recipe, SlideOutcome
from beph_store.store import RecipeWriter, Store
from beph_store.store.durable import write_json

__all__ = ["IngestOptions", "default_workers", "ingest", "make_recipe"]


class Hands(Protocol):
    """Those who do the work: the processes of this machine, or the nodes of a cluster."""

    def choose(self, precision: str | None) -> Computing:
        """What will compute in that precision, "auto" for the fastest here; it is opened, once."""

    def run(
        self,
        tasks: list[SlideTask],
        writer: RecipeWriter,
        intake: Intake,
        *,
        finish: Finish,
        progress: Meter,
        chosen: Callable[[Computing], None],
    ) -> None:
        """Read, encode and seal those tasks that ``intake`` admits; each ends through ``finish``.

        ``chosen`` hears what computes before the first slide is done. Raises what concerns the whole run.
        """

    def figures(self) -> Figures:
        """What came of all runs so far."""


def ingest(
    paths: Sequence[str | Path],
    store: str | Path,
    *,
    options: IngestOptions | None = None,
    manifest: str | Path | None = None,
    slide_mpp: float | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Embed every slide under ``paths`` into the store; start again at will, nothing is done twice.

    One bad slide never stops the run: it ends as an outcome with status 'failed' and its reason.
    Raises UsageError, EncoderError, RuntimeUnavailable and StoreError, which concern the whole run.
    """
    options = options or IngestOptions()
    _refuse_odd(options)
    tasks = plan(
        paths,
        manifest=manifest,
        slide_mpp=slide_mpp,
        staging=options.staging(),
        memory_gb=options.reader_memory_gb,
    )
    bundle = load_bundle(options.encoder)
    with _hands(bundle, options) as hands:
        if options.precision == "auto":
            options = replace(options, precision=hands.choose("auto").precision)
        recipe = make_recipe(bundle, options)
        opened = Store.create(store, written_by=WRITTEN_BY)
        run = Run(opened, bundle, recipe, options, Meter(progress or Silent()), hands)
        return run(tasks)


def _refuse_odd(options: IngestOptions) -> None:
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"{options.workers} reader processes: at least 1 is needed")
    if options.keep_tiles and options.ray_address is not None:
        raise UsageError("tiles are kept on one machine only: leave out --ray, or --keep-tiles")


@contextmanager
def _hands(bundle: Bundle, options: IngestOptions) -> Iterator[Hands]:
    if options.ray_address is None:
        yield LocalHands(bundle, options)
        return
    from beph_store.engine.cluster.hands import ClusterHands
    from beph_store.engine.cluster.session import connect

    with connect(options.ray_address) as ray:
        hands = ClusterHands(ray, bundle, options)
        orderly = False
        try:
            yield hands
            orderly = True
        finally:
            hands.close(orderly=orderly)


@dataclass(slots=True)
class Run:
    """One recipe over some slides: call it with the tasks."""

    store: Store
    bundle: Bundle
    recipe: Recipe
    options: IngestOptions
    progress: Meter
    hands: Hands
    run_id: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}")
    outcomes: dict[str, SlideOutcome] = field(default_factory=dict)
    kept: KeptCount | None = None
    notes: tuple[str, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, tasks: list[SlideTask]) -> IngestReport:
        start = time.perf_counter()
        writer = self.store.writer(
            self.recipe,
            run=self.run_id,
            encoder_source=self.options.encoder,
            parity=self.bundle.parity,
            keep_tiles=self.options.keep_tiles,
        )
        with shown(self.store.layout, self.run_id, self.progress):
            self._record(tasks, "running")
            try:
                self._all(tasks, writer)
            finally:
                writer.close()
                self.kept = self._count_kept() if self.options.keep_tiles else None
                self.notes = tuple(remarks(self.store, self.recipe, self.outcomes.values(), self.kept))
                self._record(tasks, "ended", time.perf_counter() - start)
                give_back()
        return self._report(tasks, time.perf_counter() - start)

    def _all(self, tasks: list[SlideTask], writer: RecipeWriter) -> None:
        intake = Intake(writer, self._finish, replace=self.options.replace)
        todo = intake.triage(tasks)
        self.progress.planned(len(tasks), count(list(self.outcomes.values()))["skipped"])
        while todo:
            self.hands.run(
                todo, writer, intake, finish=self._finish, progress=self.progress, chosen=self._keep_parity
            )
            writer.publish(force=True)
            todo = intake.triage(intake.take_busy())

    def _keep_parity(self, computing: Computing) -> None:
        self.store.record_parity(self.recipe.key, computing.parity)

    def _count_kept(self) -> KeptCount:
        """As the store has it now: a slide may have been finished earlier, or by another process."""
        kept = self.store.pixels(self.recipe.key)
        finished = {name for name, outcome in self.outcomes.items() if outcome.status in ("done", "skipped")}
        return KeptCount(len(finished.intersection(kept.slides)), len(finished.intersection(kept.without)))

    def _finish(self, outcome: SlideOutcome) -> None:
        with self._lock:
            self.outcomes[outcome.slide_id] = outcome
        self.progress.finished(outcome)

    def _report(self, tasks: list[SlideTask], seconds: float) -> IngestReport:
        figures = self.hands.figures()
        computing = figures.computing
        return IngestReport(
            recipe=self.recipe.key,
            slides=tuple(self.outcomes[task.slide_id] for task in tasks if task.slide_id in self.outcomes),
            tiles=figures.tiles,
            seconds=seconds,
            steady_seconds=figures.steady,
            busy={s: min(1.0, spent / seconds) if seconds else 0.0 for s, spent in figures.busy.items()},
            workers=figures.workers,
            runtime=computing.runtime if computing else "none",
            precision=self.recipe.encoder.precision,
            device=computing.device if computing else "none",
            passed_over=computing.passed_over if computing else (),
            decode_amplification=figures.read.amplification,
            run=self.run_id,
            notes=(*figures.notes, *self.notes),
            kept_tiles=self.kept,
            cluster=figures.cluster,
        )

    def _record(self, tasks: list[SlideTask], state: str, seconds: float = 0.0) -> None:
        report = self._report(tasks, seconds)
        data: dict[str, Any] = {
            **report.to_json(),
            "state": state,
            "encoder": self.options.encoder,
            "paths": len(tasks),
            "keep_tiles": self.options.keep_tiles,
            "machine": machine(),
            "versions": versions(("beph-store", "pylance", "onnxruntime", "openslide-bin", "numpy")),
            "written_at": now(),
        }
        write_json(self.store.layout.runs / f"{self.run_id}.json", data)
