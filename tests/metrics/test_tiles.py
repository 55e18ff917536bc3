"""Metrics of tiles drawn by case: equal to the plain metric on tiles really repeated, and wider than tiles apart."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from beph_store.errors import UsageError
from beph_store.metrics import tiles as t
from beph_store.metrics.evaluate import evaluate_classes


def said(classes=3, cases=30, seed=0):
    """Probabilities with ties, truth and case of tiles that are alike within a case."""
    rng = np.random.default_rng(seed)
    case = np.repeat(np.arange(cases), rng.integers(1, 9, cases))
    truth = (case + (rng.random(len(case)) < 0.2)) % classes
    logits = np.round(2 * (truth[:, None] == np.arange(classes)) + rng.normal(size=(cases, classes))[case], 1)
    exp = np.exp(logits)
    return exp / exp.sum(1, keepdims=True), truth, case, tuple("abcd"[:classes])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("paired", [True, False])
def test_a_draw_is_the_metric_on_cases_really_repeated(classes, paired, monkeypatch):
    if not paired:
        monkeypatch.setattr(t, "_PAIRED_CASES", 5)
    values, truth, case, names = said(classes)
    weights = np.concatenate([np.ones((1, 30)), np.random.default_rng(1).integers(0, 3, (4, 30))])
    found = t.tile_draws(values, truth, case, names, weights)
    for number, row in enumerate(weights):
        again = np.repeat(np.arange(len(case)), row[case].astype(int))
        p, y = values[again], truth[again]
        guess = p.argmax(1)
        assert found["accuracy"][number] == pytest.approx(accuracy_score(y, guess))
        assert found["balanced_accuracy"][number] == pytest.approx(balanced_accuracy_score(y, guess))
        assert found["f1_weighted"][number] == pytest.approx(f1_score(y, guess, average="weighted"))
        assert found["log_loss"][number] == pytest.approx(log_loss(y, p))
        score, options = (p[:, 1], {}) if classes == 2 else (p, {"multi_class": "ovr"})
        assert found["auroc"][number] == pytest.approx(roc_auc_score(y, score, **options))
        assert found["recall[b]"][number] == pytest.approx((guess == y)[y == 1].mean())


def test_patient_accuracy_is_the_mean_over_patients_of_their_share():
    # Three patients with 3 of 4, 1 of 2 and 0 of 1 right: the images say 4 of 7.
    right = np.array([1, 1, 1, 0, 1, 0, 0], bool)
    truth, case = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 2])
    values = np.eye(2)[np.where(right, truth, 1 - truth)]
    assert t.patient_accuracy(values, truth, case)[0] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    found = t.tile_draws(values, truth, case, ("a", "b"), [[1, 1, 1], [2, 0, 1]])
    assert found["patient_accuracy"] == pytest.approx([(3 / 4 + 1 / 2) / 3, (3 / 4 + 3 / 4 + 0) / 3])
    assert found["accuracy"] == pytest.approx([4 / 7, 6 / 9])
    # A patient without images, as of one magnification, counts for nothing.
    assert t.tile_draws(values, truth, case, ("a", "b"), [[1, 1, 1, 5]])["patient_accuracy"] == pytest.approx(
        [5 / 12]
    )


def test_intervals_are_wider_than_if_tiles_were_drawn_apart():
    rng = np.random.default_rng(2)
    case = np.repeat(np.arange(40), 20)
    truth = case % 2
    wrong = rng.random(40) < 0.3
    values = np.eye(2)[np.where(wrong[case], 1 - truth, truth)]
    by_case = t.evaluate_tiles(values, truth, case, ("a", "b"), seed=1)["accuracy"]
    apart = evaluate_classes(values, truth, ("a", "b"), seed=1)["accuracy"]
    assert by_case.value == apart.value
    assert by_case.ci_high - by_case.ci_low > 3 * (apart.ci_high - apart.ci_low)


def test_a_class_that_a_draw_lacks_is_undefined_not_zero():
    values, truth, case, names = said(3)
    only = (held := np.array([set(truth[case == c]) == {0} for c in range(30)])).astype(float)[None]
    assert held.any()
    found = t.tile_draws(values, truth, case, names, only)
    assert np.isnan(found["recall[b]"][0])
    assert np.isnan(found["auroc"][0])
    assert found["balanced_accuracy"][0] == found["recall[a]"][0]


def test_draws_keep_the_cases_of_each_most_frequent_class():
    _, truth, case, _ = said(3)
    drawn = t.case_draws(truth, case, 50, 0)
    main = np.array([np.bincount(truth[case == c], minlength=3).argmax() for c in range(30)])
    for number in range(3):
        assert (drawn[:, main == number].sum(axis=1) == (main == number).sum()).all()


def test_rows_that_do_not_align_are_refused():
    values, truth, case, names = said(3)
    with pytest.raises(UsageError, match="one case a tile"):
        t.tile_draws(values, truth, case[:-1], names, np.ones((1, 30)))
