import json

import numpy as np
import pytest
from scipy.stats import norm

from beph_store import metrics as m
from beph_store.errors import UsageError
from tests.metrics.data import outcomes, probabilities


def delong_by_pairs(first, second, positive):
    """Difference and variance from all pairs of a positive and a negative, as DeLong et al. write it."""

    def components(score):
        gap = score[positive][:, None] - score[~positive]
        kernel = (gap > 0) + 0.5 * (gap == 0)
        return kernel.mean(1), kernel.mean(0)

    (v10_a, v01_a), (v10_b, v01_b) = components(first), components(second)
    spread = (
        np.var(v10_a - v10_b, ddof=1) / positive.sum() + np.var(v01_a - v01_b, ddof=1) / (~positive).sum()
    )
    return v10_a.mean() - v10_b.mean(), spread


@pytest.mark.parametrize("digits", [1, 12])
def test_delong_equals_all_pairs(digits):
    rng = np.random.default_rng(digits)
    positive = rng.random(200) < 0.3
    first = np.round(positive + rng.normal(size=200), digits)
    second = np.round(0.7 * positive + 0.5 * first + rng.normal(size=200), digits)
    found = m.delong(first, second, positive)
    gap, variance = delong_by_pairs(first, second, positive)
    assert found.difference == pytest.approx(gap, abs=1e-12)
    assert (found.ci_high - found.ci_low) / 2 == pytest.approx(1.959963984540054 * variance**0.5, abs=1e-12)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(gap) / variance**0.5), rel=1e-9)
    scores = np.stack([1 / (1 + np.exp(-first)), 1 / (1 + np.exp(first))], axis=1)[:, ::-1]
    assert found.a == pytest.approx(m.auroc(scores, positive.astype(int))[0], abs=1e-12)


def test_delong_is_a_level_alpha_test_where_both_are_equally_good():
    rng = np.random.default_rng(3)
    rejected = 0
    for _ in range(400):
        positive = np.arange(100) < 40
        signal = positive + 0.7 * rng.normal(size=100)
        p = m.delong(signal + rng.normal(size=100), signal + rng.normal(size=100), positive).p_value
        rejected += p < 0.05
    assert 0.02 < rejected / 400 < 0.09


def test_delong_at_the_edges():
    positive = np.array([True, True, False, False])
    perfect, constant = np.array([2.0, 3.0, 0.0, 1.0]), np.zeros(4)
    same = m.delong(perfect, perfect, positive)
    assert (same.difference, same.ci_low, same.ci_high, same.p_value) == (0, 0, 0, 1)
    apart = m.delong(perfect, constant, positive)
    assert apart.difference == 0.5
    assert np.isnan(apart.p_value)
    assert json.loads(json.dumps(apart.to_json(), allow_nan=False))["p_value"] is None
    with pytest.raises(UsageError, match="two positives"):
        m.delong(perfect, constant, np.array([True, False, False, False]))


def test_the_paired_bootstrap_uses_the_same_draws_for_both():
    p, y = probabilities(80, 3, seed=1)
    # The same predictions, one of them always 0.1 better in probability: no draw can turn the order around.
    worse = 0.9 * p + 0.1 / 3
    found = m.compare_classes(worse, p, y, ["a", "b", "c"], b=300, seed=2)
    assert found["accuracy"].difference == 0
    assert found["accuracy"].p_value == 1
    weights = m.with_point(m.draws(80, y, 300, 2))
    gaps = m.log_loss(worse, y, weights) - m.log_loss(p, y, weights)
    assert found["log_loss"].difference == pytest.approx(gaps[0])
    assert found["log_loss"].ci_low == pytest.approx(np.quantile(gaps[1:], 0.025))
    assert found["log_loss"].ci_high == pytest.approx(np.quantile(gaps[1:], 0.975))


def test_a_clear_difference_has_the_least_p_value_that_the_draws_can_show():
    y = np.arange(100) % 2
    good = np.stack([1 - y, y], axis=1).astype(float)
    chance = np.full((100, 2), 0.5)
    found = m.compare_classes(good, chance, y, ["a", "b"], b=199)["auroc"]
    assert (found.a, found.b, found.difference, found.method) == (1, 0.5, 0.5, "paired bootstrap")
    assert found.p_value == pytest.approx(2 / 200)


def test_bootstrap_and_delong_tell_the_same():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 300)
    first, second = (1 / (1 + np.exp(-(slope * y + rng.normal(size=300)))) for slope in (1.2, 0.8))
    both = [np.stack([1 - score, score], 1) for score in (first, second)]
    drawn = m.compare_classes(*both, y, ["a", "b"], b=2000)["auroc"]
    tested = m.delong(first, second, y == 1)
    assert (drawn.a, drawn.b) == pytest.approx((tested.a, tested.b))
    assert drawn.ci_low == pytest.approx(tested.ci_low, abs=0.012)
    assert drawn.ci_high == pytest.approx(tested.ci_high, abs=0.012)
    assert drawn.p_value == pytest.approx(tested.p_value, abs=0.03)


def test_survival_predictors_are_compared_on_the_same_draws():
    risk, event, time = outcomes(120, seed=6)
    noisy = risk + np.random.default_rng(99).normal(size=120) * 3
    found = m.compare_survival(risk, noisy, event, time, b=200)
    assert set(found) == {"cindex_harrell", "cindex_uno", "cindex_uno_truncated", "auc_t"}
    for name, each in found.items():
        assert each.metric == name
        assert each.difference == pytest.approx(each.a - each.b)
        assert 0 < each.ci_low < each.difference < each.ci_high
        assert each.p_value < 0.05
        assert each.draws == 200


def test_undefined_draws_are_left_out_and_counted():
    found = m.paired_bootstrap("x", [0.6, 0.7, np.nan, 0.8], [0.5, 0.5, 0.5, np.nan])
    assert (found.undefined, found.draws) == (2, 3)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.2, 0.2))
    assert np.isnan(m.paired_bootstrap("x", [0.6, np.nan], [0.5, 0.5]).p_value)


def test_different_cases_are_refused():
    p, y = probabilities(30, 2)
    missing = np.stack([p, p])
    missing[0, 3] = np.nan
    with pytest.raises(UsageError, match="identical cases"):
        m.compare_classes(missing, np.stack([p, p]), y, ["a", "b"])
    with pytest.raises(UsageError, match="same draws"):
        m.paired_bootstrap("x", [0.5, 0.6], [0.5, 0.6, 0.7])
