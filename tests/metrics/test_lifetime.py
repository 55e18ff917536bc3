import lifelines
import numpy as np
import pandas as pd
import pytest
from lifelines.statistics import multivariate_logrank_test
from sksurv.compare import compare_survival
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.linear_model.coxph import BreslowEstimator
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from beph_store import metrics as m
from beph_store.errors import UsageError
from tests.metrics.data import outcomes


@pytest.mark.parametrize("n", [12, 200])
def test_kaplan_meier_equals_both_libraries(n):
    _, event, time = outcomes(n, seed=n)
    curve = m.kaplan_meier(event, time)
    times, survival, ci = kaplan_meier_estimator(event, time, conf_type="log-log")
    assert curve.times == pytest.approx(times)
    assert curve.survival == pytest.approx(survival, abs=1e-12)
    inside = (survival > 0) & (survival < 1)
    assert curve.ci_low[inside] == pytest.approx(ci[0][inside], abs=1e-9)
    assert curve.ci_high[inside] == pytest.approx(ci[1][inside], abs=1e-9)

    fitter = lifelines.KaplanMeierFitter().fit(time, event)
    table = fitter.event_table.iloc[1:]
    assert curve.survival == pytest.approx(fitter.survival_function_.to_numpy()[1:, 0], abs=1e-9)
    assert curve.at_risk.tolist() == table.at_risk.tolist()
    assert curve.events.tolist() == table.observed.tolist()
    assert curve.censored.tolist() == table.censored.tolist()
    assert curve.median == fitter.median_survival_time_


@pytest.mark.parametrize("n", [2, 4, 6, 10, 14, 22, 46])
def test_the_median_is_where_the_curve_reaches_a_half(n):
    assert m.kaplan_meier(np.ones(n, bool), np.arange(1.0, n + 1)).median == n / 2


def test_a_curve_that_stays_high_has_no_median_and_one_without_events_is_flat():
    curve = m.kaplan_meier(np.array([True, False, False]), [10.0, 20.0, 30.0])
    assert curve.median == np.inf
    flat = m.kaplan_meier(np.array([False, False]), [10.0, 20.0])
    assert (flat.survival.tolist(), flat.ci_low.tolist(), flat.ci_high.tolist()) == ([1, 1], [1, 1], [1, 1])


@pytest.mark.parametrize("groups", [2, 4])
def test_log_rank_equals_both_libraries(groups):
    risk, event, time = outcomes(180, seed=groups)
    group = np.digitize(risk, np.quantile(risk, np.arange(1, groups) / groups))
    found = m.log_rank(event, time, np.array(["a", "b", "c", "d"])[group])
    expected = multivariate_logrank_test(time, group, event)
    assert found.statistic == pytest.approx(expected.test_statistic, rel=1e-9)
    assert found.p_value == pytest.approx(expected.p_value, rel=1e-7)
    chi2, p = compare_survival(Surv.from_arrays(event, time), group)
    assert (found.statistic, found.p_value) == pytest.approx((chi2, p), rel=1e-7)
    assert found.freedom == groups - 1


def test_log_rank_needs_two_groups():
    with pytest.raises(UsageError, match="at least two"):
        m.log_rank(np.array([True, False]), [1.0, 2.0], ["all", "all"])


def test_breslow_equals_scikit_survival():
    risk, event, time = outcomes(150, seed=3)
    new = np.array([-2.0, 0.0, 1.5])
    times = np.array([0.0, 30.0, 45.0, 600.0, time.max()])
    curve = m.breslow(risk, event, time)
    estimator = BreslowEstimator().fit(risk, event, time)
    for row, function in zip(curve.survival(new, times), estimator.get_survival_function(new), strict=True):
        assert row[0] == 1
        assert row[1:] == pytest.approx(function(times[1:]), abs=1e-9)


def test_breslow_completes_a_cox_model():
    risk, event, time = outcomes(150, seed=4)
    x = risk[:, None]
    model = CoxPHSurvivalAnalysis().fit(x, Surv.from_arrays(event, time))
    curve = m.breslow(model.predict(x), event, time)
    times = np.unique(time)
    expected = np.stack([f(times) for f in model.predict_survival_function(x[:5])])
    assert curve.survival(model.predict(x[:5]), times) == pytest.approx(expected, abs=1e-9)


def test_breslow_survives_log_hazards_that_overflow_an_exponential():
    risk, event, time = outcomes(40, seed=5)
    far = m.breslow(risk + 5000, event, time)
    assert far.survival(risk + 5000, time) == pytest.approx(m.breslow(risk, event, time).survival(risk, time))
    assert far.survival([1e6], [time.max()]) == 0


def test_real_cohort_equals_lifelines(realdata):
    table = pd.read_csv(realdata / "survival_tables" / "hpl" / "LUSC_overall_survival.csv").dropna()
    event, time = table.os_event_ind.to_numpy() == 1, table.os_event_data.to_numpy(float)
    fitter = lifelines.KaplanMeierFitter().fit(time, event)
    curve = m.kaplan_meier(event, time)
    own = fitter.survival_function_.to_numpy()[:, 0][-len(curve.times) :]
    assert curve.survival == pytest.approx(own, abs=1e-9)
    assert curve.median == fitter.median_survival_time_
