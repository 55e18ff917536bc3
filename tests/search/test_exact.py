"""Exact search against a float64 sort of everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beph_store import halves
from beph_store.errors import SearchError
from beph_store.search import dots, exact, top_k

KERNELS = [
    dots.NumPyKernel,
    pytest.param(
        dots.NumKongKernel,
        marks=pytest.mark.skipif(halves.fast_numkong() is None, reason="numkong is not installed"),
    ),
]


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    monkeypatch.setattr(exact, "kernel", request.param)
    return request.param


def naive(queries, vectors, k, allowed=None):
    """All cosines in float64, rounded to float32, sorted with equal ones by row."""
    wide = vectors.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    q = np.asarray(queries, np.float64)
    scores = ((q / np.linalg.norm(q, axis=1, keepdims=True)) @ unit.T).astype(np.float32)
    index = np.full((len(q), k), -1)
    for n, row in enumerate(scores):
        rows = np.flatnonzero(np.isfinite(row) & (True if allowed is None else allowed))
        chosen = rows[np.lexsort((rows, -row[rows]))][:k]
        index[n, : len(chosen)] = chosen
    return index, scores


def drawn(rows, queries, seed=0, dim=96):
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((rows, dim)) + 0.8).astype(np.float16)
    return rng.standard_normal((queries, dim)).astype(np.float32), vectors


@pytest.mark.parametrize("queries", [1, 2, 5, 40])
@pytest.mark.parametrize("share", [None, 0.02, 0.4, 0.9])
def test_it_ranks_as_a_sort_of_everything(kernel, queries, share):
    asked, vectors = drawn(20_000, queries, seed=queries)
    allowed = None if share is None else np.random.default_rng(1).random(len(vectors)) < share
    found = top_k(asked, vectors, 10, allowed=allowed)
    index, scores = naive(asked, vectors, 10, allowed)
    assert np.array_equal(found.index, index)
    assert found.exact
    np.testing.assert_allclose(found.score, np.take_along_axis(scores, index, 1), rtol=2e-7)


def test_scores_closer_than_the_fast_kernel_can_tell_are_ranked_rightly(kernel):
    rng = np.random.default_rng(3)
    base = rng.standard_normal(768)
    vectors = np.tile(base.astype(np.float16), (5000, 1))
    # One column a row, by one unit in the last place: cosines differ by some 1e-7, below float16 queries' rounding.
    for row in range(len(vectors)):
        column = row % 768
        vectors[row, column] = np.nextafter(vectors[row, column], np.float16(100), dtype=np.float16)
    query = (base + 0.3 * rng.standard_normal(768)).astype(np.float32)[None]
    index, _ = naive(query, vectors, 50)
    assert np.array_equal(top_k(query, vectors, 50).index, index)


def test_equal_vectors_come_in_order_of_their_row(kernel):
    asked, vectors = drawn(9_000, 4)
    vectors[[8_500, 77, 4_321]] = vectors[3]
    asked[0] = vectors[3]
    found = top_k(asked, vectors, 5)
    assert found.index[0, :4].tolist() == [3, 77, 4_321, 8_500]
    assert found.score[0, :4].tolist() == [1.0] * 4


def test_rows_without_a_direction_are_never_found_and_take_no_place(kernel):
    asked, vectors = drawn(3_000, 3)
    vectors[10], vectors[20, 5], vectors[30, 5] = 0, np.inf, np.nan
    asked[1] = -vectors[0].astype(np.float32)  # every cosine below the 0 that a zero row might be given
    index, _ = naive(asked, vectors, 2_999)
    found = top_k(asked, vectors, 2_999)
    assert np.array_equal(found.index, index)
    assert (found.index[:, -2:] == -1).all()
    assert np.isnan(found.score[:, -2:]).all()


def test_subnormal_values_count(kernel):
    asked, vectors = drawn(500, 2)
    vectors = (vectors.astype(np.float32) * 2e-6).astype(np.float16)
    vectors = vectors[vectors.any(axis=1)]
    index, _ = naive(asked, vectors, 20)
    assert np.array_equal(top_k(asked, vectors, 20).index, index)


def test_fewer_rows_than_asked(kernel):
    asked, vectors = drawn(50, 2)
    allowed = np.zeros(50, bool)
    allowed[[4, 40]] = True
    found = top_k(asked, vectors, 5, allowed=allowed)
    assert (np.sort(found.index[:, :2]) == [4, 40]).all()
    assert (found.index[:, 2:] == -1).all()
    assert (top_k(asked, vectors, 5, allowed=np.zeros(50, bool)).index == -1).all()


def test_threads_change_nothing(kernel):
    asked, vectors = drawn(200_000, 3, dim=16)
    one, three = (top_k(asked, vectors, 20, threads=n) for n in (1, 3))
    assert np.array_equal(one.index, three.index)
    assert np.array_equal(one.score, three.score)


def test_a_memory_map_is_read_and_progress_told(kernel, tmp_path):
    asked, vectors = drawn(10_000, 2)
    np.save(tmp_path / "v.npy", vectors)
    told = []
    found = top_k(
        asked,
        np.load(tmp_path / "v.npy", mmap_mode="r"),
        3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert np.array_equal(found.index, naive(asked, vectors, 3)[0])
    assert told[-1] == (10_000, 10_000)
    assert told == sorted(told)


def test_many_queries_are_taken_in_parts(kernel, monkeypatch):
    monkeypatch.setattr(exact, "_QUERIES", 4)
    asked, vectors = drawn(2_000, 11)
    assert np.array_equal(top_k(asked, vectors, 3).index, naive(asked, vectors, 3)[0])
    assert top_k(asked[:0], vectors, 3).index.shape == (0, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 6), st.integers(1, 20), st.integers(1, 33), st.integers(0, 10**6))
def test_any_size(rows, queries, k, dim, seed):
    asked, vectors = drawn(rows, queries, seed, dim)
    assert np.array_equal(top_k(asked, vectors, k).index, naive(asked, vectors, k)[0])


def test_the_bound_holds(kernel):
    asked, vectors = drawn(4_000, 6, dim=768)
    unit = asked / np.linalg.norm(asked, axis=1, keepdims=True)
    fast = kernel(unit)
    error = np.abs(fast(vectors) - naive(asked, vectors, 1)[1])
    assert (error.max(axis=1) <= fast.error).all()
    assert (fast.error < 1e-3).all()


def test_the_kernel_is_numpys_where_numkong_is_missing_or_slow(monkeypatch):
    monkeypatch.setattr(dots, "fast_numkong", lambda: None)
    assert isinstance(dots.kernel(np.ones((1, 8), np.float32)), dots.NumPyKernel)
    chosen = []
    monkeypatch.setattr(dots, "fast_numkong", lambda: object())
    monkeypatch.setattr(dots, "NumKongKernel", chosen.append)
    dots.kernel(np.ones((1, 8), np.float32))
    assert len(chosen) == 1


def test_widening_is_numpys_cast_for_every_finite_value():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)][None]
    wide = dots.widen(finite, np.empty(finite.shape, np.int32))
    assert np.array_equal(wide.view(np.int32), finite.astype(np.float32).view(np.int32))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"queries": np.zeros((1, 96))}, "query 0"),
        ({"queries": np.full((1, 96), np.nan)}, "query 0"),
        ({"queries": np.ones((1, 95))}, "same recipe"),
        ({"queries": np.ones(96)}, "same recipe"),
        ({"k": 0}, "at least 1"),
        ({"allowed": np.ones(7, bool)}, "one bool a row"),
        ({"vectors": np.ones((10, 96), np.float32)}, "float16"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, word):
    asked, vectors = drawn(10, 1)
    arguments = {"queries": asked, "vectors": vectors, "k": 3} | change
    with pytest.raises(SearchError, match=word):
        top_k(**arguments)
