"""Slides in, embeddings out: the main job."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beph_store.encoders import Bundle, load_bundle
from beph_store.engine import pipeline
from beph_store.engine.choosing import Choice, choose
from beph_store.engine.intake import Intake
from beph_store.engine.live import Meter, shown
from beph_store.engine.plan import SlideTask, plan
from beph_store.engine.provenance import WRITTEN_BY, machine, now, versions
from beph_store.engine.readers import ReaderPool
from beph_store.engine.report import IngestReport, KeptCount, Progress, ReadStats, Silent, count
from beph_store.engine.staging import FetchAhead
from beph_store.engine.storing import SlideSink
from beph_store.errors import UsageError
from beph_store.records import Recipe, SlideOutcome, TileSpec
from beph_store.runtimes import RuntimeOptions
from beph_store.slides import Reads, Staging
from beph_store.store import RecipeWriter, Store
from beph_store.store.durable import write_json


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How to ingest; None means the encoder's own value, or as many as suit the machine.

    ``keep_tiles`` keeps the tiles' pixels beside their embeddings; it is no part of the recipe. Of slides in object
    storage ``slide_cache_gb`` of local disk may hold copies (None: a quarter of what is free), ``slides_ahead`` are
    fetched before their turn, and ``slide_reads`` says whether whole, by ranges, or as is quicker ("auto").
    """

    encoder: str = "beph-mini"
    mpp: float | None = None
    tile_px: int | None = None
    stride_px: int | None = None
    tissue_min: float = 0.25
    tissue_method: str = "otsu-saturation"
    limit_tiles: int | None = None
    runtime: str = "auto"
    precision: str | None = None
    workers: int | None = None
    batch: int | None = None
    replace: bool = False
    keep_tiles: bool = False
    slide_cache_gb: float | None = None
    slides_ahead: int = 2
    slide_reads: Reads = "auto"

    def staging(self) -> Staging:
        """How slides come from object storage. Raises UsageError for a cache of no size."""
        if self.slide_cache_gb is not None and not self.slide_cache_gb > 0:
            raise UsageError(f"--slide-cache-gb {self.slide_cache_gb:g}: slides need room")
        return Staging(
            None if self.slide_cache_gb is None else int(self.slide_cache_gb * 1e9), self.slide_reads
        )


def make_recipe(bundle: Bundle, options: IngestOptions) -> Recipe:
    """The feature space that the options name. Raises UsageError for a tile the encoder does not take."""
    spec = bundle.spec_for(options.precision)
    mpp = spec.mpp if options.mpp is None else options.mpp  # 0 is a mistake to refuse, not the default
    tile_px = spec.tile_px if options.tile_px is None else options.tile_px
    if tile_px != spec.tile_px:
        raise UsageError(
            f"{spec.name} takes tiles of {spec.tile_px} px, not {tile_px}: to see more tissue a tile, pass a larger "
            f"--mpp (now {mpp:g} µm/px)"
        )
    tile = TileSpec(
        tile_px=tile_px,
        mpp=mpp,
        stride_px=tile_px if options.stride_px is None else options.stride_px,
        tissue_min=options.tissue_min,
        tissue_method=options.tissue_method,
        limit=options.limit_tiles,
    )
    return Recipe(tile, spec)


def default_workers() -> int:
    """Reader processes: one for every four cores is more than a CPU encoder can use, eight feed a GPU."""
    return max(1, min(8, (os.cpu_count() or 1) // 4))


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
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"{options.workers} reader processes: at least 1 is needed")
    tasks = plan(paths, manifest=manifest, slide_mpp=slide_mpp, staging=options.staging())
    bundle = load_bundle(options.encoder)
    choice = None
    if options.precision == "auto":
        choice = _choose(bundle, options)
        options = replace(options, precision=choice.runtime.spec.precision)
    recipe = make_recipe(bundle, options)
    opened = Store.create(store, written_by=WRITTEN_BY)
    run = _Run(opened, bundle, recipe, options, Meter(progress or Silent()), choice=choice)
    return run(tasks)


def _choose(bundle: Bundle, options: IngestOptions) -> Choice:
    wanted = RuntimeOptions(batch=options.batch)
    return choose(bundle, runtime=options.runtime, precision=options.precision, options=wanted)


@dataclass(slots=True)
class _Run:
    store: Store
    bundle: Bundle
    recipe: Recipe
    options: IngestOptions
    progress: Meter
    run_id: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}")
    outcomes: dict[str, SlideOutcome] = field(default_factory=dict)
    stats: ReadStats = field(default_factory=ReadStats)
    tiles: int = 0
    steady: float = 0.0
    busy: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "write": 0.0})
    choice: Choice | None = None
    kept: KeptCount | None = None
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
                self._record(tasks, "ended", time.perf_counter() - start)
        return self._report(tasks, time.perf_counter() - start)

    def _all(self, tasks: list[SlideTask], writer: RecipeWriter) -> None:
        intake = Intake(writer, self._finish, replace=self.options.replace)
        todo = intake.triage(tasks)
        self.progress.planned(len(tasks), count(list(self.outcomes.values()))["skipped"])
        while todo:
            self._pass(todo, writer, intake)
            writer.publish(force=True)
            todo = intake.triage(intake.take_busy())

    def _pass(self, tasks: list[SlideTask], writer: RecipeWriter, intake: Intake) -> None:
        workers = self.options.workers or default_workers()
        ahead = FetchAhead(
            tasks, self.recipe.tile, workers=workers, ahead=self.options.slides_ahead, admit=intake.admit
        )
        pool = ReaderPool(tasks, self.recipe.tile, workers=workers, admit=ahead.admit)
        choice = self._chosen()  # loads while the readers start
        self.store.record_parity(self.recipe.key, choice.parity)
        sink = SlideSink(
            writer,
            pool,
            {task.slide_id: task for task in tasks},
            replaced=intake.replaced,
            finish=self._finish,
            progress=self.progress,
        )
        keep = self.options.keep_tiles
        clocks = self.progress.clocks = pipeline.Clocks()
        with closing(ahead):
            pipeline.run(
                pool, choice.runtime.stream(), sink, dim=self.recipe.encoder.dim, keep=keep, clocks=clocks
            )
        self.stats.add(sink.stats)
        self.tiles += sink.encoded
        self.busy["encode"] += clocks.encode
        self.busy["write"] += clocks.write.busy
        if keep:
            self.busy["keep"] = self.busy.get("keep", 0.0) + clocks.keep.busy
        self.steady += (clocks.last or 0.0) - (clocks.first or 0.0)

    def _count_kept(self) -> KeptCount:
        """As the store has it now: a slide may have been finished earlier, or by another process."""
        kept = self.store.pixels(self.recipe.key)
        finished = {name for name, outcome in self.outcomes.items() if outcome.status in ("done", "skipped")}
        return KeptCount(len(finished.intersection(kept.slides)), len(finished.intersection(kept.without)))

    def _chosen(self) -> Choice:
        if self.choice is None:
            self.choice = _choose(self.bundle, self.options)
        return self.choice

    def _finish(self, outcome: SlideOutcome) -> None:
        with self._lock:
            self.outcomes[outcome.slide_id] = outcome
        self.progress.finished(outcome)

    def _report(self, tasks: list[SlideTask], seconds: float) -> IngestReport:
        workers = self.options.workers or default_workers()
        busy = {"read": self.stats.busy / workers, **self.busy}
        return IngestReport(
            recipe=self.recipe.key,
            slides=tuple(self.outcomes[task.slide_id] for task in tasks if task.slide_id in self.outcomes),
            tiles=self.tiles,
            seconds=seconds,
            steady_seconds=self.steady,
            busy={stage: min(1.0, spent / seconds) if seconds else 0.0 for stage, spent in busy.items()},
            workers=workers,
            runtime=self.choice.runtime.name if self.choice else "none",
            precision=self.recipe.encoder.precision,
            device=self.choice.runtime.device if self.choice else "none",
            passed_over=self.choice.passed_over if self.choice else (),
            decode_amplification=self.stats.amplification,
            run=self.run_id,
            notes=self._notes(),
            kept_tiles=self.kept,
        )

    def _notes(self) -> tuple[str, ...]:
        if self.kept is None or not self.kept.without:
            return ()
        return (
            f"slides in the store without their tiles' pixels: {self.kept.without}; --keep-tiles --replace ingests "
            "them again",
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
