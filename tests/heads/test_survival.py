"""Baseline hazards, time bins and discrete hazards."""

import numpy as np
import pytest

from beph_store.heads.survival import (
    TIMES_MAX,
    bin_edges,
    bin_index,
    breslow,
    cox_survival,
    discrete_log_hazard,
    discrete_survival,
    event_times,
)


def test_breslow_without_covariates_is_nelson_aalen():
    time = np.array([5.0, 5, 6, 7, 9, 9])
    event = np.array([True, True, False, True, True, False])
    hazard = breslow(np.zeros(6), event, time, np.array([4.0, 5, 6, 7, 8, 9, 100]))
    steps = np.cumsum([0, 2 / 6, 0, 1 / 3, 0, 1 / 2, 0])
    np.testing.assert_allclose(hazard, steps)


def test_breslow_and_the_log_hazard_share_their_zero():
    rng = np.random.default_rng(0)
    risk, time, event = rng.normal(size=40), rng.integers(1, 9, 40).astype(float), rng.random(40) < 0.6
    times = event_times(event, time)
    first = cox_survival(breslow(risk, event, time, times), 0.3)
    second = cox_survival(breslow(risk + 7, event, time, times), 7.3)
    np.testing.assert_allclose(first, second)
    huge = breslow(risk + 1000, event, time, times)
    assert np.isfinite(huge).all()


def test_event_times_are_thinned_and_keep_both_ends():
    time = np.arange(1.0, 1001)
    event = np.ones(1000, bool)
    times = event_times(event, time)
    assert len(times) <= TIMES_MAX
    assert (times[0], times[-1]) == (1.0, 1000.0)
    assert np.isin(times, time).all()


def test_bins_hold_equally_many_events_and_the_last_takes_the_rest():
    rng = np.random.default_rng(0)
    time = rng.permutation(np.arange(1.0, 401))
    event = rng.random(400) < 0.5
    edges = bin_edges(event, time, 4)
    index = bin_index(time, edges)
    counts = np.bincount(index[event], minlength=4)
    assert counts.max() - counts.min() <= 2
    assert edges[-1] == time.max()
    assert bin_index(np.array([0.5, edges[0], edges[0] + 0.1, 1e6]), edges).tolist() == [0, 0, 1, 3]


def test_coinciding_event_times_give_fewer_bins():
    edges = bin_edges(np.ones(10, bool), np.full(10, 30.0), 4)
    assert edges.tolist() == [30.0]
    assert bin_index(np.array([10.0, 30.0]), edges).tolist() == [0, 0]


def test_discrete_survival_is_the_product_of_surviving_each_interval():
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 3
    hazard = 1 / (1 + np.exp(-logits))
    alive = discrete_survival(logits)
    np.testing.assert_allclose(alive, np.cumprod(1 - hazard, axis=1))
    assert (np.diff(alive, axis=1) < 0).all()


def test_the_discrete_log_hazard_orders_as_the_summed_survival():
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 2
    risk = discrete_log_hazard(logits)
    assert (np.argsort(risk) == np.argsort(-discrete_survival(logits).sum(1))).all()
    assert np.isfinite(discrete_log_hazard(np.array([[800.0, 0], [-800, -800]]))).all()


def test_the_discrete_log_hazard_is_on_the_scale_of_a_log_hazard():
    """With one interval and proportional hazards, it grows by exactly the difference in log hazard."""
    cumulative = np.array([0.1, 0.1 * np.e, 0.1 * np.e**2])
    logits = np.log(np.expm1(cumulative))[:, None]
    assert np.diff(discrete_log_hazard(logits)) == pytest.approx([1, 1])
