"""The leaderboard: every entrant measured alike, and each compared with the baseline draw by draw."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import count_reasons
from beph_store.engine.leaderboard.columns import SPEED, Column, columns
from beph_store.engine.leaderboard.comparison import Comparison, Entrant, Machine, folder_of
from beph_store.engine.leaderboard.measure import Figures, Measured, measure, weights_of
from beph_store.engine.leaderboard.perturb import Strength, perturbations
from beph_store.engine.leaderboard.robust import MAX_SAMPLE, figures, kept_or_made, perturbed, sample
from beph_store.engine.leaderboard.speed import Rate, Timing, conditions, rates
from beph_store.engine.probe.run import ProbeOptions, estimates_json
from beph_store.errors import UsageError
from beph_store.metrics import Difference, Estimate, estimate, paired_bootstrap

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LeaderboardOptions:
    """``probe`` folds, shots, draws and seed for all; ``baseline`` by name, the first entrant for None; ``tiles``
    perturbed at most, by ``strength``, 0 for none; ``timing`` of the speed.
    """

    probe: ProbeOptions = field(default_factory=lambda: ProbeOptions(shots=(1, 5, 10, 25)))
    baseline: str | None = None
    tiles: int = MAX_SAMPLE
    strength: Strength = field(default_factory=Strength)
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        if self.tiles < 0 or self.timing.seconds < 0 or self.timing.rounds < 1:
            raise UsageError("perturbed tiles and seconds must be at least 0, rounds at least 1")
        if not all(1 <= q <= 95 for q in self.strength.qualities):
            raise UsageError("JPEG qualities are 1 to 95")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One encoder: ``metrics`` by column; ``missing`` column → why it has none; its ``differences`` to the baseline."""

    entrant: Entrant
    metrics: Mapping[str, Estimate]
    rate: Rate | None
    missing: Mapping[str, str]
    differences: Mapping[str, Difference]

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "name": self.entrant.name,
            **self.entrant.about,
            "metrics": estimates_json(dict(self.metrics)),
            SPEED: self.rate and self.rate.to_json(),
            "missing": dict(self.missing),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Leaderboard:
    """``rows`` best first by the linear probe; ``baseline`` their reference; ``sampled`` tiles were perturbed."""

    comparison: Comparison
    options: LeaderboardOptions
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str
    sampled: int
    taken: Mapping[int, Mapping[str, int]]
    timing: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """JSON data: ``encoders`` with ``metrics``, and ``differences`` to the ``baseline``."""
        tiles, options = self.comparison.tiles, self.options
        return {
            "encoders": [row.to_json() for row in self.rows],
            "baseline": self.baseline,
            "differences": [
                {
                    "encoder": row.entrant.name,
                    "minus": self.baseline,
                    "metrics": {name: one.to_json() for name, one in row.differences.items()},
                }
                for row in self.rows
                if row.entrant.name != self.baseline
            ],
            "columns": [dataclasses.asdict(column) for column in self.columns],
            "classes": list(tiles.classes),
            "groups": list(tiles.groups) if len(tiles.groups) > 1 else [],
            "cases": len(tiles.case_ids),
            "tiles": len(tiles),
            "tiles_labelled": tiles.found,
            "by_patient": tiles.by_patient,
            "dropped": count_reasons(tiles.dropped),
            "about": {name: value for name, value in tiles.about.items() if name != "encoder"},
            "perturbations": {
                "tiles": self.sampled,
                "seed": options.probe.seed,
                "kinds": {one.name: one.what for one in perturbations(options.strength)},
                **dataclasses.asdict(options.strength),
            },
            "few_cases": {str(n): dict(taken) for n, taken in self.taken.items()},
            "timing": dict(self.timing),
            "options": dataclasses.asdict(options),
            "notes": list(tiles.notes),
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 2),
        }


def leaderboard(
    comparison: Comparison,
    options: LeaderboardOptions,
    out: Path,
    *,
    progress: Progress | None = None,
) -> Leaderboard:
    """Measure every entrant; what is embedded on the way is kept under ``out``.

    Raises UsageError for an unknown baseline, CohortError for folds that cannot be made, HeadError where nothing can
    be learned.
    """
    began = time.perf_counter()
    tiles = comparison.tiles
    baseline = comparison.place(options.baseline)
    weights = weights_of(tiles, options.probe)
    rows = sample(tiles, options.tiles, options.probe.seed) if options.tiles else np.empty(0, np.int64)
    meter = _Meter(progress, _steps(comparison, options, len(rows)))
    measured: list[Measured | None] = []
    for entrant in comparison.entrants:
        known = entrant.vectors is not None
        measured.append(
            measure(comparison.tiles_of(entrant), options.probe, options.probe.shots, weights, meter.add)
            if known
            else None
        )
    values = [dict(one.figures) if one else {} for one in measured]
    with _Machines(comparison.entrants, options) as machines:
        for entrant, own, found in zip(comparison.entrants, values, measured, strict=True):
            if found is not None and entrant.source is not None and len(rows):
                own |= _robust(comparison, entrant, found, (out, rows, weights), options, machines, meter)
        timed = machines.timed(meter.add)
    made = columns(options.probe.shots, perturbations(options.strength))
    listed = [
        _row(entrant, own, values[baseline], timed.get(entrant.name), made)
        for entrant, own in zip(comparison.entrants, values, strict=True)
    ]
    first = next(one for one in measured if one is not None)
    return Leaderboard(
        comparison,
        options,
        made,
        tuple(sorted(listed, key=_by_probe)),
        comparison.entrants[baseline].name,
        len(rows) if any(entrant.source for entrant in comparison.entrants) else 0,
        first.taken,
        conditions(options.timing),
        tuple(_warnings(comparison, measured)),
        time.perf_counter() - began,
    )


def _robust(
    comparison: Comparison,
    entrant: Entrant,
    measured: Measured,
    shared: tuple[Path, NDArray[np.int64], NDArray[np.int16]],
    options: LeaderboardOptions,
    machines: _Machines,
    meter: _Meter,
) -> Figures:
    (out, rows, weights), source = shared, entrant.source
    assert source is not None
    seed, goal = options.probe.seed, meter.done + len(rows)

    def make() -> dict[str, NDArray[np.float32]]:
        return perturbed(source, machines.of(entrant), rows, options.strength, seed, meter.add)

    file = folder_of(out, entrant.name) / "perturbed.npz"
    changed = kept_or_made(file, source, rows, options.strength, seed, make)
    meter.add(goal - meter.done)
    own = comparison.tiles_of(entrant)
    return figures(own, rows, changed, measured.folds, options.probe, weights)


def _row(
    entrant: Entrant,
    own: Figures,
    base: Figures,
    rate: Rate | None,
    made: Sequence[Column],
) -> Row:
    keys = [column.key for column in made]
    why = entrant.missing or "not measured: --perturbed-tiles 0"
    missing = {key: why for key in keys if key not in own}
    if rate is None:
        missing[SPEED] = entrant.missing or "not measured: --speed-seconds 0"
    return Row(
        entrant,
        {key: estimate(own[key]) for key in keys if key in own},
        rate,
        missing,
        {key: paired_bootstrap(key, own[key], base[key]) for key in keys if key in own and key in base},
    )


def _by_probe(row: Row) -> float:
    found = row.metrics.get("linear.balanced_accuracy")
    return -found.value if found else np.inf


def _warnings(comparison: Comparison, measured: Sequence[Measured | None]) -> list[str]:
    """What has to be known first, each once; of an encoder's own its name before it."""
    found: dict[str, None] = {}
    several = [one.warnings for one in measured if one is not None]
    for entrant, one in zip(comparison.entrants, measured, strict=True):
        for text in one.warnings if one else ():
            common = all(text in other for other in several)
            found[text if common else f"{entrant.name}: {text}"] = None
    first = next(one for one in measured if one is not None)
    for n, taken in first.taken.items():
        fewer = [f"{name} {count}" for name, count in taken.items() if count < n]
        if fewer:
            found[
                f"With {n} cases a class, some classes gave fewer, at most half of their cases: {', '.join(fewer)}."
            ] = None
    return list(found)


def _steps(comparison: Comparison, options: LeaderboardOptions, sampled: int) -> int:
    probe, timing = options.probe, options.timing
    each = 2 * probe.folds + len(probe.shots) * probe.shot_draws + 1
    known = sum(entrant.vectors is not None for entrant in comparison.entrants)
    more = sum(entrant.source is not None for entrant in comparison.entrants)
    return known * each + more * (sampled + (timing.rounds if timing.seconds else 0))


class _Machines:
    """Opens each entrant's machine once, when it is first wanted, and closes them all."""

    def __init__(self, entrants: Sequence[Entrant], options: LeaderboardOptions) -> None:
        self._entrants, self._options = entrants, options
        self._open: dict[str, Machine] = {}

    def __enter__(self) -> _Machines:
        return self

    def __exit__(self, *error: object) -> None:
        for machine in self._open.values():
            machine.close()

    def of(self, entrant: Entrant) -> Machine:
        """The machine of an entrant that has a source."""
        assert entrant.source is not None
        if entrant.name not in self._open:
            self._open[entrant.name] = entrant.source.open()
        return self._open[entrant.name]

    def timed(self, step: Callable[[int], None]) -> dict[str, Rate]:
        """The speed of all that can be opened, by name; none where no time is given to it."""
        if not self._options.timing.seconds:
            return {}
        able = [(entrant, entrant.source) for entrant in self._entrants if entrant.source is not None]
        machines = [(self.of(entrant), source.tile_px, source.precision) for entrant, source in able]
        found = rates(machines, self._options.timing, step) if machines else []
        return {entrant.name: one for (entrant, _), one in zip(able, found, strict=True)}


class _Meter:
    """Counts steps for whoever shows them."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self.done = progress, total, 0

    def add(self, steps: int) -> None:
        self.done += steps
        if self._progress:
            self._progress(self.done, self._total)
