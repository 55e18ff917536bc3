"""The linear head against scikit-learn, lifelines and finite differences."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import check_grad

from beph_store.errors import HeadError
from beph_store.heads import HeadOptions, fit, fit_many
from beph_store.heads.linear import mean_embedding
from beph_store.heads.minimise import minimise
from beph_store.heads.objectives import CoxLink, softmax_link
from beph_store.records import Bags, SurvivalTarget

NONE = np.zeros(0, int)


def pooled(bags):
    return np.stack([mean_embedding(bags.bag(case)) for case in range(len(bags))])


def outputs(head, bags, cases):
    return np.stack([head.predict(bags.bag(int(case))).values for case in cases])


# ---- the minimiser ------------------------------------------------------------------------------


def test_a_batch_of_quadratics_is_solved_each_on_its_own():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(20, 6, 6)) * rng.uniform(0.1, 3, (20, 1, 1))
    hessian = roots @ roots.transpose(0, 2, 1) + 0.05 * np.eye(6)
    target = rng.normal(size=(20, 6))

    def function(x):
        off = x - target
        gradient = np.einsum("bij,bj->bi", hessian, off)
        return 0.5 * (off * gradient).sum(1), gradient

    best = minimise(function, np.zeros((20, 6)))
    assert best.converged.all()
    np.testing.assert_allclose(best.point, target, atol=1e-5)


def rosenbrock(x):
    a, b = x.T
    value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
    return value, np.stack([-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)], axis=1)


def test_a_curved_valley_needs_the_line_search():
    best = minimise(rosenbrock, np.array([[-1.2, 1.0], [3.0, -3.0], [1.0, 1.0]]))
    np.testing.assert_allclose(best.point, 1.0, atol=1e-6)


def test_a_problem_that_ran_out_of_rounds_says_so():
    best = minimise(rosenbrock, np.array([[-1.2, 1.0], [1.0, 1.0]]), rounds=3)
    assert best.converged.tolist() == [False, True]
    assert best.rounds == 3


# ---- the losses ---------------------------------------------------------------------------------


def efron(risk, event, time):
    """Efron's negative log partial likelihood, by its definition, one event time after the other."""
    total = 0.0
    for at in np.unique(time[event]):
        hit = event & (time == at)
        below, tied = np.exp(risk[time >= at]).sum(), np.exp(risk[hit]).sum()
        count = hit.sum()
        total -= risk[hit].sum() - sum(np.log(below - k / count * tied) for k in range(count))
    return total


def test_cox_is_efrons_likelihood_for_every_mask():
    rng = np.random.default_rng(1)
    time = np.sort(rng.integers(1, 8, 30)).astype(float)
    event = rng.random(30) < 0.6
    mask = (rng.random((2, 30, 4)) < 0.7).astype(float)
    risk = rng.normal(size=(2, 30, 4)) * 3
    loss, _ = CoxLink(event, time, mask).total(risk)
    for f in range(2):
        for m in range(4):
            on = mask[f, :, m] > 0
            assert loss[f, m] == pytest.approx(efron(risk[f, on, m], event[on], time[on]), abs=1e-9)


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(2)
    time, event = np.sort(rng.integers(1, 6, 20)).astype(float), rng.random(20) < 0.7
    mask = (rng.random((1, 20, 1)) < 0.8).astype(float)
    index = rng.integers(0, 3, 20)
    links = [
        (CoxLink(event, time, mask), 1),
        (softmax_link(index, 3, mask), 3),
        (softmax_link(index % 2, 1, mask * rng.uniform(0.5, 2, (1, 20, 1))), 1),
    ]
    for link, columns in links:
        shape = (1, columns, 20, 1)
        error = check_grad(
            lambda x, link=link, shape=shape: float(link(x.reshape(shape))[0][0, 0]),
            lambda x, link=link, shape=shape: link(x.reshape(shape))[1].ravel(),
            rng.normal(size=20 * columns),
        )
        assert error < 1e-6


def test_cox_survives_hazards_that_overflow():
    time, event = np.arange(1.0, 6.0), np.ones(5, bool)
    risk = np.array([900.0, -900.0, 0.0, 800.0, 1.0])[None, :, None]
    loss, gradient = CoxLink(event, time, np.ones((1, 5, 1))).total(risk)
    assert np.isfinite(gradient).all()
    assert np.isfinite(loss).all()


# ---- against the libraries ----------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dim", [8, 90])
def test_equals_scikit_learn(draw, classes, dim):
    linear_model = pytest.importorskip("sklearn.linear_model")
    cohort = draw(classes=classes, dim=dim, signal=1.0)
    train = np.arange(45)
    head = fit(HeadOptions(penalties=(0.02,)), cohort.bags, cohort.classes, train, NONE, 0)
    x = pooled(cohort.bags)
    x = (x - x[train].mean(0)) / x[train].std(0)
    reference = linear_model.LogisticRegression(C=1 / (0.02 * 45), tol=1e-10, max_iter=5000)
    expected = reference.fit(x[train], cohort.classes.index[train]).predict_proba(x)
    np.testing.assert_allclose(outputs(head, cohort.bags, range(60)), expected, atol=2e-6)


def test_balanced_is_class_weight_balanced(draw):
    linear_model = pytest.importorskip("sklearn.linear_model")
    cohort = draw(signal=1.0)
    index = cohort.classes.index
    train = np.concatenate([np.flatnonzero(index == 0)[:4], np.flatnonzero(index > 0)])
    options = HeadOptions(penalties=(0.05,), balanced=True)
    head = fit(options, cohort.bags, cohort.classes, train, NONE, 0)
    x = pooled(cohort.bags)
    x = (x - x[train].mean(0)) / x[train].std(0)
    reference = linear_model.LogisticRegression(
        C=1 / (0.05 * len(train)), tol=1e-10, max_iter=5000, class_weight="balanced"
    )
    expected = reference.fit(x[train], index[train]).predict_proba(x)
    np.testing.assert_allclose(outputs(head, cohort.bags, range(60)), expected, atol=2e-6)


def test_equals_lifelines_with_its_baseline(draw):
    lifelines = pytest.importorskip("lifelines")
    cohort = draw(dim=5)
    target = cohort.survival
    train = np.arange(50)
    # lifelines standardises with n - 1, so its penalty counts that much less in our units.
    head = fit(HeadOptions(penalties=(0.05 * 50 / 49,)), cohort.bags, target, train, NONE, 0)
    x = pooled(cohort.bags)
    table = pd.DataFrame((x - x[train].mean(0)) / x[train].std(0)).iloc[train]
    table["time"], table["event"] = target.time_days[train], target.event[train]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lifelines.CoxPHFitter(penalizer=0.05).fit(
            table, "time", "event", fit_options={"precision": 1e-12}
        )
    np.testing.assert_allclose(head.weights()["coef"][0] * x[train].std(0), reference.params_, atol=1e-7)
    baseline = reference.baseline_cumulative_hazard_["baseline cumulative hazard"].loc[list(head.times)]
    np.testing.assert_allclose(head.weights()["baseline"], baseline, rtol=1e-5)


def test_more_features_than_cases_is_the_same_solution_as_fewer(draw):
    """Repeating every feature four times leaves ridge's predictions as they are at a quarter of the norm."""
    cohort = draw(dim=8, cases=24, dtype=np.float32)
    wide = Bags(cohort.bags.case_ids, np.tile(cohort.bags.vectors, (1, 4)), cohort.bags.spans)
    for target in (cohort.classes, cohort.survival):
        narrow = fit(HeadOptions(penalties=(0.1,)), cohort.bags, target, np.arange(20), NONE, 0)
        other = fit(HeadOptions(penalties=(0.4,)), wide, target, np.arange(20), NONE, 0)
        first, second = outputs(narrow, cohort.bags, range(24)), outputs(other, wide, range(24))
        np.testing.assert_allclose(first, second, atol=1e-6)


# ---- what it is for -----------------------------------------------------------------------------


@pytest.mark.parametrize("with_val", [True, False])
def test_finds_the_planted_classes_and_nothing_in_shuffled_ones(cohort, with_val):
    train, val, test = cohort.split()
    if not with_val:
        train, val = np.concatenate([train, val]), NONE
    truth = cohort.classes.index[test]
    head = fit(HeadOptions(), cohort.bags, cohort.classes, train, val, 0)
    assert (outputs(head, cohort.bags, test).argmax(1) == truth).mean() > 0.9
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(10):
        shuffled = type(cohort.classes)(cohort.classes.classes, rng.permutation(cohort.classes.index))
        head = fit(HeadOptions(), cohort.bags, shuffled, train, val, 0)
        rates.append((outputs(head, cohort.bags, test).argmax(1) == shuffled.index[test]).mean())
    assert 0.15 < np.mean(rates) < 0.5


def test_orders_the_planted_hazards(draw, concordance):
    cohort = draw(cases=100)
    train, val, test = cohort.split()
    head = fit(HeadOptions(), cohort.bags, cohort.survival, train, val, 0)
    hazard = outputs(head, cohort.bags, test)[:, 0]
    assert concordance(hazard, cohort.survival.event[test], cohort.survival.time_days[test]) > 0.7
    shuffled = np.random.default_rng(0).permutation(100)
    noise = SurvivalTarget(cohort.survival.event[shuffled], cohort.survival.time_days[shuffled])
    head = fit(HeadOptions(), cohort.bags, noise, train, val, 0)
    hazard = outputs(head, cohort.bags, test)[:, 0]
    assert 0.25 < concordance(hazard, noise.event[test], noise.time_days[test]) < 0.75


@pytest.mark.parametrize("task", ["classes", "survival"])
def test_many_splits_at_once_are_the_same_as_one_by_one(cohort, task):
    target = getattr(cohort, task)
    train, val, _ = cohort.split()
    both = np.concatenate([train, val])
    splits = [(train, val), (both, NONE), (np.arange(20, 60), np.arange(20)), (np.arange(15, 60), NONE)]
    seen = []
    together = fit_many(HeadOptions(), cohort.bags, target, splits, 3, seen.append)
    assert sorted(p.split for p in seen) == [0, 1, 2, 3]
    for head, (a, b) in zip(together, splits, strict=True):
        alone = fit(HeadOptions(), cohort.bags, target, a, b, 3)
        assert alone.spec.penalty == head.spec.penalty
        np.testing.assert_allclose(alone.weights()["coef"], head.weights()["coef"], atol=1e-6)


def test_the_penalty_is_the_one_with_the_lowest_held_out_loss(draw):
    cohort = draw(signal=0.6, dim=40)
    train, val, _ = cohort.split((0.5, 0.3, 0.2))
    head = fit(HeadOptions(), cohort.bags, cohort.classes, train, val, 0)
    losses = []
    for penalty, reported in head.spec.grid:
        alone = fit(HeadOptions(penalties=(penalty,)), cohort.bags, cohort.classes, train, val, 0)
        chance = outputs(alone, cohort.bags, val)[np.arange(len(val)), cohort.classes.index[val]]
        losses.append(-np.log(chance).mean())
        assert losses[-1] == pytest.approx(reported, abs=1e-5)
    assert head.spec.penalty == head.spec.grid[int(np.argmin(losses))][0]
    assert head.spec.penalty not in (head.spec.grid[0][0],)


def test_held_out_cases_do_not_touch_the_solution(cohort):
    train, val, _ = cohort.split()
    options = HeadOptions(penalties=(0.1,))
    altered = cohort.bags.vectors.copy()
    for case in val:
        for start, stop in cohort.bags.spans[case]:
            altered[start:stop] *= -3
    other = Bags(cohort.bags.case_ids, altered, cohort.bags.spans)
    for target in (cohort.classes, cohort.survival):
        first = fit(options, cohort.bags, target, train, val, 0).weights()
        second = fit(options, other, target, train, val, 0).weights()
        for name in first:
            np.testing.assert_allclose(first[name], second[name], rtol=1e-9, atol=1e-12)


def test_tile_scores_average_to_the_bag(cohort):
    train, val, test = cohort.split()
    bag = cohort.bags.bag(int(test[0]))
    classes = fit(HeadOptions(), cohort.bags, cohort.classes, train, val, 0).predict(bag)
    mean = classes.tile_scores.mean(0)
    np.testing.assert_allclose(np.exp(mean) / np.exp(mean).sum(), classes.values, atol=1e-4)
    survival = fit(HeadOptions(), cohort.bags, cohort.survival, train, val, 0).predict(bag)
    assert survival.tile_scores.mean() == pytest.approx(survival.values[0], abs=1e-3)
    assert (np.diff(survival.survival) <= 0).all()
    assert 0 <= survival.survival[-1] <= survival.survival[0] <= 1


def test_a_constant_feature_is_no_trouble(cohort):
    vectors = cohort.bags.vectors.copy()
    vectors[:, 3] = 0.1
    bags = Bags(cohort.bags.case_ids, vectors, cohort.bags.spans)
    head = fit(HeadOptions(), bags, cohort.classes, np.arange(40), NONE, 0)
    assert np.isfinite(head.predict(bags.bag(50)).values).all()


def test_nll_is_refused(cohort):
    with pytest.raises(HeadError, match="cox"):
        fit(HeadOptions(loss="nll"), cohort.bags, cohort.survival, np.arange(40), NONE, 0)
