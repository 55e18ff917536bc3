import numpy as np
import pytest
from sklearn import metrics as sk
from sksurv.metrics import concordance_index_censored

from beph_store import metrics as m
from beph_store.errors import CohortError, UsageError
from beph_store.metrics import bootstrap, evaluate
from tests.metrics.data import outcomes, probabilities, repeated

NAMES = {
    "accuracy", "balanced_accuracy", "auroc", "auprc", "f1_macro", "f1_weighted", "kappa_quadratic",
    "log_loss", "brier", "ece",
}  # fmt: skip


def test_every_metric_equals_its_function_and_its_interval_a_loop_over_scikit_learn():
    p, y = probabilities(70, 3, seed=1)
    found = m.evaluate_classes(p, y, ["a", "b", "c"], b=60, seed=5)
    per_class = {f"{name}[{c}]" for name in ("auroc", "auprc", "recall", "f1") for c in "abc"}
    assert set(found) == NAMES | per_class
    for name in NAMES:
        assert found[name].value == pytest.approx(getattr(m, name)(p, y)[0])
        assert (found[name].draws, found[name].undefined) == (60, 0)
    assert found["auprc[b]"].value == pytest.approx(m.auprc_per_class(p, y)[0, 1])
    assert found["f1[c]"].value == pytest.approx(m.f1_per_class(p, y)[0, 2])

    drawn = m.draws(70, y, b=60, seed=5)
    looped = []
    for row in drawn:
        q, t = repeated(row, p, y)
        looped.append(np.mean([sk.roc_auc_score(t == k, q[:, k]) for k in range(3)]))
    expected = np.quantile(looped, [0.025, 0.975])
    assert (found["auroc"].ci_low, found["auroc"].ci_high) == pytest.approx(expected, abs=1e-12)


def test_two_classes_are_judged_by_the_second():
    p, y = probabilities(50, 2, seed=2)
    found = m.evaluate_classes(p, y, ["normal", "tumour"], b=20)
    assert set(found) == NAMES | {"recall[normal]", "recall[tumour]", "f1[normal]", "f1[tumour]"}
    assert found["auroc"].value == pytest.approx(sk.roc_auc_score(y, p[:, 1]))
    assert found["auprc"].value == pytest.approx(sk.average_precision_score(y, p[:, 1]))


def test_survival_metrics_equal_their_functions_and_a_loop_over_scikit_survival():
    risk, event, time = outcomes(90, seed=3)
    times = np.unique(np.quantile(time, [0.2, 0.5, 0.8]))
    chance = np.exp(-np.outer(np.exp(risk), times / 900))
    found = m.evaluate_survival(risk, event, time, chance, times, b=40, seed=6)
    assert {name: each.value for name, each in found.items()} == pytest.approx(
        {
            "cindex_harrell": m.cindex_harrell(risk, event, time)[0],
            "cindex_uno": m.cindex_uno(risk, event, time)[0],
            "cindex_uno_truncated": m.cindex_uno(risk, event, time, tau=times[-1])[0],
            "auc_t": m.auc_t(risk, event, time, times)[0][0],
            "ibs": m.integrated_brier(chance, times, event, time)[0],
        }
    )
    looped = [
        concordance_index_censored(*repeated(row, event, time, risk))[0]
        for row in m.draws(90, event, b=40, seed=6)
    ]
    harrell = found["cindex_harrell"]
    expected = np.quantile(looped, [0.025, 0.975])
    assert (harrell.ci_low, harrell.ci_high) == pytest.approx(expected, abs=1e-12)


def test_the_window_is_the_deciles_of_events_and_ends_within_follow_up():
    risk, event, time = outcomes(90, seed=4)
    grid = m.default_times(event, time)
    assert grid.tolist() == np.unique(np.quantile(time[event], np.arange(1, 10) / 10)).tolist()
    default = m.evaluate_survival(risk, event, time, b=5)
    assert set(default) == {"cindex_harrell", "cindex_uno", "cindex_uno_truncated", "auc_t"}
    late = m.evaluate_survival(risk, event, time, times=[*grid, time.max(), 1e6], b=5)
    assert late == default


def test_repeats_are_averaged_within_each_draw_of_the_cases():
    y = probabilities(60, 3, seed=5)[1]
    runs = [0.5 * probabilities(60, 3, seed=5)[0] + 0.5 * probabilities(60, 3, seed)[0] for seed in (6, 7, 8)]
    found = m.evaluate_classes(runs, y, ["a", "b", "c"], b=50, seed=1)
    weights = m.with_point(m.draws(60, y, 50, seed=1))
    expected = m.estimate(np.mean([m.auroc(run, y, weights) for run in runs], axis=0))
    assert found["auroc"] == expected


def test_repeating_the_same_predictions_does_not_narrow_the_interval():
    risk, event, time = outcomes(70, seed=9)
    once = m.evaluate_survival(risk, event, time, b=50)
    ten_times = m.evaluate_survival(np.tile(risk, (10, 1)), event, time, b=50)
    for name, each in once.items():
        assert ten_times[name].value == pytest.approx(each.value)
        assert ten_times[name].ci_low == pytest.approx(each.ci_low)
        assert ten_times[name].ci_high == pytest.approx(each.ci_high)


def test_a_repeat_counts_the_cases_that_it_predicts():
    p, y = probabilities(60, 2, seed=10)
    folds = np.full((2, 60, 2), np.nan)
    folds[0, :40], folds[1, 20:] = p[:40], p[20:]
    found = m.evaluate_classes(folds, y, ["a", "b"], b=30)
    expected = (m.auroc(p[:40], y[:40]) + m.auroc(p[20:], y[20:]))[0] / 2
    assert found["auroc"].value == pytest.approx(expected)


def test_draws_that_leave_a_repeat_without_a_class_are_counted():
    y = np.array([0, 0, 0, 1, 1, 1])
    p = np.stack([1 - y * 0.8, y * 0.8], 1)
    folds = np.full((2, 6, 2), np.nan)
    folds[0, [0, 1, 3]], folds[1, [2, 4, 5]] = p[[0, 1, 3]], p[[2, 4, 5]]
    found = m.evaluate_classes(folds, y, ["a", "b"], b=200)
    assert (found["auroc"].value, found["auroc"].ci_low, found["auroc"].ci_high) == (1, 1, 1)
    assert 50 < found["auroc"].undefined < 200


def test_blocks_of_draws_change_nothing(monkeypatch):
    p, y = probabilities(50, 3, seed=11)
    whole = m.evaluate_classes(p, y, ["a", "b", "c"], b=40)
    drawn = m.draws(50, y, 40)
    monkeypatch.setattr(evaluate, "draws", lambda *_: drawn)
    monkeypatch.setattr(bootstrap, "BLOCK", 333)
    assert m.evaluate_classes(p, y, ["a", "b", "c"], b=40) == whole


def test_a_class_without_a_case_is_undefined_by_name():
    p, y = probabilities(40, 3, seed=12)
    y[y == 2] = 1
    found = m.evaluate_classes(p, y, ["a", "b", "rare"], b=10)
    assert np.isnan(found["auroc[rare]"].value)
    assert found["auroc[rare]"].undefined == 10
    assert np.isfinite(found["auroc"].value)


EVENT, TIME = np.array([True, False, True]), np.array([1.0, 2.0, 3.0])


def test_survival_curves_must_be_of_the_cases_of_the_log_hazards():
    risk, event, time = outcomes(40, seed=13)
    times = np.quantile(time, [0.3, 0.6])
    runs, curves = np.tile(risk, (2, 1)), np.full((2, 40, 2), 0.5)
    runs[0, 3] = curves[0, 3] = np.nan
    assert "ibs" in m.evaluate_survival(runs, event, time, curves, times, b=3)
    curves[0, 3] = 0.5
    with pytest.raises(UsageError, match="the cases of log_hazard"):
        m.evaluate_survival(runs, event, time, curves, times, b=3)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: m.evaluate_classes(np.full((3, 2), 0.5), [0, 1, 1], ["a"]), UsageError, "of 1"),
        (lambda: m.evaluate_classes(np.full((3, 2), 0.5), [0, 1, 1], list("abc")), UsageError, "2 classes"),
        (lambda: m.evaluate_classes([[0.5, np.nan]] * 3, [0, 1, 1], list("ab")), UsageError, "not finite"),
        (lambda: m.evaluate_classes(np.full((4, 2), 0.5), [0, 1, 1], list("ab")), UsageError, "3 cases"),
        (lambda: m.evaluate_survival([1, np.nan, 2], EVENT, TIME), UsageError, "1 cases have no prediction"),
        (lambda: m.evaluate_survival([1, np.inf, 2], EVENT, TIME), UsageError, "not finite"),
        (
            lambda: m.evaluate_survival([[1, 2, 3], [np.nan] * 3], EVENT, TIME),
            UsageError,
            "predicts no case",
        ),
        (lambda: m.evaluate_survival([1, 2, 3], ~np.ones(3, bool), TIME), CohortError, "no event"),
        (lambda: m.evaluate_survival([1, 2, 3], EVENT, np.ones(3)), CohortError, "equal"),
        (lambda: m.evaluate_survival([1, 2, 3], EVENT, TIME, times=[9.0]), UsageError, "ends at 3"),
        (lambda: m.evaluate_survival([1, 2, 3], EVENT, TIME, np.ones((3, 2))), UsageError, "give times"),
        (
            lambda: m.evaluate_survival([1, 2, 3], EVENT, TIME, np.ones((3, 2)), [1.0, 1.5, 2.0]),
            UsageError,
            "3 times",
        ),
    ],
)
def test_bad_input_names_the_cure(call, error, says):
    with pytest.raises(error, match=says):
        call()
