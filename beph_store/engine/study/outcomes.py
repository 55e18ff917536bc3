"""What heads said of cases they had not seen, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.heads import Head
from beph_store.records import Bags, Prediction, SurvivalTarget, Target

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """One entry a (split, test case), in the order of the splits.

    ``split`` (P,) int64; ``case`` (P,) int64 positions among the study's cases; ``values`` (P, K) class
    probabilities or (P, 1) log hazards on one scale, see ``hold_out``; ``survival`` (P, M) at ``times`` (M,) days,
    None for classes.
    """

    split: NDArray[np.int64]
    case: NDArray[np.int64]
    values: F64
    survival: F64 | None
    times: F64

    def of(self, split: int) -> NDArray[np.int64]:
        """Positions of a split's entries."""
        return np.flatnonzero(self.split == split)

    def rounds(self) -> list[NDArray[np.int64]]:
        """Positions by round: successive splits until a case would be tested again.

        k folds make one round a repeat, in which every case is tested once; draws against a fixed test set make
        one round each.
        """
        rounds: list[list[int]] = []
        tested: set[int] = set()
        for split in dict.fromkeys(self.split.tolist()):
            entries = self.of(split).tolist()
            cases = {int(self.case[entry]) for entry in entries}
            if not rounds or tested & cases:
                rounds.append([])
                tested = set()
            rounds[-1] += entries
            tested |= cases
        return [np.array(entries, np.int64) for entries in rounds]

    def alive(self, entries: NDArray[np.int64], days: F64) -> F64:
        """(len(entries), len(days)) the chance to be alive at any ``days``."""
        assert self.survival is not None
        steps = np.concatenate([np.ones((len(entries), 1)), self.survival[entries]], axis=1)
        return steps[:, np.searchsorted(self.times, days, side="right")]


def hold_out(
    heads: Sequence[Head], bags: Bags, target: Target, tests: Sequence[NDArray[np.int64]]
) -> HeldOut:
    """Let ``heads[i]`` predict the bags ``tests[i]``.

    A Cox model leaves the zero of its log hazard open, so those of different folds cannot be ranked together as they
    are. Each is shifted by the log of its own baseline's cumulative hazard at the median time of the cohort's
    events: the order within a fold stays, and across folds equal values mean equal risk by then.
    """
    said = [
        (split, int(case), head, head.predict(bags.bag(int(case))))
        for split, (head, test) in enumerate(zip(heads, tests, strict=True))
        for case in test
    ]
    values = np.array([prediction.values for *_, prediction in said], np.float64)
    times: F64 = np.zeros(0)
    survival = None
    if isinstance(target, SurvivalTarget):
        times = np.unique(np.concatenate([np.asarray(head.times, np.float64) for head in heads]))
        survival = np.array([curve(head, prediction, times) for *_, head, prediction in said])
        horizon = float(np.median(target.time_days[target.event]))
        shift = [_baseline(head, prediction, horizon) for *_, head, prediction in said]
        values += np.array(shift)[:, None]
    splits = np.array([split for split, *_ in said], np.int64)
    return HeldOut(splits, np.array([case for _, case, *_ in said], np.int64), values, survival, times)


def curve(head: Head, prediction: Prediction, days: F64) -> F64:
    """(M,) survival at any ``days``: the head's own steps, 1 before the first."""
    own = np.asarray(head.times, np.float64)
    steps = np.concatenate([[1.0], np.asarray(prediction.survival, np.float64)])
    return steps[np.searchsorted(own, days, side="right")]


def _baseline(head: Head, prediction: Prediction, horizon: float) -> float:
    """Log of the head's baseline cumulative hazard at ``horizon`` days; discrete hazards have an absolute scale."""
    if head.spec.options.loss != "cox":
        return 0.0
    alive = float(curve(head, prediction, np.array([horizon]))[0])
    alive = min(max(alive, 1e-12), 1 - 1e-12)
    return float(np.log(-np.log(alive)) - prediction.values[0])
