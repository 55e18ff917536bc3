"""The pipeline on this machine alone: reader processes, the encoder in this process, the store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from beph_store.encoders import Bundle
from beph_store.engine import pipeline
from beph_store.engine.choosing import Choice, choose
from beph_store.engine.intake import Finish, Intake
from beph_store.engine.live import Meter
from beph_store.engine.options import IngestOptions, default_workers
from beph_store.engine.plan import SlideTask
from beph_store.engine.readers import ReaderPool
from beph_store.engine.report import Computing, Figures, ReadStats
from beph_store.engine.staging import FetchAhead
from beph_store.engine.storing import Readers, SlideSink
from beph_store.runtimes import RuntimeOptions, Stream
from beph_store.store import RecipeWriter


@dataclass(slots=True)
class LocalHands:
    """See `ingest.Hands`."""

    bundle: Bundle
    options: IngestOptions
    _choice: Choice | None = None
    _tiles: int = 0
    _read: ReadStats = field(default_factory=ReadStats)
    _busy: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "write": 0.0})
    _steady: float = 0.0

    def choose(self, precision: str | None) -> Computing:
        """See `ingest.Hands.choose`."""
        if self._choice is None:
            wanted = RuntimeOptions(batch=self.options.batch)
            self._choice = choose(
                self.bundle, runtime=self.options.runtime, precision=precision, options=wanted
            )
        return self._choice.computing

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
        recipe = writer.recipe
        ahead = FetchAhead(
            tasks, recipe.tile, workers=self._workers, ahead=self.options.slides_ahead, admit=intake.admit
        )
        pool = ReaderPool(tasks, recipe.tile, workers=self._workers, admit=ahead.admit)
        chosen(self.choose(recipe.encoder.precision))  # loads while the readers start
        sink = self.sink(writer, pool, tasks, intake, finish=finish, progress=progress)
        with closing(ahead):
            self.flow(pool, self.stream(), sink, sink, progress)

    def stream(self) -> Stream:
        """A stream of the runtime that was chosen."""
        assert self._choice is not None
        return self._choice.runtime.stream()

    def sink(
        self,
        writer: RecipeWriter,
        pool: Readers,
        tasks: list[SlideTask],
        intake: Intake,
        *,
        finish: Finish,
        progress: Meter,
    ) -> SlideSink:
        """Where the encoded tiles of these tasks go."""
        by_id = {task.slide_id: task for task in tasks}
        return SlideSink(writer, pool, by_id, replaced=intake.replaced, finish=finish, progress=progress)

    def flow(
        self, pool: pipeline.Pool, stream: Stream, taking: pipeline.Sink, sink: SlideSink, progress: Meter
    ) -> None:
        """Run the pipeline into ``taking``, which is ``sink`` or stands before it, and count what came of it."""
        keep = self.options.keep_tiles
        clocks = progress.clocks = pipeline.Clocks()
        pipeline.run(pool, stream, taking, dim=self.bundle.spec.dim, keep=keep, clocks=clocks)
        self._read.add(sink.stats)
        self._tiles += sink.encoded
        self._busy["encode"] += clocks.encode
        self._busy["write"] += clocks.write.busy
        if keep:
            self._busy["keep"] = self._busy.get("keep", 0.0) + clocks.keep.busy
        self._steady += (clocks.last or 0.0) - (clocks.first or 0.0)

    def figures(self) -> Figures:
        """See `ingest.Hands.figures`."""
        computing = self._choice.computing if self._choice else None
        busy = {"read": self._read.busy / self._workers, **self._busy}
        return Figures(self._tiles, self._read, busy, self._steady, self._workers, computing)

    @property
    def _workers(self) -> int:
        return self.options.workers or default_workers()
