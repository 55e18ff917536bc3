"""What a run was: outcomes, rates, and which stage held it up."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from beph_store.records import SlideOutcome


class Progress(Protocol):
    """Told what happens during an ingest; calls come from several threads, one at a time a method."""

    def planned(self, slides: int, skipped: int) -> None:
        """So many slides in all, so many of them done already."""

    def started(self, slide_id: str, tiles: int, resumed: int) -> None:
        """A slide has ``tiles`` tiles, ``resumed`` of them from an earlier run."""

    def advanced(self, slide_id: str, tiles: int) -> None:
        """So many more tiles of a slide were encoded."""

    def finished(self, outcome: SlideOutcome) -> None:
        """A slide is over."""


class Silent:
    """Tells nobody."""

    def planned(self, slides: int, skipped: int) -> None:
        """Ignore."""

    def started(self, slide_id: str, tiles: int, resumed: int) -> None:
        """Ignore."""

    def advanced(self, slide_id: str, tiles: int) -> None:
        """Ignore."""

    def finished(self, outcome: SlideOutcome) -> None:
        """Ignore."""


@dataclass(slots=True)
class StageClock:
    """Seconds in which a stage worked rather than waited. One thread writes it."""

    busy: float = 0.0

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count the time spent inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.busy += time.perf_counter() - start


@dataclass(slots=True)
class ReadStats:
    """Summed over slides: seconds busy, compressed macro-tiles decoded, and distinct ones among them."""

    busy: float = 0.0
    decodes: int = 0
    distinct: int = 0

    def add(self, other: ReadStats) -> None:
        """Sum up."""
        self.busy += other.busy
        self.decodes += other.decodes
        self.distinct += other.distinct

    @property
    def amplification(self) -> float | None:
        """Decodes ÷ distinct macro-tiles: 1.0 = each once; None where no reader could count."""
        return self.decodes / self.distinct if self.distinct else None


@dataclass(frozen=True, slots=True)
class KeptCount:
    """Of a run's finished slides, those whose tiles' pixels the store has, and those of which it has none."""

    slides: int
    without: int


@dataclass(frozen=True, slots=True)
class Computing:
    """What computes: name of the runtime, its precision and device, ``parity`` its figures on the probe, and the
    runtimes that ``auto`` would have preferred, each with why not.
    """

    runtime: str
    precision: str
    device: str
    parity: dict[str, Any]
    passed_over: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ClusterCount:
    """What of a cluster took part: ``readers`` at most at once, ``restarts`` of encoders that were lost."""

    nodes: int
    encoders: int
    readers: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a run so far. ``busy`` seconds by stage, those of each of its workers taken for an equal share;
    ``steady`` seconds from the first batch to the last; ``workers`` that read.
    """

    tiles: int
    read: ReadStats
    busy: dict[str, float]
    steady: float
    workers: int
    computing: Computing | None = None
    cluster: ClusterCount | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IngestReport:
    """One run of ``ingest``.

    ``tiles`` encoded in this run; ``seconds`` of the whole run; ``steady_seconds`` from the first encoded
    batch to the last, which leaves out the start; ``busy`` the share of the run in which each stage worked;
    ``passed_over`` runtimes that ``auto`` would have preferred, each with why not; ``kept_tiles`` what is there of
    pixels, None where they were not asked for; ``cluster`` what of one took part, None on one machine alone.
    """

    recipe: str
    slides: tuple[SlideOutcome, ...]
    tiles: int
    seconds: float
    steady_seconds: float
    busy: dict[str, float]
    workers: int
    runtime: str
    decode_amplification: float | None
    precision: str = "fp32"
    device: str = "none"
    passed_over: tuple[tuple[str, str], ...] = ()
    run: str = ""
    notes: tuple[str, ...] = field(default=())
    kept_tiles: KeptCount | None = None
    cluster: ClusterCount | None = None

    @property
    def tiles_per_second(self) -> float:
        """Tiles of this run ÷ all its seconds, start and commit included."""
        return self.tiles / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str | None:
        """The busiest stage, None where nothing was encoded."""
        return max(self.busy, key=lambda stage: self.busy[stage]) if self.tiles else None

    @property
    def failed(self) -> list[SlideOutcome]:
        """The slides that could not be done."""
        return [outcome for outcome in self.slides if outcome.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``beph-store ingest --json``."""
        return {
            "run": self.run,
            "recipe": self.recipe,
            "slides": [dataclasses.asdict(outcome) for outcome in self.slides],
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "tiles_per_second": round(self.tiles_per_second, 3),
            "steady_seconds": round(self.steady_seconds, 3),
            "stages": {stage: {"busy": round(share, 4)} for stage, share in self.busy.items()},
            "bottleneck": self.bottleneck,
            "decode_amplification": self.decode_amplification,
            "workers": self.workers,
            "runtime": self.runtime,
            "precision": self.precision,
            "device": self.device,
            "passed_over": dict(self.passed_over),
            "kept_tiles": dataclasses.asdict(self.kept_tiles) if self.kept_tiles else None,
            "cluster": dataclasses.asdict(self.cluster) if self.cluster else None,
            "notes": list(self.notes),
        }


def count(outcomes: Sequence[SlideOutcome]) -> dict[str, int]:
    """How many slides ended how."""
    return {s: sum(o.status == s for o in outcomes) for s in ("done", "skipped", "empty", "failed")}
