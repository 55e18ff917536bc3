"""When there are too few cases for the figures to be believed, said in words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from beph_store.engine.study.wording import TITLES
from beph_store.metrics import Estimate
from beph_store.records import ClassTarget, SurvivalTarget, Target

#: Cases of each class from which an interval is taken at its word: in simulated studies (normal scores, a true AUROC of
#: 0.76 and of 0.92) the 95 % interval held the true value in 74 and 38 % with 3 cases a class, 90 and 73 % with 6, 94
#: and 86 % with 10; it had no width in 24 and 62 %, 3 and 26 %, 0 and 7 %.
CASES_A_CLASS = 10
#: Likewise for Harrell's C (a true one of 0.74, half of the cases censored): the interval held it in 86 % of studies of
#: 5 events, 90 % of 10, 91 % of 20, 93 % of 40, and was 0.55, 0.35, 0.24 and 0.17 wide.
EVENTS = 20
#: Draws without a value are those in which something rare was missing, so an interval of the others leaves out the
#: unlucky samples: from here on more of them than a 95 % interval cuts off at its two ends.
UNDEFINED_SHARE = 0.05


def doubts(target: Target, metrics: Mapping[str, Estimate], headlines: tuple[str, ...]) -> list[str]:
    """Sentences about the ``headlines`` among ``metrics``; none where there are cases enough."""
    shown = {name: metrics[name] for name in headlines if name in metrics}
    few = _few_events(target) if isinstance(target, SurvivalTarget) else _few_cases(target)
    return [*few, *_without_width(shown), *_undefined(shown)]


def _few_cases(target: ClassTarget) -> list[str]:
    counts = np.bincount(target.index, minlength=len(target.classes))
    small = [(int(n), name) for n, name in zip(counts, target.classes, strict=True) if 0 < n < CASES_A_CLASS]
    if not small:
        return []
    listed = ", ".join(f"{n} of {name}" for n, name in small)
    return [
        f"Few cases: {listed}. Below {CASES_A_CLASS} a class one patient more or less changes every figure, and the "
        "intervals are too narrow. Take them for a trial of the method, not for a measure of how well it works."
    ]


def _few_events(target: SurvivalTarget) -> list[str]:
    events, cases = int(target.event.sum()), len(target.event)
    if events >= EVENTS:
        return []
    return [
        f"Few events: {events} in {cases} cases. Below {EVENTS} one patient more or less changes every figure, and the "
        "intervals are too narrow. Take them for a trial of the method, not for a measure of how well it works."
    ]


def _without_width(shown: Mapping[str, Estimate]) -> list[str]:
    flat = [(name, one) for name, one in shown.items() if one.draws > 1 and one.ci_low == one.ci_high]
    if not flat:
        return []
    listed = "; ".join(
        f"{TITLES.get(name, name)} {one.ci_low:.3f} – {one.ci_high:.3f}" for name, one in flat[:2]
    )
    listed += f"; and {len(flat) - 2} more" if len(flat) > 2 else ""
    return [
        f"Intervals without width: {listed}. Every resample of these cases gives that value, as happens where all of "
        "them come out right, or all alike. It is no certainty: new patients may bring mistakes, and such an interval "
        "cannot say how many."
    ]


def _undefined(shown: Mapping[str, Estimate]) -> list[str]:
    often = [
        f"{TITLES.get(name, name)} in {one.undefined:,} of {one.draws:,}"
        for name, one in shown.items()
        if one.draws > 1 and one.undefined > UNDEFINED_SHARE * one.draws
    ]
    if not often:
        return []
    return [
        f"Resamples without a value: {', '.join(often)}, because too few cases were left to compare at some time. The "
        "interval is that of the luckier ones: do not report it."
    ]
