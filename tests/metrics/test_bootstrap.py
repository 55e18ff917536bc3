import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beph_store import metrics as m
from beph_store.errors import UsageError
from beph_store.metrics import bootstrap


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32))
def test_a_draw_holds_as_many_cases_of_each_stratum_as_there_are(n, strata, seed):
    labels = np.random.default_rng(seed).integers(0, strata, n)
    drawn = m.draws(n, labels, b=7, seed=seed)
    assert drawn.dtype == np.int16
    assert drawn.shape == (7, n)
    assert drawn.min() >= 0
    for label in np.unique(labels):
        assert (drawn[:, labels == label].sum(1) == (labels == label).sum()).all()


def test_draws_are_those_of_their_seed():
    assert (m.draws(50, b=20, seed=1) == m.draws(50, b=20, seed=1)).all()
    assert (m.draws(50, b=20, seed=1) != m.draws(50, b=20, seed=2)).any()
    assert len(np.unique(m.draws(50, b=20, seed=1), axis=0)) == 20


def test_multiplicities_have_the_moments_of_drawing_with_replacement():
    drawn = m.draws(30, b=20000, seed=3).astype(float)
    # Binomial(30, 1/30): mean 1, variance 29/30; any two cases compete: covariance -1/30.
    assert drawn.mean(0) == pytest.approx(np.ones(30), abs=0.04)
    assert drawn.var(0) == pytest.approx(np.full(30, 29 / 30), abs=0.06)
    covariance = np.cov(drawn.T)
    assert covariance[~np.eye(30, dtype=bool)].mean() == pytest.approx(-1 / 30, abs=0.002)


def test_many_draws_are_made_in_blocks(monkeypatch):
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    drawn = m.draws(30, b=50, seed=3)
    assert (drawn.sum(1) == 30).all()
    assert len(np.unique(drawn, axis=0)) == 50


def test_interval_is_that_of_the_percentiles_and_leaves_the_undefined_out():
    values = np.append(np.arange(101.0), [np.nan] * 50)
    assert m.interval(values, 0.9) == pytest.approx((5, 95))
    assert all(math.isnan(end) for end in m.interval([np.nan]))
    with pytest.raises(UsageError, match="between 0 and 1"):
        m.interval(values, 95)


def test_an_estimate_counts_what_was_left_out_and_is_plain_json():
    found = m.estimate(np.array([0.5, 0.4, np.nan, 0.6]))
    assert (found.value, found.draws, found.undefined) == (0.5, 3, 1)
    empty = m.estimate(np.array([np.nan, np.nan]))
    assert json.loads(json.dumps(empty.to_json(), allow_nan=False)) == {
        "value": None,
        "ci_low": None,
        "ci_high": None,
        "draws": 1,
        "undefined": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "says"), [((0,), "at least one"), ((3, None, 0), "at least one"), ((3, [1, 2]), "3 cases")]
)
def test_bad_draws_name_the_cure(arguments, says):
    with pytest.raises(UsageError, match=says):
        m.draws(*arguments)
