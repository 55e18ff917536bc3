"""Several encoders in one pass: a slide is read once, and each encoder gets the tiles that its recipe still lacks.

Every recipe is a run of its own, in a thread of its own: its flow, writer, record and resume are those of `ingest`.
What they share is the reading, see `sharing`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders import Bundle, load_bundle
from beph_store.engine.ingest import Run
from beph_store.engine.intake import Finish, Intake
from beph_store.engine.live import Meter
from beph_store.engine.local import LocalHands
from beph_store.engine.messages import Opened
from beph_store.engine.options import IngestOptions, make_recipe
from beph_store.engine.pipeline import Sink, Stored
from beph_store.engine.plan import SlideTask, plan
from beph_store.engine.provenance import WRITTEN_BY
from beph_store.engine.report import Computing, Figures, IngestReport, Progress, Silent
from beph_store.engine.sharing import Meeting, Share, Stopped
from beph_store.errors import UsageError
from beph_store.records import Recipe, SlideOutcome
from beph_store.runtimes import Stream
from beph_store.store import RecipeWriter, Store


@dataclass(frozen=True, slots=True)
class SeveralReport:
    """One ``IngestReport`` a recipe, in the order of the encoders; ``seconds`` of all of it together."""

    reports: tuple[IngestReport, ...]
    seconds: float

    @property
    def tiles(self) -> int:
        """Vectors made in this run, all recipes together."""
        return sum(report.tiles for report in self.reports)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``beph-store ingest --json`` with several encoders."""
        return {
            "recipes": [report.to_json() for report in self.reports],
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "tiles_per_second": round(self.tiles / self.seconds, 3) if self.seconds else 0.0,
        }


def ingest_several(
    paths: Sequence[str | Path],
    store: str | Path,
    encoders: Sequence[str],
    *,
    options: IngestOptions | None = None,
    manifest: str | Path | None = None,
    slide_mpp: float | None = None,
    progress: Progress | None = None,
) -> SeveralReport:
    """Embed every slide with each of the encoders, reading it once; resumed as ``ingest`` is, recipe by recipe.

    The recipes must share their tiles: UsageError in one line otherwise. Raises as ``ingest``; what concerns the whole
    run of one encoder ends that of all.
    """
    start = time.perf_counter()
    options = options or IngestOptions()
    _refuse_odd(options)
    tasks = plan(
        paths,
        manifest=manifest,
        slide_mpp=slide_mpp,
        staging=options.staging(),
        memory_gb=options.reader_memory_gb,
    )
    meeting = Meeting(len(encoders), options)
    locks = _Locks()
    hands = [SharedHands(_local(encoder, options), meeting, locks) for encoder in encoders]
    for one in hands:
        if one.local.options.precision == "auto":
            one.local.options = replace(one.local.options, precision=one.choose("auto").precision)
    recipes = [make_recipe(one.local.bundle, one.local.options) for one in hands]
    _require_shared_tiles(recipes)
    told = Told(progress or Silent(), [recipe.encoder.name for recipe in recipes])
    runs = [
        Run(
            Store.create(store, written_by=WRITTEN_BY),
            one.local.bundle,
            recipe,
            one.local.options,
            Meter(part),
            one,
        )
        for one, recipe, part in zip(hands, recipes, told.parts, strict=True)
    ]
    reports = _together(runs, tasks, meeting)
    return SeveralReport(reports, time.perf_counter() - start)


def _local(encoder: str, options: IngestOptions) -> LocalHands:
    bundle: Bundle = load_bundle(encoder)
    return LocalHands(bundle, replace(options, encoder=encoder))


def _refuse_odd(options: IngestOptions) -> None:
    if options.workers is not None and options.workers < 1:
        raise UsageError(f"{options.workers} reader processes: at least 1 is needed")
    if options.ray_address is not None:
        raise UsageError(
            "several encoders share one reading on one machine only: leave out --ray, or all but one"
        )
    if options.keep_tiles:
        raise UsageError(
            "pixels are kept with one recipe: pass --keep-tiles with one encoder, the others after it"
        )


def _require_shared_tiles(recipes: Sequence[Recipe]) -> None:
    first = recipes[0]
    for recipe in recipes[1:]:
        a, b = first.tile, recipe.tile
        if a != b:
            why = f"{a.tile_px} px at {a.mpp:g} µm/px, {b.tile_px} px at {b.mpp:g}"
            cure = "pass --mpp, or" if a.tile_px == b.tile_px else "they cannot share a reading:"
            raise UsageError(
                f"{first.encoder.name} and {recipe.encoder.name} take different tiles ({why}): {cure} ingest them one "
                "after the other"
            )
    keys = [recipe.key for recipe in recipes]
    if len(set(keys)) < len(keys):
        name = next(r.encoder.name for i, r in enumerate(recipes) if r.key in keys[:i])
        raise UsageError(f"{name} is named twice: once is enough")


def _together(runs: Sequence[Run], tasks: list[SlideTask], meeting: Meeting) -> tuple[IngestReport, ...]:
    """Each run in a thread of its own; the first error ends all and is raised."""
    reports: dict[int, IngestReport] = {}
    errors: list[BaseException] = []

    def go(number: int, run: Run) -> None:
        try:
            reports[number] = run(tasks)
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread
            errors.append(error)
            meeting.stop()
        finally:
            meeting.leave()

    threads = [threading.Thread(target=go, args=pair, name=f"run {pair[0]}") for pair in enumerate(runs)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # an interrupt is heard between two waits
    finally:
        if any(thread.is_alive() for thread in threads):
            meeting.stop()
        for thread in threads:
            thread.join()
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
    return tuple(reports[number] for number in range(len(runs)))


@dataclass(slots=True)
class _Locks:
    """Opening an encoder (captures of CUDA graphs do not bear company), computing on the CPU, and storing go one by
    one: two encoders that compute at a time would fight for the same cores.
    """

    opening: threading.Lock = field(default_factory=threading.Lock)
    computing: threading.Lock = field(default_factory=threading.Lock)
    storing: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class SharedHands:
    """See `ingest.Hands`: the encoder is its own, the readers are everybody's."""

    local: LocalHands
    meeting: Meeting
    locks: _Locks

    def choose(self, precision: str | None) -> Computing:
        """See `ingest.Hands.choose`."""
        with self.locks.opening:
            return self.local.choose(precision)

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
        """See `ingest.Hands.run`."""
        chosen(self.choose(writer.recipe.encoder.precision))
        share = self.meeting.arrive(tasks, writer.recipe.tile, intake)
        sink = self.local.sink(writer, share, tasks, intake, finish=finish, progress=progress)
        stream = self.local.stream()
        if stream.depth == 1:
            stream = _InTurn(stream, self.locks.computing)
        self.local.flow(share, stream, _OneByOne(sink, share, self.locks.storing), sink, progress)

    def figures(self) -> Figures:
        """See `ingest.Hands.figures`."""
        return self.local.figures()


class _InTurn:
    """A stream that computes in its caller's thread, when no other does."""

    def __init__(self, stream: Stream, turn: threading.Lock) -> None:
        self._stream = stream
        self._turn = turn
        self.depth = stream.depth

    @property
    def busy(self) -> float:
        """See ``Stream.busy``."""
        return self._stream.busy

    def buffer(self) -> NDArray[np.uint8]:
        """See ``Stream.buffer``."""
        return self._stream.buffer()

    def submit(self, count: int) -> None:
        """See ``Stream.submit``."""
        with self._turn:
            self._stream.submit(count)

    def collect(self) -> NDArray[np.float32]:
        """See ``Stream.collect``."""
        return self._stream.collect()


class _OneByOne:
    """A sink that takes while no other does, and that never leaves the readers of a slide waiting for its word."""

    def __init__(self, sink: Sink, share: Share, turn: threading.Lock) -> None:
        self._sink = sink
        self._share = share
        self._turn = turn

    def take(self, item: Stored) -> None:
        """See ``pipeline.Sink``."""
        with self._turn:
            self._sink.take(item)
        if isinstance(item, Opened):
            self._share.decline(item.slide_id)


class Told:
    """One ``Progress`` told of several runs: ``parts`` are what each of them tells."""

    def __init__(self, inner: Progress, names: Sequence[str]) -> None:
        self.inner = inner
        self._lock = threading.Lock()
        self._planned: list[tuple[int, int]] = []
        self.parts = [_Part(self, name) for name in names]

    def planned(self, slides: int, skipped: int) -> None:
        """The sum is told when all have said theirs."""
        with self._lock:
            self._planned.append((slides, skipped))
            whole = len(self._planned) == len(self.parts)
        if whole:
            self.inner.planned(*(sum(column) for column in zip(*self._planned, strict=True)))


@dataclass(frozen=True, slots=True)
class _Part:
    told: Told
    name: str

    def planned(self, slides: int, skipped: int) -> None:
        """See ``Progress``."""
        self.told.planned(slides, skipped)

    def started(self, slide_id: str, tiles: int, resumed: int) -> None:
        """See ``Progress``."""
        self.told.inner.started(self._called(slide_id), tiles, resumed)

    def advanced(self, slide_id: str, tiles: int) -> None:
        """See ``Progress``."""
        self.told.inner.advanced(self._called(slide_id), tiles)

    def finished(self, outcome: SlideOutcome) -> None:
        """See ``Progress``."""
        self.told.inner.finished(replace(outcome, slide_id=self._called(outcome.slide_id)))

    def _called(self, slide_id: str) -> str:
        return f"{slide_id} · {self.name}"
