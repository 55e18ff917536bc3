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


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What one head said of its test cases: ``case`` (n,) int64; ``values`` (n, K); ``survival`` (n, M) at the head's
    own ``times`` (M,) days, None for classes.
    """

    case: NDArray[np.int64]
    values: F64
    survival: F64 | None
    times: F64


def ask(head: Head, bags: Bags, test: NDArray[np.int64]) -> Said:
    """Let a head predict the bags ``test``."""
    said = [head.predict(bags.bag(int(case))) for case in test]
    steps = [one.survival for one in said if one.survival is not None]
    return Said(
        test,
        np.array([one.values for one in said], np.float64),
        np.array(steps, np.float64) if steps else None,
        np.asarray(head.times, np.float64),
    )


def hold_out(heads: Sequence[Head], answers: Sequence[Said], target: Target) -> HeldOut:
    """One table of what every head said.

    A Cox model leaves the zero of its log hazard open, so those of different folds cannot be ranked together as they
    are. Each is shifted by the log of its own baseline's cumulative hazard at the median time of the cohort's
    events: the order within a fold stays, and across folds equal values mean equal risk by then.
    """
    answers, numbers = (
        [said for said in answers if len(said.case)],
        [number for number, said in enumerate(answers) if len(said.case)],
    )
    values = np.concatenate([said.values for said in answers])
    times: F64 = np.zeros(0)
    survival = None
    if isinstance(target, SurvivalTarget):
        times = np.unique(np.concatenate([said.times for said in answers]))
        survival = np.concatenate([_curves(said, times) for said in answers])
        horizon = float(np.median(target.time_days[target.event]))
        shift = [
            _baseline(heads[number], said, horizon) for number, said in zip(numbers, answers, strict=True)
        ]
        values += np.concatenate(shift)[:, None]
    splits = np.repeat(numbers, [len(said.case) for said in answers]).astype(np.int64)
    return HeldOut(splits, np.concatenate([said.case for said in answers]), values, survival, times)


def curve(head: Head, prediction: Prediction, days: F64) -> F64:
    """(M,) survival at any ``days``: the head's own steps, 1 before the first."""
    own = np.asarray(head.times, np.float64)
    steps = np.concatenate([[1.0], np.asarray(prediction.survival, np.float64)])
    return steps[np.searchsorted(own, days, side="right")]


def _curves(said: Said, days: F64) -> F64:
    """(n, M) of each case as ``curve``."""
    assert said.survival is not None
    steps = np.concatenate([np.ones((len(said.case), 1)), said.survival], axis=1)
    return steps[:, np.searchsorted(said.times, days, side="right")]


def _baseline(head: Head, said: Said, horizon: float) -> F64:
    """(n,) log of the head's baseline cumulative hazard at ``horizon`` days, from what it said of each case.

    Discrete hazards have an absolute scale: 0.
    """
    if head.spec.options.loss != "cox":
        return np.zeros(len(said.case))
    alive = np.clip(_curves(said, np.array([horizon]))[:, 0], 1e-12, 1 - 1e-12)
    return np.asarray(np.log(-np.log(alive)) - said.values[:, 0])
