"""Slides against slides: means, mosaics, and hits spread over slides."""

import numpy as np
import pytest

from beph_store.errors import SearchError
from beph_store.search import (
    Mosaic,
    TopK,
    diverse,
    mean_vectors,
    mosaic,
    rank_by_mean,
    rank_by_mosaic,
    slides,
)

DIM = 32


def kinds(n=6):
    return np.random.default_rng(5).standard_normal((n, DIM)) * 2 + 6  # a narrow cone, as embeddings are


def slide(mix, rows, seed):
    """Tiles of kinds in the proportions of ``mix``."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(mix), rows, p=np.asarray(mix) / sum(mix))
    return (kinds()[kind] + 0.2 * rng.standard_normal((rows, DIM))).astype(np.float16)


def cohort():
    """Ten slides of two sorts of mixture, alternating, and one without tiles in the middle."""
    parts = [slide([5, 5, 1, 0, 0, 0] if n % 2 else [0, 0, 1, 5, 5, 1], 200 + 31 * n, n) for n in range(10)]
    parts.insert(4, np.empty((0, DIM), np.float16))
    stops = np.cumsum([len(part) for part in parts])
    return np.concatenate(parts), np.stack([stops - [len(p) for p in parts], stops], 1)


SORT = np.array([0, 1, 0, 1, -1, 0, 1, 0, 1, 0, 1])


def test_means_are_means_of_each_slide(monkeypatch):
    monkeypatch.setattr(slides, "_BLOCK", 64)
    vectors, spans = cohort()
    means = mean_vectors(vectors, spans)
    for (start, stop), mean in zip(spans, means, strict=True):
        if stop > start:
            np.testing.assert_allclose(mean, vectors[start:stop].astype(np.float64).mean(axis=0), rtol=1e-6)
        else:
            assert np.isnan(mean).all()


def test_centred_means_find_the_same_sort():
    vectors, spans = cohort()
    means = mean_vectors(vectors, spans)
    ranked = rank_by_mean(means[0], means, leave_out=[0])
    assert sorted(ranked.slide.tolist()) == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert (SORT[ranked.slide[:4]] == 0).all()
    assert ranked.score[3] > 0.5
    assert ranked.score[4] < -0.5  # not centred, every cosine would be near 1
    centre = np.nanmean(means.astype(np.float64), axis=0)
    a, b = means[0] - centre, means[ranked.slide[2]] - centre
    assert ranked.score[2] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


def test_means_without_any_tile():
    with pytest.raises(SearchError, match="no slide"):
        rank_by_mean(np.ones(3), np.full((2, 3), np.nan, np.float32))


def test_a_mosaic_stands_for_its_slide():
    vectors, spans = cohort()
    found = mosaic(vectors, tuple(spans[0]), 8)
    start, stop = spans[0]
    assert len(found) <= 8
    assert ((found.rows >= start) & (found.rows < stop)).all()
    assert (np.diff(found.rows) > 0).all()
    assert found.share.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
    unit = vectors[found.rows].astype(np.float32)
    np.testing.assert_allclose(found.vectors, unit / np.linalg.norm(unit, axis=1, keepdims=True), rtol=1e-5)
    centred = kinds() / np.linalg.norm(kinds(), axis=1, keepdims=True)
    of_kind = np.argmax(found.vectors @ centred.T, axis=1)
    assert set(of_kind) == {2, 3, 4, 5}  # the rare kinds, one tile in twelve, have theirs
    rare = found.share[of_kind == 2].sum()
    assert 0.03 < rare < 0.2


def test_a_mosaic_is_the_same_again_and_small_slides_are_their_own():
    vectors, spans = cohort()
    one, two = (mosaic(vectors, tuple(spans[1]), 5) for _ in range(2))
    assert np.array_equal(one.rows, two.rows)
    tiny = mosaic(vectors, (10, 13), 5)
    assert tiny.rows.tolist() == [10, 11, 12]
    np.testing.assert_allclose(tiny.share, 1 / 3)
    with pytest.raises(SearchError, match="with tiles"):
        mosaic(vectors, (5, 5))


def test_large_slides_are_sampled(monkeypatch):
    monkeypatch.setattr(slides, "_SAMPLE", 100)
    vectors, spans = cohort()
    found = mosaic(vectors, tuple(spans[0]), 6)
    np.testing.assert_allclose(found.share * 100, np.round(found.share * 100), atol=1e-4)


@pytest.mark.parametrize("likeness", ["maxsim", "median-of-minima"])
def test_mosaics_rank_as_naive_loops_do(likeness):
    vectors, spans = cohort()
    mosaics = [mosaic(vectors, tuple(span), 8) if span[1] > span[0] else None for span in spans]
    query = mosaics[3]
    scores = {}
    for number, other in enumerate(mosaics):
        if other is None or number == 3:
            continue
        nearest = [max(float(a @ b) for b in other.vectors) for a in query.vectors]
        if likeness == "maxsim":
            scores[number] = sum(w * s for w, s in zip(query.share, nearest, strict=True))
        else:
            scores[number] = 1 - float(np.median([1 - s for s in nearest]))
    ranked = rank_by_mosaic(query, mosaics, likeness, leave_out=[3])
    assert dict(zip(ranked.slide.tolist(), ranked.score.tolist(), strict=True)) == pytest.approx(
        scores, abs=1e-5
    )
    assert (np.diff(ranked.score) <= 0).all()
    assert (SORT[ranked.slide[:4]] == 1).all()


def test_equal_scores_come_by_number_and_unknown_likenesses_are_named():
    same = Mosaic(np.arange(2), np.eye(2, 4, dtype=np.float32), np.full(2, 0.5, np.float32))
    assert rank_by_mosaic(same, [same, None, same, same]).slide.tolist() == [0, 2, 3]
    assert len(rank_by_mosaic(same, [None]).slide) == 0
    with pytest.raises(SearchError, match="maxsim"):
        rank_by_mosaic(same, [same], "nearest")


@pytest.mark.parametrize("per_slide", [1, 2, 3])
def test_hits_are_spread_as_a_naive_loop_spreads_them(per_slide):
    _, spans = cohort()
    rng = np.random.default_rng(per_slide)
    index = np.stack([rng.choice(spans[-1, 1], 40, replace=False) for _ in range(5)])
    index[2, 7:] = -1
    top = TopK(np.sort(rng.random((5, 40)).astype(np.float32))[:, ::-1], index, exact=False)
    spread = diverse(top, spans, 12, per_slide)
    for query in range(5):
        expected, count = [], {}
        for row in index[query]:
            if row < 0:
                continue
            owner = next(n for n, (start, stop) in enumerate(spans) if start <= row < stop)
            count[owner] = count.get(owner, 0) + 1
            if count[owner] <= per_slide:
                expected.append(row)
        expected = (expected + [-1] * 12)[:12]
        assert spread.index[query].tolist() == expected
    assert not spread.exact
    assert np.array_equal(np.isnan(spread.score), spread.index < 0)
