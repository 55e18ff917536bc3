"""The gate and the tiles it looks at."""

import hashlib

import numpy as np
import pytest

from beph_store.encoders import compare, kind_of, probe_tiles, require
from beph_store.encoders.parity import THRESHOLDS, centred_cosine, same_neighbours
from beph_store.errors import ParityFailed


@pytest.fixture
def vectors():
    """64 embeddings as encoders make them: a large common part, and small differences."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=32) * 20 + rng.normal(size=(64, 32))).astype(np.float32)


def test_the_same_is_the_same(vectors):
    report = compare(vectors, vectors, "exact")
    assert (report.mean, report.minimum, report.neighbours) == pytest.approx((1, 1, 1))
    assert report.passed
    assert require(report, "x") is report


def test_raw_cosine_lies_and_the_centred_does_not(vectors):
    rng = np.random.default_rng(1)
    gone = (vectors.mean(0) + rng.normal(size=vectors.shape)).astype(np.float32)
    raw = (vectors * gone).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(gone, axis=1)
    assert raw.min() > 0.99
    report = compare(vectors, gone, "int8")
    assert abs(report.mean) < 0.2
    assert report.neighbours < 0.4
    assert not report.passed
    with pytest.raises(ParityFailed, match=r"0\.98 is needed"):
        require(report, "the int8 graph")
    assert require(report, "the int8 graph", force=True) is report


def test_a_shift_of_all_embeddings_is_not_centred_away(vectors):
    assert compare(vectors, vectors + 3, "half").mean < 0.9


def test_one_bad_tile_shows_in_the_minimum(vectors):
    changed = vectors.copy()
    changed[5] = vectors[6]
    report = compare(vectors, changed, "exact")
    assert report.minimum < 0.9
    assert not report.passed


def test_values_that_are_not_finite_fail(vectors):
    changed = vectors.copy()
    changed[:3] = np.nan
    report = compare(vectors, changed, "half")
    assert report.minimum == -1
    assert not report.passed


def test_shapes_must_agree(vectors):
    with pytest.raises(ParityFailed, match="shape"):
        compare(vectors, vectors[:, :5], "exact")


def test_against_the_formula(vectors):
    other = vectors + np.random.default_rng(2).normal(size=vectors.shape) * 0.3
    mean = vectors.astype(np.float64).mean(0)
    for i, got in enumerate(centred_cosine(vectors, other)):
        a, b = vectors[i] - mean, other[i] - mean
        assert got == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_neighbours_ignore_the_tile_itself():
    points = np.array([[0.0, 1], [0, 0.9], [1, 0], [0.9, 0]])
    assert same_neighbours(points, points[[0, 1, 3, 2]], k=1) == 1
    assert same_neighbours(points, points[[0, 2, 1, 3]], k=1) == 0


def test_the_stricter_the_precision_the_higher_the_bar():
    assert THRESHOLDS[kind_of("fp32")] > THRESHOLDS[kind_of("bf16")] > THRESHOLDS[kind_of("int8")]
    assert kind_of("fp16") == kind_of("bf16")


def test_the_probe_is_the_same_everywhere_and_varied():
    tiles = probe_tiles(96, 16)
    assert (tiles.shape, tiles.dtype) == ((16, 96, 96, 3), np.uint8)
    assert np.array_equal(tiles[:5], probe_tiles(96, 5))
    digest = hashlib.sha256(tiles.tobytes()).hexdigest()
    assert digest.startswith(DIGEST), (
        "the probe changed: every exported bundle's reference is void; raise VERSION"
    )
    assert len(np.unique(tiles.reshape(16, -1).mean(1).round())) > 10
    assert tiles.reshape(16, -1).std(1).min() > 5


DIGEST = "bb5c8cb01f069c8b"
