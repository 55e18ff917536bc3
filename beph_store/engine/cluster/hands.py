"""The pipeline's stages on the nodes of a Ray cluster, in the place of `local.LocalHands`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beph_store.encoders import Bundle
from beph_store.engine.cluster.crew import Crew
from beph_store.engine.cluster.dispatch import Dispatch
from beph_store.engine.cluster.encoding import Target
from beph_store.engine.cluster.inbox import Inbox
from beph_store.engine.intake import Finish, Intake
from beph_store.engine.live import Meter
from beph_store.engine.options import IngestOptions
from beph_store.engine.plan import SlideTask
from beph_store.engine.report import Computing, Figures, ReadStats
from beph_store.store import RecipeWriter


class ClusterHands:
    """See `ingest.Hands`. Encoders are started when they are first needed; ``close`` ends them."""

    def __init__(self, ray: Any, bundle: Bundle, options: IngestOptions) -> None:
        self._ray = ray
        self._bundle = bundle
        self._options = options
        self._inbox = Inbox(ray)
        self._crew: Crew | None = None
        self._surveys = ReadStats()
        self._tiles = 0

    def choose(self, precision: str | None) -> Computing:
        """See `ingest.Hands.choose`."""
        return self._gathered(precision).choose()

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
        crew = self._gathered(writer.recipe.encoder.precision)
        crew.begin(Target(writer.layout, writer.key, writer.run, writer.recipe.encoder.dim), chosen)
        progress.clocks = crew.clocks
        dispatch = Dispatch(self._ray, self._inbox, crew, writer, intake, finish=finish, progress=progress)
        dispatch.run(tasks)
        self._surveys.add(dispatch.stats)
        self._tiles += dispatch.encoded

    def figures(self) -> Figures:
        """See `ingest.Hands.figures`."""
        if self._crew is None:
            return Figures(0, ReadStats(), {"read": 0.0, "encode": 0.0, "write": 0.0}, 0.0, 0)
        count, totals = self._crew.count(), self._crew.totals()
        read = ReadStats()
        read.add(totals.stats)
        read.add(self._surveys)
        encoders = max(1, count.encoders)
        busy = {
            "read": read.busy / max(1, count.readers),
            "encode": totals.encode / encoders,
            "write": totals.write / encoders,
        }
        computing, notes = self._crew.computing, self._crew.notes()
        return Figures(self._tiles, read, busy, totals.steady, count.readers, computing, count, notes)

    def close(self, *, orderly: bool) -> None:
        """End the encoders; where the run is broken off, what they have encoded is written first."""
        if self._crew is not None:
            self._crew.close(orderly=orderly)

    def _gathered(self, precision: str | None) -> Crew:
        if self._crew is None:
            options = self._options
            self._crew = Crew(
                self._ray,
                self._inbox,
                self._bundle,
                runtime=options.runtime,
                precision=precision,
                batch=options.batch,
                readers=options.workers,
            )
        return self._crew
