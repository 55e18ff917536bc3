import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from beph_store import metrics as m
from beph_store.errors import UsageError
from tests.metrics.data import probabilities


@pytest.fixture(params=[1, 2, 9])
def scored(request):
    p, y = probabilities(80, 2, seed=request.param, digits=request.param)
    return p[:, 1], y == 1


def test_roc_points_equal_scikit_learn(scored):
    score, positive = scored
    fpr, tpr, threshold = sk.roc_curve(positive, score, drop_intermediate=False)
    found = m.roc_points(score, positive)
    assert found.false_positive == pytest.approx(fpr)
    assert found.true_positive == pytest.approx(tpr)
    assert found.threshold.tolist() == threshold.tolist()


def test_the_area_under_the_points_is_the_auroc(scored):
    score, positive = scored
    found = m.roc_points(score, positive)
    area = np.trapezoid(found.true_positive, found.false_positive)
    p = np.stack([1 - score, score], axis=1)
    assert m.auroc(p, positive.astype(int))[0] == pytest.approx(area, abs=1e-12)


def test_precision_recall_points_equal_scikit_learn(scored):
    score, positive = scored
    precision, recall, threshold = sk.precision_recall_curve(positive, score)
    found = m.pr_points(score, positive)
    assert found.precision == pytest.approx(precision[::-1])
    assert found.recall == pytest.approx(recall[::-1])
    assert found.threshold[1:].tolist() == threshold[::-1].tolist()


def test_calibration_points_equal_scikit_learn():
    p, y = probabilities(300, 2, seed=4, digits=9)
    observed, predicted = calibration_curve(y, p[:, 1], n_bins=8)
    found = m.calibration_points(p[:, 1], y == 1, bins=8)
    assert found.observed == pytest.approx(observed)
    assert found.predicted == pytest.approx(predicted)
    assert found.cases.sum() == 300


def test_a_chance_of_nought_falls_into_the_first_bin():
    found = m.calibration_points([0.0, 0.05, 0.1, 1.0], np.array([False, False, True, True]))
    assert found.cases.tolist() == [3, 1]
    assert found.observed == pytest.approx([1 / 3, 1])


def test_confusion_matrix_equals_scikit_learn_and_keeps_absent_classes():
    p, y = probabilities(60, 4, seed=5)
    y[y == 3] = 0
    found = m.confusion_matrix(p, y)
    assert found.dtype == np.int64
    assert found.tolist() == sk.confusion_matrix(y, p.argmax(1), labels=range(4)).tolist()
    assert found[3].sum() == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: m.roc_points([0.1, 0.2], np.array([True, True])), "negative"),
        (lambda: m.pr_points([0.1, 0.2], np.array([False, False])), "positive"),
        (lambda: m.roc_points([0.1, 0.2], np.array([1, 0])), "bool"),
        (lambda: m.calibration_points([0.1, 1.2], np.array([True, False])), "between 0 and 1"),
    ],
)
def test_bad_input_names_the_cure(call, says):
    with pytest.raises(UsageError, match=says):
        call()
