"""Sampling is even and repeatable, the figures of trust are scikit-learn's, and a method that is absent says so."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from beph_store.errors import MissingExtra, SearchError, UsageError
from beph_store.search import projection
from beph_store.search.projection import METHODS, judge, project, sample_evenly


def clouds(n: int = 60, dim: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three directions with noise around each; (3n, dim) and which is which."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(3), n)
    return (np.eye(dim)[kind] + rng.normal(scale=0.15, size=(3 * n, dim))).astype(np.float16), kind


def test_a_sample_is_even_over_groups_and_small_ones_give_all() -> None:
    group = np.repeat([0, 1, 2, 3], [500, 5, 300, 40])
    rows = sample_evenly(group, 245, seed=1)
    assert np.bincount(group[rows]).tolist() == [100, 5, 100, 40]
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 844, 845, 9999])
def test_a_sample_has_the_size_asked_for_and_sees_every_group_that_it_can(size: int) -> None:
    group = np.repeat([0, 1, 2, 3], [500, 5, 300, 40])
    rows = sample_evenly(group, size)
    assert len(rows) == min(size, 845) == len(set(rows.tolist()))
    assert len(np.unique(group[rows])) == min(size, 4)


def test_a_sample_is_the_seeds_alone() -> None:
    group = np.tile([2, 0, 1], 100)
    np.testing.assert_array_equal(sample_evenly(group, 50, 7), sample_evenly(group, 50, 7))
    assert (sample_evenly(group, 50, 7) != sample_evenly(group, 50, 8)).any()
    assert len(sample_evenly(np.empty(0, int), 5)) == 0
    with pytest.raises(UsageError, match="--sample"):
        sample_evenly(group, 0)


@pytest.mark.parametrize("k", [1, 5, 15])
def test_trustworthiness_is_scikit_learns(k: int, monkeypatch) -> None:
    """Whatever the size of the blocks that it is computed in."""
    vectors, _ = clouds()
    points = np.random.default_rng(1).normal(size=(len(vectors), 2)) + vectors[:, :2].astype(float)
    monkeypatch.setattr(projection, "_BLOCK_BYTES", 4 * len(vectors) * 7)
    found = judge(vectors, points, k)
    expected = trustworthiness(vectors.astype(np.float64), points, n_neighbors=k, metric="cosine")
    assert found.trustworthiness == pytest.approx(expected, abs=1e-6)
    assert 0 <= found.kept < 0.9


def test_the_figures_know_a_perfect_map_from_a_random_one() -> None:
    angle = np.sort(np.random.default_rng(0).uniform(0, 2 * np.pi, 200))
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert judge(circle, circle).trustworthiness == 1
    assert judge(circle, circle).kept == 1
    random = judge(circle, np.random.default_rng(1).permutation(circle))
    assert random.trustworthiness == pytest.approx(0.5, abs=0.08)
    assert random.kept < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_a_layout_is_repeatable_in_the_unit_square_and_keeps_the_clouds_apart(method: str) -> None:
    vectors, kind = clouds()
    points = project(vectors, method, seed=3)
    np.testing.assert_array_equal(points, project(vectors, method, seed=3))
    assert points.dtype == np.float32
    assert points.min() >= -1e-6
    assert points.max() <= 1 + 1e-6
    away = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(away, np.inf)
    votes = kind[np.argsort(away, axis=1)[:, :5]]
    assert (np.median(votes, axis=1) == kind).mean() > 0.95
    assert judge(vectors, points).trustworthiness > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_the_least_that_makes_a_map(method: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(projection.MIN_TILES, 6))
    assert np.isfinite(project(vectors, method)).all()
    with pytest.raises(SearchError, match="too few for a map"):
        project(vectors[1:], method)


def test_a_store_of_equal_tiles_is_a_point_and_no_error() -> None:
    points = project(np.ones((20, 4)), "pca")
    assert np.isfinite(points).all()
    assert np.ptp(points, axis=0).max() < 1e-3


def test_a_method_that_is_not_installed_names_the_cure(monkeypatch) -> None:
    monkeypatch.setattr(projection, "find_spec", lambda name: None)
    vectors, _ = clouds()
    with pytest.raises(MissingExtra, match=r"umap-learn.*beph-store\[map\].*--method tsne"):
        project(vectors, "umap")
    assert project(vectors, "pca").shape == (180, 2)


def test_without_the_extra_a_map_is_drawn_by_tsne(monkeypatch) -> None:
    assert projection.default_method() == "umap"
    monkeypatch.setattr(projection, "find_spec", lambda name: None)
    assert projection.default_method() == "tsne"


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(UsageError, match="umap, tsne, pca"):
        project(clouds()[0], "isomap")
