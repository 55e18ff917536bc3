"""Stratified draws that are the same for a seed on every machine: whole-number arithmetic on PCG64 doubles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.join import Cohort
from beph_store.records import ClassTarget

Cases = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """``core`` (n,) int64: class, or event (1) and censored (0); ``fine`` (n,) int64: with tertiles of the time.

    ``names`` of the core groups; ``needed`` those that every part has to hold: all classes, or the events.
    """

    core: Cases
    fine: Cases
    names: tuple[str, ...]
    needed: tuple[int, ...]


def strata_of(cohort: Cohort, parts: int) -> Strata:
    """What to balance: classes, or events and censored cases.

    These are cut further at the tertiles of their times where each third has ``parts`` cases.
    """
    target = cohort.target(cohort.task)
    if isinstance(target, ClassTarget):
        # By name, so that --classes can put the classes in another order and the splits stay.
        names = tuple(sorted(target.classes))
        core = np.array([names.index(name) for name in target.classes], np.int64)[target.index]
        return Strata(core, core, names, tuple(range(len(names))))
    core = target.event.astype(np.int64)
    fine = core * 3
    for group in (0, 1):
        members = np.flatnonzero(core == group)
        if len(members) // 3 >= parts:
            by_time = members[np.argsort(target.time_days[members], kind="stable")]
            fine[by_time] += np.arange(len(members)) * 3 // len(members)
    return Strata(core, fine, ("censored case", "event"), (1,))


def generator(*seed: int) -> np.random.Generator:
    """A stream of its own for each tuple of whole numbers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def deal(strata: Strata, folds: int, rng: np.random.Generator) -> Cases:
    """(n,) int64: the fold of each case. Every stratum is spread evenly, and fold sizes differ by one at most."""
    fold = np.zeros(len(strata.fine), dtype=np.int64)
    dealt = 0
    for stratum in np.unique(strata.fine):
        members = _shuffled(np.flatnonzero(strata.fine == stratum), rng)
        fold[members] = (dealt + np.arange(len(members))) % folds
        dealt += len(members)
    return fold


def carve(members: Cases, strata: Strata, fraction: float, rng: np.random.Generator) -> tuple[Cases, Cases]:
    """(the rest, about ``fraction`` of ``members``), each in rising order, both stratified.

    Every group of three cases or more gives at least one, and none gives its last.
    """
    groups = np.unique(strata.core[members])
    counts = [int((strata.core[members] == group).sum()) for group in groups]
    wanted = _quota(counts, int(fraction * len(members) + 0.5)) if fraction > 0 else [0] * len(counts)
    taken: list[Cases] = []
    for group, count, quota in zip(groups, counts, wanted, strict=True):
        least = 1 if fraction > 0 and count >= 3 else 0
        mine = members[strata.core[members] == group]
        taken += _from_strata(mine, strata.fine, min(max(quota, least), count - 1), rng)
    part = np.sort(np.concatenate(taken)) if taken else members[:0]
    return np.setdiff1d(members, part), part


def shrink(members: Cases, strata: Strata, fraction: float, rng: np.random.Generator) -> Cases:
    """About ``fraction`` of ``members``, stratified, at least one of each stratum, in rising order.

    For one stream of random numbers a smaller fraction gives a subset of what a larger one gives.
    """
    place = np.zeros(len(members))
    strata_here = np.unique(strata.fine[members])
    for stratum in strata_here:
        mine = _shuffled(np.flatnonzero(strata.fine[members] == stratum), rng)
        place[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
        place[mine[0]] = 0.0
    count = min(len(members), max(len(strata_here), int(fraction * len(members) + 0.5)))
    return np.sort(members[np.argsort(place, kind="stable")[:count]])


def place(counts: Cases, folds: int, rng: np.random.Generator) -> Cases:
    """(G,) int64: the fold of each group of ``counts`` (G, classes), that is of a site or a case and what it holds.

    Greedily, the largest group first, each where it disturbs the balance of the classes least.
    """
    ties = rng.random(len(counts))
    order = sorted(range(len(counts)), key=lambda g: (-int(counts[g].sum()), float(ties[g])))
    total = np.maximum(counts.sum(axis=0), 1)
    held = np.zeros((folds, counts.shape[1]), dtype=np.int64)
    fold = np.zeros(len(counts), dtype=np.int64)
    for g in order:
        # What the squares of the shares grow by: least where the classes of this group are scarcest.
        growth = ((2 * held + counts[g]) * counts[g] / total).sum(axis=1)
        best = min(range(folds), key=lambda f: (float(growth[f]), int(held[f].sum()), f))
        fold[g] = best
        held[best] += counts[g]
    return fold


def _from_strata(members: Cases, fine: Cases, total: int, rng: np.random.Generator) -> list[Cases]:
    parts = [_shuffled(members[fine[members] == s], rng) for s in np.unique(fine[members])]
    quotas = _quota([len(part) for part in parts], total)
    return [part[:quota] for part, quota in zip(parts, quotas, strict=True)]


def _quota(counts: Sequence[int], total: int) -> list[int]:
    """``total`` shared out in proportion to ``counts``, by largest remainder, in whole numbers."""
    whole = sum(counts)
    total = min(total, whole)
    shares = [count * total // whole for count in counts]
    by_rest = sorted(range(len(counts)), key=lambda i: (-(counts[i] * total % whole), i))
    for i in by_rest[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _shuffled(members: Cases, rng: np.random.Generator) -> Cases:
    return members[np.argsort(rng.random(len(members)), kind="stable")]
