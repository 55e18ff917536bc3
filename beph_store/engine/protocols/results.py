"""What a protocol finds, as plain data. It leaves behind, and goes on from:

OUT/protocol.json                       everything, written last
OUT/report.html                         the table, the plot, the leaks
OUT/results/<encoder>/p<share>/         what `train` or `probe` writes
OUT/results/<encoder>/p<share>.json     its figures, with a key over all that they depend on
OUT/results/<encoder>/p<share>-<other>.json   the same for a comparison
OUT/encoders/, OUT/store/, OUT/splits/  bundles exported, slides ingested, splits used

Links in the report and ``folder`` are relative to OUT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beph_store.engine.protocols.options import Job
from beph_store.engine.protocols.subjects import Subject
from beph_store.engine.protocols.table import BASELINES, NOT_STATED
from beph_store.metrics import Difference

#: Cases of a class, or events, in a test set below which its figures come with a warning.
FEW = 5
RESULT, REPORT = "protocol.json", "report.html"


@dataclass(frozen=True, slots=True)
class Result:
    """One encoder at one share of the training data.

    ``metrics`` name → {mean, ci_low, ci_high, …}, over all held-out cases; ``parts`` name → its value in each draw,
    fold or magnification (``over`` says which); ``cases`` tested or trained on; ``tested`` the fewest of each class (or
    with an event) in any test set, empty where all cases are tested together; ``folder`` what was written; ``again``
    from an earlier run.
    """

    encoder: str
    fraction: int
    metrics: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, Sequence[float]]
    over: str
    cases: int
    tested: Mapping[str, int]
    folder: str
    again: bool = False

    def mean_sd(self, metric: str) -> tuple[float, float]:
        """Mean and sample standard deviation over the parts; NaN where there are too few."""
        values = np.array(self.parts.get(metric, ()), np.float64)
        mean = float(values.mean()) if len(values) else math.nan
        return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan

    def to_json(self) -> dict[str, Any]:
        """JSON data; ``spread`` name → {mean, sd, n} over the parts."""
        spread = {}
        for name, values in self.parts.items():
            mean, sd = self.mean_sd(name)
            spread[name] = {"mean": known(mean), "sd": known(sd), "n": len(values)}
        return {
            "encoder": self.encoder,
            "fraction": self.fraction,
            "metrics": dict(self.metrics),
            "spread": spread,
            "over": self.over,
            "cases": self.cases,
            "tested": dict(self.tested),
            "folder": self.folder,
            "again": self.again,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """``first`` minus ``second`` on the same cases, of the headline metric at one share of the training data.

    ``role`` of the second, if it is a baseline of the paper; ``stated`` what the abstract says of BEPH against it.
    """

    fraction: int
    first: str
    second: str
    role: str
    stated: str
    metric: str
    difference: Difference

    @property
    def percent(self) -> float:
        """The difference as a share of the second's value, per cent."""
        d = self.difference
        return 100 * d.difference / d.b if d.b else math.nan

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "fraction": self.fraction,
            "first": self.first,
            "second": self.second,
            "role": self.role or None,
            "stated": self.stated,
            "percent": known(self.percent),
            **self.difference.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Data:
    """What the figures stand on.

    ``counts`` such as cases of each class; ``dropped`` reason → how often; ``leaks`` of splits handed over, a sentence
    each; ``broken`` slides or images that could not be used, with their reasons; ``notes`` for the reader.
    """

    counts: Mapping[str, int]
    dropped: Mapping[str, int]
    leaks: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run."""

    job: Job
    subjects: tuple[Subject, ...]
    data: Data
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def failed(self) -> list[str]:
        """What could not be done, a line each."""
        return [*(f"{one.name}: {one.error}" for one in self.subjects if not one.ok), *self.data.broken]

    def result(self, encoder: str, fraction: int) -> Result | None:
        """The figures of an encoder at a share, if it has any."""
        return next((r for r in self.results if (r.encoder, r.fraction) == (encoder, fraction)), None)

    def to_json(self) -> dict[str, Any]:
        """The object of ``--json`` and of ``protocol.json``."""
        protocol = self.job.protocol
        return {
            "ok": not self.failed,
            "protocol": protocol.name,
            "level": protocol.level,
            "headline": protocol.headline[0],
            "splits": "as published" if self.job.options.as_published else self._splits(),
            "out": str(self.job.out),
            "report": str(self.job.out / REPORT),
            "job": self.job.to_json(),
            "encoders": [subject.to_json() for subject in self.subjects],
            "results": [result.to_json() for result in self.results],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "published": {one.title: protocol.stated(one) for one in BASELINES},
            "counts": dict(self.data.counts),
            "dropped": dict(self.data.dropped),
            "leaks": list(self.data.leaks),
            "notes": list(self.data.notes),
            "failed": self.failed,
        }

    def _splits(self) -> str:
        if self.job.options.splits is not None:
            return "given, without leaks"
        return "by image" if self.job.protocol.layout == "lc25000" else "by case"


def few_tested(results: Sequence[Result]) -> list[str]:
    """A note where a test set is so small that its figures say little."""
    fewest: dict[str, int] = {}
    for result in results:
        for name, count in result.tested.items():
            fewest[name] = min(count, fewest.get(name, count))
    few = [f"{name} {count}" for name, count in fewest.items() if count < FEW]
    if not few:
        return []
    return [
        f"A test set holds very few cases ({', '.join(few)}): its figures jump, and their intervals are too narrow."
    ]


def difference(value: Mapping[str, Any]) -> Difference:
    """A difference back from its JSON; what is undefined is NaN again."""
    numbers: dict[str, Any] = {name: math.nan if number is None else number for name, number in value.items()}
    return Difference(**numbers)


def compared(job: Job, subject: Subject, first: str, fraction: int, difference: Difference) -> Comparison:
    """The comparison of ``first`` with a subject, and what the abstract states of it."""
    baseline = next((one for one in BASELINES if one.title == subject.role), None)
    stated = job.protocol.stated(baseline) if baseline else NOT_STATED
    return Comparison(
        fraction, first, subject.name, subject.role, stated, job.protocol.headline[0], difference
    )


def known(value: float) -> float | None:
    """None for what is undefined, as JSON has no NaN."""
    return None if math.isnan(value) else value
