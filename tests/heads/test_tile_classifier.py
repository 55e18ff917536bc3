"""The linear head in NumPy, and its two files."""

import numpy as np
import pytest

from beph_store.errors import HeadError
from beph_store.heads.tile_classifier import TileClassifier, load_classifier, save_classifier


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 5)).astype(np.float32)
    return TileClassifier(("a", "b", "c"), weight, np.array([0, 1, -1], np.float32), "tiny", "0" * 64)


def test_probabilities_are_the_softmax_of_the_logits(head):
    vectors = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float16)
    logits = vectors.astype(np.float64) @ head.weight.T.astype(np.float64) + head.bias
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.probabilities(vectors), wanted, atol=1e-6)
    with pytest.raises(HeadError, match=r"takes those of tiny, \(n, 5\)"):
        head.logits(vectors[:, :4])


def test_it_comes_back_from_its_files_and_a_changed_one_is_told(head, tmp_path):
    save_classifier(head, tmp_path)
    again = load_classifier(tmp_path)
    assert (again.weight == head.weight).all()
    assert (again.bias == head.bias).all()
    assert (again.classes, again.encoder) == (head.classes, head.encoder)
    data = bytearray((tmp_path / "classifier.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "classifier.npz").write_bytes(data)
    with pytest.raises(HeadError, match="altered"):
        load_classifier(tmp_path)
    with pytest.raises(HeadError, match="no classifier that can be read"):
        load_classifier(tmp_path / "nowhere")
