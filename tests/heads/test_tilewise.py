"""The linear probe against scikit-learn, its penalty by inner folds; neighbours against a plain sort."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from beph_store.errors import HeadError
from beph_store.heads import tilewise


def drawn(classes, n=240, dim=10, seed=0, noise=1.5):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % classes
    means = rng.normal(size=(classes, dim))
    vectors = (means[truth] + noise * rng.normal(size=(n, dim))) * np.linspace(0.1, 30, dim) + 5
    return vectors.astype(np.float32), truth.astype(np.int64)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("penalty", [1e-2, 1.0])
def test_it_is_logistic_regression_on_standardised_vectors(classes, penalty):
    vectors, truth = drawn(classes)
    fitted = tilewise.fit_linear(vectors, truth, classes, None, (penalty,))
    scaler = StandardScaler().fit(vectors)
    # Of two classes ours penalises the one logit, as scikit-learn does.
    oracle = LogisticRegression(C=1 / (penalty * len(truth)), tol=1e-8, max_iter=5000)
    oracle.fit(scaler.transform(vectors), truth)
    asked = drawn(classes, seed=1)[0]
    expected = oracle.predict_proba(scaler.transform(asked))
    np.testing.assert_allclose(fitted.probabilities(asked), expected, atol=2e-4)


def test_the_penalty_is_the_best_on_held_out_folds():
    vectors, truth = drawn(3, n=90, dim=40, noise=4.0)
    inner = (np.arange(90) // 3) % 4
    fitted = tilewise.fit_linear(vectors, truth, 3, inner)
    losses = {}
    for penalty, _ in fitted.grid:
        lost = 0.0
        for fold in range(4):
            out = inner == fold
            part = tilewise.fit_linear(vectors[~out], truth[~out], 3, None, (penalty,))
            # The probe standardises once, over all training rows: near enough to choose alike.
            lost -= np.log(part.probabilities(vectors[out])[np.arange(out.sum()), truth[out]]).sum()
        losses[penalty] = lost / 90
    best = min(losses, key=losses.get)
    assert fitted.penalty == best
    assert dict(fitted.grid)[best] == pytest.approx(losses[best], rel=0.05)
    assert fitted.grid[-1][0] < fitted.penalty  # a smaller one was tried and did worse
    whole = tilewise.fit_linear(vectors, truth, 3, None, (best,))
    np.testing.assert_allclose(fitted.coef, whole.coef, atol=1e-3 * np.abs(whole.coef).max())


def test_a_class_that_training_lacks_is_never_said():
    vectors, truth = drawn(4)
    some = truth != 2
    fitted = tilewise.fit_linear(vectors[some], truth[some], 4, None, (0.1,))
    said = fitted.probabilities(vectors)
    assert (said[:, 2] == 0).all()
    np.testing.assert_allclose(said.sum(axis=1), 1)


def test_one_class_and_folds_that_take_a_class_away_are_refused():
    vectors, truth = drawn(2)
    with pytest.raises(HeadError, match="of one class"):
        tilewise.fit_linear(vectors[truth == 0], truth[truth == 0], 2)
    with pytest.raises(HeadError, match="no fold can be held out"):
        tilewise.fit_linear(vectors, truth, 2, truth)


def test_votes_of_neighbours_are_those_of_a_plain_sort():
    vectors, truth = drawn(3, n=150)
    fold, pool = np.arange(150) % 5, np.arange(150) % 7 != 0
    near = tilewise.neighbours_by_fold(vectors, truth, fold, pool, 5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for folds in ([1, 2, 3, 4], [2, 4]):
        rows = np.flatnonzero(fold == 0)
        said = near.vote(rows, folds, 3, (1, 7))
        allowed = np.flatnonzero(np.isin(fold, folds) & pool)
        for number, k in enumerate((1, 7)):
            for row, votes in zip(rows, said[number], strict=True):
                cosines = unit[allowed] @ unit[row]
                best = allowed[np.argsort(-cosines)[:k]]
                weight = np.exp((unit[best] @ unit[row]) / tilewise.TEMPERATURE)
                expected = np.bincount(truth[best], weight, minlength=3) / weight.sum()
                np.testing.assert_allclose(votes, expected, atol=1e-4)
        few = tilewise.vote_among(vectors[allowed], truth[allowed], vectors[rows], 3, 7)
        np.testing.assert_allclose(few, said[1], atol=1e-5)
