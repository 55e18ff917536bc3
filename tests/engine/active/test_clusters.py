"""Clusters: the same numbers on all slides, the same every time, kept in the store's cache."""

from __future__ import annotations

import numpy as np
import pytest

from beph_store.engine.active import clusters
from beph_store.engine.active.clusters import recipe_clusters
from beph_store.errors import SearchError
from beph_store.search.clustering import cluster

from .conftest import grow


def test_kinds_of_tissue_have_the_same_number_on_every_slide(tissue) -> None:
    found = recipe_clusters(tissue.table, 6)
    numbers = found.clustering.of(tissue.table.flat.vectors)
    assert (found.k, found.tiles, found.sample) == (6, len(numbers), len(numbers))
    sizes = np.bincount(numbers, minlength=6)
    assert found.clustering.share.tolist() == pytest.approx((sizes / len(numbers)).tolist(), abs=1e-3)
    assert (np.diff(sizes) <= 0).all()  # 0 is the largest
    assert numbers[found.exemplar].tolist() == list(range(6))
    # On slides of two different cases most tiles of a cluster are of the kind that it has elsewhere.
    kind = [np.bincount(tissue.kind[numbers == k]).argmax() for k in range(6)]
    for slide in (0, 7):
        span = tissue.table.span(slide)
        agree = np.array(kind)[numbers[span]] == tissue.kind[span]
        assert agree.mean() > 0.7


def test_they_are_kept_and_found_again(tmp_path, monkeypatch) -> None:
    tissue = grow(tmp_path, slides=2)
    first = recipe_clusters(tissue.table, 4)
    assert first.kept is not None
    assert first.kept.is_file()
    assert tissue.table.store.layout.cache(tissue.table.flat.recipe_key) in first.kept.parents

    def never(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(clusters, "cluster", never)
        again = recipe_clusters(tissue.table, 4)
        with pytest.raises(AssertionError, match="made again"):
            recipe_clusters(tissue.table, 5)
    assert np.array_equal(first.clustering.centres, again.clustering.centres)
    assert first.exemplar.tolist() == again.exemplar.tolist()
    for damage in (b"", b"PK\x03\x04 no zip", first.kept.read_bytes()[:200]):
        first.kept.write_bytes(damage)
        made = recipe_clusters(tissue.table, 4)
        assert np.array_equal(first.clustering.centres, made.clustering.centres)  # and the same


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path) -> None:
    tissue = grow(tmp_path, slides=2)
    home = tissue.table.store.layout.cache(tissue.table.flat.recipe_key)
    (home / "clusters").write_text("a file in the way")
    assert recipe_clusters(tissue.table, 3).kept is None


def test_a_sample_stands_for_the_rest(tissue, monkeypatch) -> None:
    whole = recipe_clusters(tissue.table, 3).clustering.of(tissue.table.flat.vectors)
    monkeypatch.setattr(clusters, "SAMPLE", 1000)
    part = recipe_clusters(tissue.table, 3)
    assert part.sample == 1000
    numbers = part.clustering.of(tissue.table.flat.vectors)
    pairs = [np.bincount(numbers[whole == k]).max() for k in range(3)]
    assert sum(pairs) / len(whole) > 0.8
    assert numbers[part.exemplar].tolist() == list(range(part.k))


def test_fewer_tiles_than_clusters_and_tiles_all_alike() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    found = cluster(vectors, 8)
    assert sorted(found.of(vectors).tolist()) == [0, 1, 2]
    same = cluster(np.ones((50, 5), np.float16), 8)
    assert same.of(np.ones((4, 5), np.float16)).tolist() == [0, 0, 0, 0]
    assert same.share.tolist() == [1.0]


@pytest.mark.parametrize("k", [0, 1, 33])
def test_numbers_of_clusters_that_make_no_sense(tissue, k) -> None:
    with pytest.raises(SearchError):
        recipe_clusters(tissue.table, k)
