import numpy as np
import pandas as pd
import pytest
from sksurv import metrics as sk
from sksurv.util import Surv

from beph_store import metrics as m
from beph_store.errors import UsageError
from beph_store.metrics import survival
from tests.metrics.data import multiplicities, outcomes, repeated

WINDOW = [0.15, 0.3, 0.5, 0.7, 0.85]


def window(time):
    return np.unique(np.quantile(time, WINDOW))


def chances(risk, times):
    """(n, M) survival curves that fit the log hazards roughly."""
    return np.exp(-np.outer(np.exp(risk), times / 900))


def oracle(risk, event, time, times, train=None):
    """Harrell, Uno, AUC(t) and its mean, integrated Brier: scikit-survival's."""
    mine = Surv.from_arrays(event, time)
    other = mine if train is None else Surv.from_arrays(*train)
    each, mean = sk.cumulative_dynamic_auc(other, mine, risk, times)
    return {
        "harrell": sk.concordance_index_censored(event, time, risk)[0],
        "uno": sk.concordance_index_ipcw(other, mine, risk, tau=times[-1])[0],
        "auc": mean,
        "each": each,
        "ibs": sk.integrated_brier_score(other, mine, chances(risk, times), times),
    }


def ours(risk, event, time, times, weights=None, train=None):
    mean, each = m.auc_t(risk, event, time, times, weights, train)
    return {
        "harrell": m.cindex_harrell(risk, event, time, weights),
        "uno": m.cindex_uno(risk, event, time, weights, times[-1], train),
        "auc": mean,
        "each": each,
        "ibs": m.integrated_brier(chances(risk, times), times, event, time, weights, train),
    }


def assert_equal(found, expected, row=0):
    for name, value in expected.items():
        assert found[name][row] == pytest.approx(value, abs=1e-9), name


def test_sign_a_higher_log_hazard_means_an_earlier_event():
    time, event = np.array([10.0, 20.0, 30.0, 40.0]), np.ones(4, bool)
    worst_first = np.array([3.0, 2.0, 1.0, 0.0])
    for metric in (m.cindex_harrell, m.cindex_uno):
        assert metric(worst_first, event, time) == [1.0]
        assert metric(-worst_first, event, time) == [0.0]
    assert m.auc_t(worst_first, event, time, [15, 25])[0] == pytest.approx([1.0])
    assert m.auc_t(-worst_first, event, time, [15, 25])[0] == pytest.approx([0.0])


@pytest.mark.parametrize("n", [25, 120, 600])
@pytest.mark.parametrize("step", [1e-6, 30.0, 200.0])
def test_equals_scikit_survival(n, step):
    for seed in range(3):
        risk, event, time = outcomes(n, seed, step)
        assert_equal(ours(risk, event, time, window(time)), oracle(risk, event, time, window(time)))


def test_draws_equal_cases_really_repeated():
    risk, event, time = outcomes(90, seed=4)
    times = window(time)[1:4]
    weights = multiplicities(90, 20, seed=4)
    found = ours(risk, event, time, times, weights)
    for b, row in enumerate(weights):
        assert_equal(found, oracle(*repeated(row, risk, event, time), times), b)


def test_the_censoring_distribution_may_come_from_training_cases():
    risk, event, time = outcomes(80, seed=5)
    _, train_event, train_time = outcomes(200, seed=6)
    train = np.append(train_event, False), np.append(train_time, time.max() + 30)
    times = window(time)
    found = ours(risk, event, time, times, train=train)
    assert_equal(found, oracle(risk, event, time, times, train))
    assert found["uno"] != pytest.approx(m.cindex_uno(risk, event, time, tau=times[-1]), abs=1e-6)


def test_training_cases_followed_too_briefly_are_refused_by_name():
    risk, event, time = outcomes(80, seed=5)
    train = np.array([True, False, False]), np.array([50.0, 100.0, 200.0])
    with pytest.raises(UsageError, match=r"followed to 200 only, but .* lower tau"):
        m.cindex_uno(risk, event, time, censoring=train)
    assert np.isfinite(m.cindex_uno(risk, event, time, tau=150.0, censoring=train))
    # At 200 itself nobody of them is left uncensored.
    time[event.argmax()] = 200.0
    with pytest.raises(UsageError, match="followed to 200 only"):
        m.cindex_uno(risk, event, time, tau=201.0, censoring=train)


def test_uno_without_tau_and_without_censoring_is_harrell():
    risk, event, time = outcomes(60, seed=7)
    everyone = np.ones_like(event)
    assert m.cindex_uno(risk, everyone, time) == pytest.approx(m.cindex_harrell(risk, everyone, time))
    last = np.where(time == time.max(), False, event)
    mine = Surv.from_arrays(last, time)
    expected = sk.concordance_index_ipcw(mine, mine, risk)[0]
    assert m.cindex_uno(risk, last, time)[0] == pytest.approx(expected, abs=1e-9)


def test_an_event_where_nobody_could_be_seen_any_more_is_undefined_until_tau_leaves_it_out():
    time, event = np.array([10.0, 20.0, 30.0, 30.0]), np.array([True, True, True, False])
    risk = np.array([3.0, 1.0, 2.0, 0.0])
    assert np.isnan(m.cindex_uno(risk, event, time))
    assert m.cindex_uno(risk, event, time, tau=30.0) == pytest.approx([5 / 5 - 1 / 5])
    thirds = np.random.default_rng(0).integers(1, 9, (200, 4)) / 3
    assert np.isnan(m.cindex_uno(risk, event, time, thirds)).all()


@pytest.mark.parametrize("tied_tol", [0.0, 1e-8, 0.25])
def test_ties_in_risk_count_half_within_the_tolerance(tied_tol):
    risk, event, time = outcomes(100, seed=8)
    expected = sk.concordance_index_censored(event, time, risk, tied_tol=tied_tol)[0]
    assert m.cindex_harrell(risk, event, time, tied_tol=tied_tol)[0] == pytest.approx(expected, abs=1e-12)


def test_an_event_is_compared_with_cases_censored_at_its_time_but_not_with_its_equals():
    time = np.array([10.0, 10.0, 10.0])
    assert m.cindex_harrell([2.0, 1.0, 3.0], np.array([True, False, True]), time) == [0.5 * 2]
    assert np.isnan(m.cindex_harrell([2.0, 1.0, 3.0], np.array([True, True, True]), time))
    assert np.isnan(m.cindex_harrell([2.0, 1.0, 3.0], np.array([False] * 3), np.array([1.0, 2, 3])))


def test_whole_and_fractional_weights_agree_across_blocks_of_events():
    risk, event, time = outcomes(1500, seed=9)
    assert event.sum() > survival.BLOCK
    weights = multiplicities(1500, 3, seed=9)
    exact = m.cindex_harrell(risk, event, time, weights)
    scaled = m.cindex_harrell(risk, event, time, weights / 3)
    assert exact == pytest.approx(scaled, abs=1e-12)
    expected = [sk.concordance_index_censored(*repeated(row, event, time, risk))[0] for row in weights]
    assert exact == pytest.approx(expected, abs=1e-12)


def test_weights_too_large_for_single_precision_lose_nothing():
    risk, event, time = outcomes(60, seed=12)
    large = multiplicities(60, 3, seed=12) * (2**21 + 1)
    expected = m.cindex_harrell(risk, event, time, large / (2**21 + 1))
    assert m.cindex_harrell(risk, event, time, large) == pytest.approx(expected, abs=1e-13)


def test_brier_at_each_time_and_beyond_follow_up():
    risk, event, time = outcomes(150, seed=10)
    times = window(time)
    mine = Surv.from_arrays(event, time)
    _, expected = sk.brier_score(mine, mine, chances(risk, times), times)
    assert m.brier_t(chances(risk, times), times, event, time)[0] == pytest.approx(expected, abs=1e-9)
    late = np.array([times[0], time.max()])
    assert np.isnan(m.integrated_brier(chances(risk, late), late, event, time))
    shorter = np.ones((2, 150))
    shorter[1, time > times[-1]] = 0
    assert np.isnan(m.integrated_brier(chances(risk, times), times, event, time, shorter)).tolist() == [0, 1]


def test_auc_at_a_time_without_cases_or_controls_is_undefined():
    risk, event, time = outcomes(50, seed=11)
    mean, each = m.auc_t(risk, event, time, [1.0, np.median(time), time.max()])
    assert np.isnan(each[0]).tolist() == [True, False, True]
    assert np.isnan(mean)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: m.cindex_harrell([1.0, 2.0], np.array([1, 0]), [1.0, 2.0]), "True = seen"),
        (lambda: m.cindex_harrell([1.0, np.nan], np.array([True, False]), [1.0, 2.0]), "not finite"),
        (lambda: m.cindex_harrell([1.0, 2.0], np.array([True, False]), [1.0, -2.0]), "negative"),
        (lambda: m.cindex_harrell([1.0, 2.0], np.array([True, False]), [1.0]), "each case"),
        (lambda: m.auc_t([1.0, 2.0], np.array([True, False]), [1.0, 2.0], [2.0, 1.0]), "rise"),
        (
            lambda: m.integrated_brier(np.ones((2, 1)), [1.0], np.array([True, False]), [1.0, 2.0]),
            "two times",
        ),
        (
            lambda: m.integrated_brier(np.ones((2, 3)), [1.0, 2.0], np.array([True, False]), [1.0, 3.0]),
            "a time a column",
        ),
        (
            lambda: m.integrated_brier(3 * np.ones((2, 2)), [1.0, 2.0], np.array([True, False]), [1.0, 3.0]),
            "chances, not hazards",
        ),
    ],
)
def test_bad_input_names_the_cure(call, says):
    with pytest.raises(UsageError, match=says):
        call()


@pytest.mark.parametrize("cohort", ["BLCA", "BRCA", "COAD", "LUSC", "PRAD", "STAD", "UCEC"])
def test_equals_scikit_survival_on_real_outcomes(realdata, cohort):
    table = pd.read_csv(realdata / "survival_tables" / "hpl" / f"{cohort}_overall_survival.csv").dropna()
    # Some real follow-up times are negative; the metrics refuse them by name.
    table = table[table.os_event_data >= 0]
    event, time = table.os_event_ind.to_numpy() == 1, table.os_event_data.to_numpy(float)
    rng = np.random.default_rng(len(table))
    # Half the case's own outcome, half noise, and tied: a middling predictor.
    risk = np.round(-np.log(time + 1) + 1.5 * rng.normal(size=len(table)), 1)
    times = np.unique(np.quantile(time, [0.2, 0.4, 0.6, 0.8]))
    assert_equal(ours(risk, event, time, times), oracle(risk, event, time, times))
