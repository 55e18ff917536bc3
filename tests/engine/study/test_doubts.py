"""Few cases are said to be few; enough are not."""

from __future__ import annotations

import numpy as np

from beph_store.engine.study.doubts import CASES_A_CLASS, EVENTS, doubts
from beph_store.metrics import Estimate, evaluate_classes
from beph_store.records import ClassTarget, SurvivalTarget

SURE = Estimate(0.8, 0.7, 0.9, 1000, 0)


def _classes(*counts: int) -> ClassTarget:
    return ClassTarget(
        ("normal", "tumour", "other")[: len(counts)], np.repeat(np.arange(len(counts)), counts)
    )


def _events(events: int, censored: int) -> SurvivalTarget:
    return SurvivalTarget(np.repeat([True, False], [events, censored]), np.arange(1.0, events + censored + 1))


def test_enough_cases_raise_no_doubt() -> None:
    assert doubts(_classes(CASES_A_CLASS, 90), {"auroc": SURE}, ("auroc",)) == []
    assert doubts(_events(EVENTS, 5), {"cindex_harrell": SURE}, ("cindex_harrell",)) == []


def test_each_small_class_is_named_with_its_cases() -> None:
    (text,) = doubts(_classes(6, 40, 3), {"auroc": SURE}, ("auroc",))
    assert "6 of normal, 3 of other" in text
    assert "tumour" not in text


def test_few_events_are_counted() -> None:
    (text,) = doubts(_events(EVENTS - 1, 300), {"cindex_harrell": SURE}, ("cindex_harrell",))
    assert f"{EVENTS - 1} in {EVENTS + 299} cases" in text


def test_an_interval_without_width_is_no_certainty() -> None:
    flat = {"auroc": Estimate(1.0, 1.0, 1.0, 1000, 0), "accuracy": SURE}
    (text,) = doubts(_classes(50, 50), flat, ("auroc", "accuracy"))
    assert "AUROC 1.000 – 1.000." in text
    assert "accuracy" not in text


def test_draws_without_a_value_are_told_from_a_share_on() -> None:
    def said(undefined: int) -> list[str]:
        one = Estimate(0.7, 0.6, 0.8, 1000, undefined)
        return doubts(_events(100, 100), {"auc_t": one}, ("auc_t",))

    assert said(50) == []
    assert "time-dependent AUC in 322 of 1,000" in said(322)[0]


def test_only_the_headlines_are_judged() -> None:
    flat = Estimate(1.0, 1.0, 1.0, 1000, 900)
    assert doubts(_classes(50, 50), {"recall[other]": flat}, ("auroc",)) == []


def test_one_draw_is_no_interval() -> None:
    assert doubts(_classes(50, 50), {"auroc": Estimate(1.0, 1.0, 1.0, 1, 0)}, ("auroc",)) == []


def _held(cases: int, studies: int = 120) -> float:
    """Share of simulated studies, of so many cases a class, whose interval of an AUROC of 0.921 holds it."""
    rng, held = np.random.default_rng(0), 0
    for study in range(studies):
        score = np.concatenate([rng.normal(size=cases), rng.normal(2, size=cases)])
        positive = 1 / (1 + np.exp(-score))
        said, truth = np.stack([1 - positive, positive], 1), np.repeat([0, 1], cases)
        auroc = evaluate_classes(said, truth, ("normal", "tumour"), b=200, seed=study)["auroc"]
        held += auroc.ci_low <= 0.921 <= auroc.ci_high
    return held / studies


def test_intervals_of_few_cases_are_too_narrow_and_those_of_many_are_not() -> None:
    assert _held(CASES_A_CLASS // 2) < 0.8
    assert _held(4 * CASES_A_CLASS) > 0.9
