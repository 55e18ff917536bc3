"""Which partition a vector belongs to: as Lance itself would say, and nothing for a row without a vector."""

import lance
import numpy as np
import pyarrow as pa

from beph_store.search import ann
from beph_store.search.partitions import assigned, centroids, nearest

from .conftest import DIM, clustered


def test_the_nearest_is_the_one_of_the_largest_cosine():
    vectors = clustered(500, seed=1)
    means = centroids(clustered(2_000, seed=2), 16)
    assert np.allclose(np.linalg.norm(means, axis=1), 1, atol=1e-5)
    wide = vectors.astype(np.float64)
    cosine = wide @ means.T.astype(np.float64) / np.linalg.norm(wide, axis=1, keepdims=True)
    assert (nearest(vectors, means) == cosine.argmax(axis=1)).mean() > 0.995  # ties within float32
    assert (nearest(4 * vectors, means) == nearest(vectors, means)).all()


def holed(path):
    """A table of 3,000 rows; every seventh has no vector, rows 8, 108, … one that is not finite."""
    vectors = clustered(3_000, seed=3)
    vectors[8::100] = np.nan
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    mask = np.zeros(3_000, bool)
    mask[::7] = True
    values = pa.FixedSizeListArray.from_arrays(values.values, DIM, mask=pa.array(mask))
    table = pa.table({"slide_id": pa.array(["a"] * 3_000), "n": pa.array(range(3_000)), "embedding": values})
    lance.write_dataset(table, path, max_rows_per_file=1_000)
    return vectors, ~mask & np.isfinite(vectors).all(axis=1)


def test_every_row_with_a_finite_vector_has_a_partition_and_no_other(tmp_path):
    vectors, good = holed(tmp_path / "t.lance")
    means = centroids(vectors[good], 8)
    table = lance.dataset(str(tmp_path / "t.lance"))
    told = []
    with assigned(table, "embedding", means, lambda *what: told.append(what)) as folder:
        found = lance.dataset(str(folder)).to_table().to_pydict()
    assert not folder.exists()
    ids = table.to_table(columns=["n"], with_row_id=True)
    number = dict(zip(ids["_rowid"].to_pylist(), ids["n"].to_pylist(), strict=True))
    rows = [number[row] for row in found["row_id"]]
    assert sorted(rows) == np.flatnonzero(good).tolist()
    assert found["partition"] == nearest(vectors[rows], means).tolist()
    assert told[-1] == (3_000, 3_000)


def test_an_index_over_rows_without_vectors_finds_the_others(tmp_path):
    path = tmp_path / "t.lance"
    vectors, good = holed(path)
    ann.build(path, ann.IndexPlan("IVF_RQ", 8), vectors[good])
    table = lance.dataset(str(path))
    hits = 0
    for row in np.flatnonzero(good)[::50]:
        asked = {"column": "embedding", "q": vectors[row].astype(np.float32), "k": 5, "nprobes": 4}
        found = table.to_table(nearest=asked | {"refine_factor": 10}, columns=["n"])["n"].to_pylist()
        assert good[found].all()
        hits += found[0] == row
    assert hits == len(np.flatnonzero(good)[::50])


def test_partitions_made_here_find_what_those_of_lance_find(small, monkeypatch):
    """Lance given the same centroids and left to assign by itself answers the same queries with the same rows."""
    path, flat = small
    plan = ann.IndexPlan("IVF_RQ", 8)
    means = centroids(ann.sample(flat.vectors, plan), plan.partitions)

    def answers():
        index = ann.TileIndex(path)
        return [index.candidates(q, 10, nprobes=2) for q in clustered(20, seed=9).astype(np.float32)]

    ann.build(path, plan, ann.sample(flat.vectors, plan))
    ours = answers()
    ann.drop(path)
    lance.dataset(str(path)).create_index(
        ann.COLUMN,
        plan.kind,
        name=ann.NAME,
        metric="cosine",
        num_partitions=len(means),
        ivf_centroids=pa.FixedSizeListArray.from_arrays(pa.array(means.ravel()), DIM),
    )
    theirs = answers()
    same = [len(set(a.tile.tolist()) & set(b.tile.tolist())) for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(same) > 9
