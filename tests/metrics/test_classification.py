import numpy as np
import pytest
from sklearn import metrics as sk

from beph_store import metrics as m
from beph_store.errors import UsageError
from tests.metrics.data import multiplicities, probabilities, repeated


def one_vs_rest(score, p, y, weight):
    """scikit-learn's binary ``score`` of the positive class, or its mean over the classes in ``y``."""
    if p.shape[1] == 2:
        return score(y == 1, p[:, 1], sample_weight=weight)
    return np.mean([score(y == k, p[:, k], sample_weight=weight) for k in np.unique(y)])


def kappa(p, y, w):
    labels = range(p.shape[1])
    return sk.cohen_kappa_score(y, p.argmax(1), weights="quadratic", labels=labels, sample_weight=w)


ORACLE = {
    "accuracy": lambda p, y, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w),
    "balanced_accuracy": lambda p, y, w: sk.balanced_accuracy_score(y, p.argmax(1), sample_weight=w),
    "auroc": lambda p, y, w: one_vs_rest(sk.roc_auc_score, p, y, w),
    "auprc": lambda p, y, w: one_vs_rest(sk.average_precision_score, p, y, w),
    "f1_macro": lambda p, y, w: sk.f1_score(
        y, p.argmax(1), average="macro", zero_division=0, sample_weight=w
    ),
    "f1_weighted": lambda p, y, w: sk.f1_score(
        y, p.argmax(1), average="weighted", zero_division=0, sample_weight=w
    ),
    "kappa_quadratic": kappa,
    "log_loss": lambda p, y, w: sk.log_loss(y, p, labels=range(p.shape[1]), sample_weight=w),
    "brier": lambda p, y, w: sk.brier_score_loss(
        y if p.shape[1] > 2 else y == 1,
        p if p.shape[1] > 2 else p[:, 1],
        sample_weight=w,
        **({"labels": range(p.shape[1])} if p.shape[1] > 2 else {}),
    ),
}


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("name", ORACLE)
def test_equals_scikit_learn(name, classes):
    for seed, digits in [(0, 1), (1, 2), (2, 9)]:
        p, y = probabilities(97, classes, seed, digits)
        assert getattr(m, name)(p, y) == pytest.approx([ORACLE[name](p, y, None)], abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", ORACLE)
def test_draws_equal_sample_weights_and_cases_really_repeated(name, classes):
    p, y = probabilities(60, classes, seed=3)
    weights = multiplicities(60, 25, seed=4)
    values = getattr(m, name)(p, y, weights)
    assert values.shape == (25,)
    assert values == pytest.approx([ORACLE[name](p, y, row) for row in weights], abs=1e-12)
    assert values == pytest.approx([ORACLE[name](*repeated(row, p, y), None) for row in weights], abs=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "auroc", "auprc", "kappa_quadratic", "brier"])
def test_weights_need_not_be_whole(name):
    p, y = probabilities(80, 3, seed=5)
    weights = np.random.default_rng(6).random((4, 80))
    expected = [ORACLE[name](p, y, row) for row in weights]
    assert getattr(m, name)(p, y, weights) == pytest.approx(expected, abs=1e-12)


def test_macro_auroc_is_that_of_scikit_learn_one_vs_rest():
    p, y = probabilities(150, 4, seed=7)
    p /= p.sum(1, keepdims=True)
    assert m.auroc(p, y)[0] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"), abs=1e-12)


def test_per_class_figures():
    p, y = probabilities(90, 3, seed=8)
    weights = multiplicities(90, 5, seed=8)
    for b, row in enumerate(weights):
        predicted = p.argmax(1)
        recall = sk.recall_score(y, predicted, average=None, sample_weight=row)
        f1 = sk.f1_score(y, predicted, average=None, sample_weight=row)
        auroc = [sk.roc_auc_score(y == k, p[:, k], sample_weight=row) for k in range(3)]
        auprc = [sk.average_precision_score(y == k, p[:, k], sample_weight=row) for k in range(3)]
        assert m.recall_per_class(p, y, weights)[b] == pytest.approx(recall, abs=1e-12)
        assert m.f1_per_class(p, y, weights)[b] == pytest.approx(f1, abs=1e-12)
        assert m.auroc_per_class(p, y, weights)[b] == pytest.approx(auroc, abs=1e-12)
        assert m.auprc_per_class(p, y, weights)[b] == pytest.approx(auprc, abs=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_draws_without_a_class_equal_scikit_learn_on_what_is_left():
    p, y = probabilities(12, 4, seed=9)
    weights = multiplicities(12, 200, seed=9)
    short = [row for row in weights if len(np.unique(np.repeat(y, row))) < 4]
    assert len(short) > 20
    for name in ["accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"]:
        expected = [ORACLE[name](*repeated(row, p, y), None) for row in short]
        assert getattr(m, name)(p, y, short) == pytest.approx(expected, abs=1e-12)
    for name in ["auroc", "auprc"]:
        assert np.isnan(getattr(m, name)(p, y, short)).all()


def test_ties_count_half_and_constants_are_chance():
    y = np.array([0, 0, 1, 1])
    constant = np.full((4, 2), 0.5)
    assert m.auroc(constant, y) == [0.5]
    assert m.auprc(constant, y) == [0.5]
    score = np.array([0.1, 0.4, 0.4, 0.8])
    assert m.auroc(np.stack([1 - score, score], 1), y) == [(2 + 1.5) / 4]


def test_a_class_that_truth_lacks_is_nan_by_name_and_not_in_the_mean():
    p, y = probabilities(40, 3, seed=1)
    y[y == 2] = 0
    assert np.isnan(m.auroc_per_class(p, y)).tolist() == [[False, False, True]]
    assert m.auroc(p, y) == pytest.approx(m.auroc_per_class(p, y)[:, :2].mean(1))
    assert np.isnan(m.recall_per_class(p, y)).tolist() == [[False, False, True]]


def test_one_class_alone_leaves_ranking_and_kappa_undefined():
    p = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert np.isnan(m.auroc(p, np.array([0, 0])))
    assert np.isnan(m.auprc(p, np.array([0, 0])))
    assert np.isnan(m.kappa_quadratic(p, np.array([0, 0])))


def test_kappa_measures_distance_in_the_order_of_the_classes_even_if_one_is_absent():
    p = np.eye(4)[[0, 1, 1, 3, 3, 0]]
    y = np.array([0, 1, 3, 3, 1, 0])
    assert m.kappa_quadratic(p, y)[0] == pytest.approx(kappa(p, y, None), abs=1e-12)
    shrunk = sk.cohen_kappa_score(y, p.argmax(1), weights="quadratic")
    assert m.kappa_quadratic(p, y)[0] != pytest.approx(shrunk, abs=0.01)


@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_error_by_the_definition(classes):
    p, y = probabilities(120, classes, seed=11)
    weights = multiplicities(120, 6, seed=11)
    for value, row in zip(m.ece(p, y, weights), weights, strict=True):
        q, t = repeated(row, p, y)
        confidence, right = q.max(1), q.argmax(1) == t
        expected = 0.0
        for low in range(15):
            inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
            if inside.any():
                expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
        assert value == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower():
    # 9/15 and 9.5/15 lie in bins of their own: |0.6 - 0| and |0.63 - 1|, not the gap of their mean.
    p = np.array([[0.6, 0.4], [9.5 / 15, 5.5 / 15]])
    assert m.ece(p, np.array([1, 0]))[0] == pytest.approx((0.6 + 5.5 / 15) / 2)


def test_certain_and_wrong_has_a_finite_log_loss():
    p = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert m.log_loss(p, np.array([1, 1]))[0] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


@pytest.mark.parametrize(
    ("p", "y", "weights", "says"),
    [
        (np.full((3, 1), 0.5), [0, 0, 0], None, "at least two classes"),
        (np.full((3, 2), 1.5), [0, 1, 0], None, "softmax"),
        (np.full((3, 2), np.nan), [0, 1, 0], None, "softmax"),
        (np.full((3, 2), 0.5), [0, 1], None, "3 class numbers"),
        (np.full((3, 2), 0.5), [0.0, 1.0, 1.0], None, "3 class numbers"),
        (np.full((3, 2), 0.5), [0, 1, 2], None, "from 0 to 1"),
        (np.full((3, 2), 0.5), [0, 1, -1], None, "from 0 to 1"),
        (np.full((3, 2), 0.5), [0, 1, 1], np.ones((5, 4)), r"\(draws, 3\)"),
        (np.full((3, 2), 0.5), [0, 1, 1], [[1, -1, 1]], "not negative"),
        (np.full((3, 2), 0.5), [0, 1, 1], [[1, np.nan, 1]], "finite"),
    ],
)
def test_bad_input_names_the_cure(p, y, weights, says):
    with pytest.raises(UsageError, match=says):
        m.auroc(p, np.array(y), weights)
