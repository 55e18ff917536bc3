"""Does a whole ingest run at the encoder's own rate, and if not, which stage prevents it?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beph_store.encoders import load_bundle
from beph_store.engine.bench.encoder import rate, tiles_like
from beph_store.engine.choosing import choose
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.report import IngestReport, Progress
from beph_store.errors import SlideUnreadable
from beph_store.runtimes import RuntimeOptions


@dataclass(frozen=True, slots=True)
class IngestRate:
    """``encoder_alone`` tiles/s on tiles in memory, before and after the ingest, in the same process.

    ``ratio`` of the ingest's tiles/s, everything counted, to their mean; ``ratio_steady`` from the first batch to the
    last, without the start and the last commit. The limit of both is 1.
    """

    report: IngestReport
    encoder_alone: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Whole run."""
        return self.report.tiles_per_second / self._alone

    @property
    def ratio_steady(self) -> float | None:
        """First batch to last; None for a run of a single batch."""
        if not self.report.steady_seconds:
            return None
        return self.report.tiles / self.report.steady_seconds / self._alone

    @property
    def _alone(self) -> float:
        return sum(self.encoder_alone) / 2

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "encoder_alone_tiles_per_second": [round(value, 2) for value in self.encoder_alone],
            "ratio": round(self.ratio, 4),
            "ratio_steady": None if self.ratio_steady is None else round(self.ratio_steady, 4),
            **self.report.to_json(),
        }


def bench_ingest(
    paths: Sequence[str | Path],
    *,
    options: IngestOptions | None = None,
    slide_mpp: float | None = None,
    seconds: float = 5.0,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> IngestRate:
    """Ingest the slides into a store that is thrown away, between two timings of the encoder alone.

    Raises SlideUnreadable where a slide failed: a rate over what did not run means nothing.
    """
    options = options or IngestOptions()
    tell = say or (lambda line: None)
    choice = choose(
        load_bundle(options.encoder),
        runtime=options.runtime,
        precision=options.precision,
        options=RuntimeOptions(batch=options.batch),
    )
    pixels = tiles_like(choice.runtime)
    tell("the encoder alone")
    before, _ = rate(choice.runtime.stream(), pixels, seconds)
    with tempfile.TemporaryDirectory(prefix="beph-store-bench-") as folder:
        report = ingest(paths, Path(folder) / "S", options=options, slide_mpp=slide_mpp, progress=progress)
    if report.failed:
        first = report.failed[0]
        raise SlideUnreadable(
            f"{len(report.failed)} slides failed, so there is no rate: {first.error}", slide_id=first.slide_id
        )
    if not report.tiles:
        raise SlideUnreadable("no tissue on these slides, so there is no rate: bench others")
    tell("the encoder alone, again")
    after, _ = rate(choice.runtime.stream(), pixels, seconds)
    choice.runtime.close()
    return IngestRate(report, (before, after))
