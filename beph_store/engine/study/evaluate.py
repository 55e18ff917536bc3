"""Figures of a training: pooled over the cases of each round, and fold by fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.study.outcomes import HeldOut
from beph_store.errors import BephStoreError
from beph_store.metrics import (
    Estimate,
    default_times,
    evaluate_classes,
    evaluate_survival,
)
from beph_store.records import ClassTarget, SurvivalTarget, Target

F64 = NDArray[np.float64]

#: What a reader looks at first, in this order.
HEADLINES = {
    "classify": (
        "auroc",
        "balanced_accuracy",
        "auprc",
        "accuracy",
        "f1_macro",
        "f1_weighted",
        "kappa_quadratic",
    ),
    "survive": ("cindex_harrell", "cindex_uno", "auc_t", "ibs"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """``metrics`` over all held-out cases with intervals; ``folds[i]`` those of split i, None where undefined."""

    metrics: Mapping[str, Estimate]
    folds: tuple[Mapping[str, float | None], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Predictions as the metrics want them: ``cases`` (n,) positions, ``values`` (R, n, K), NaN where a round has none.

    ``survival`` (R, n, M) at the study's evaluation ``times`` (M,), None for classes.
    """

    cases: NDArray[np.int64]
    values: F64
    survival: F64 | None
    times: F64 | None


def evaluate(held_out: HeldOut, target: Target, *, draws: int, seed: int) -> Evaluation:
    """Every metric of the task; intervals resample cases, the same in every round."""
    whole = panel(held_out, target, held_out.rounds())
    count = len(np.unique(held_out.split))
    folds = (_fold(panel(held_out, target, [held_out.of(i)]), target) for i in range(count))
    return Evaluation(_metrics(whole, target, draws, seed), tuple(folds))


def panel(held_out: HeldOut, target: Target, rounds: list[NDArray[np.int64]]) -> Panel:
    """The predictions of some rounds side by side."""
    cases = np.unique(held_out.case[np.concatenate(rounds)])
    times = None
    if isinstance(target, SurvivalTarget):
        times = evaluation_times(held_out, target)
    place = {int(case): i for i, case in enumerate(cases)}
    values = np.full((len(rounds), len(cases), held_out.values.shape[1]), np.nan)
    survival = None if times is None else np.full((len(rounds), len(cases), len(times)), np.nan)
    for number, entries in enumerate(rounds):
        at = [place[int(case)] for case in held_out.case[entries]]
        values[number, at] = held_out.values[entries]
        if survival is not None and times is not None:
            survival[number, at] = held_out.alive(entries, times)
    return Panel(cases, values, survival, times)


def evaluation_times(held_out: HeldOut, target: SurvivalTarget) -> F64:
    """(≤ 9,) days: the deciles of the held-out cases' event times."""
    cases = np.unique(held_out.case)
    return default_times(target.event[cases], target.time_days[cases])


def _metrics(shown: Panel, target: Target, draws: int, seed: int) -> dict[str, Estimate]:
    if isinstance(target, ClassTarget):
        return evaluate_classes(shown.values, target.index[shown.cases], target.classes, draws, seed)
    event, time = target.event[shown.cases], target.time_days[shown.cases]
    return evaluate_survival(
        shown.values[..., 0], event, time, shown.survival, shown.times, b=draws, seed=seed
    )


def _fold(shown: Panel, target: Target) -> dict[str, float | None]:
    """Point values of one fold; nothing where a metric needs a class or an event that the fold lacks."""
    try:
        estimates = _metrics(shown, target, 1, 0)
    except BephStoreError:
        return {}
    return {name: None if np.isnan(one.value) else one.value for name, one in estimates.items()}
