"""The index on real Lance tables: what it finds, what it leaves out, and what happens to it while others write."""

import threading
from contextlib import contextmanager
from datetime import timedelta

import lance
import numpy as np
import pytest

from beph_store.errors import SearchError
from beph_store.search import Searcher, TileIndex, ann, searcher, top_k

from .conftest import DIM, append, clustered

PLAN = ann.IndexPlan("IVF_RQ", 8)


@pytest.fixture
def indexed(small):
    path, flat = small
    ann.build(path, PLAN, ann.sample(flat.vectors, PLAN))
    return path, flat


@pytest.fixture
def always_by_index(monkeypatch):
    monkeypatch.setattr(searcher, "EXACT_ROWS", 0)
    monkeypatch.setattr(searcher, "EXACT_BATCH", 10**9)


def recall(found, right):
    hits = [len(set(a.tolist()) & set(b.tolist()) - {-1}) for a, b in zip(found, right, strict=True)]
    return sum(hits) / max(1, np.count_nonzero(right >= 0))


def questions(n=40):
    return clustered(n, seed=777).astype(np.float32)


def test_a_plan_only_where_it_pays():
    assert ann.choose(ann.MIN_ROWS - 1, 768) is None
    assert ann.choose(1_000_000, 768) == ann.IndexPlan("IVF_RQ", 122)
    assert ann.choose(1_000_000, 100).kind == "IVF_SQ"


@pytest.mark.parametrize("kind", ["IVF_RQ", "IVF_SQ"])
def test_build_describe_drop(small, kind):
    path, flat = small
    assert ann.describe(path) is None
    assert not ann.drop(path)
    told = []
    plan = ann.IndexPlan(kind, 8)
    info = ann.build(path, plan, ann.sample(flat.vectors, plan), lambda *what: told.append(what))
    assert info == ann.describe(path)
    assert (info.kind, info.rows_indexed, info.rows_unindexed) == (kind, 6_000, 0)
    assert info.bytes > 0
    assert told[0][0] == "centroids"
    assert len(told) > 1
    assert ann.drop(path)
    assert ann.describe(path) is None
    assert lance.dataset(str(path)).describe_indices() == []
    with pytest.raises(SearchError, match="build one first"):
        ann.update(path)


def test_candidates_are_the_neighbours_with_their_cosines(indexed):
    path, flat = indexed
    index = TileIndex(path)
    right = top_k(questions(), flat.vectors, 10)
    rows_of = Searcher(flat, index).rows_of
    found = [index.candidates(q, 10) for q in questions()]
    assert recall([rows_of(hits) for hits in found], right.index) >= 0.99
    assert np.isclose(found[0].score[0], right.score[0, 0], atol=2e-3)
    assert found[0].ingest_id[0] == f"ingest of {found[0].slide_id[0]}"


def test_a_filter_acts_before_the_ranking(indexed):
    path, flat = indexed
    query = flat.vectors[0].astype(np.float32)
    everywhere = TileIndex(path).candidates(query, 10)
    rare = f"slide_id = '{flat.slide_ids[3].replace(chr(39), chr(39) * 2)}' AND tile < 60"
    found = TileIndex(path).candidates(query, 10, where=rare, nprobes=8)
    assert not set(zip(everywhere.slide_id, everywhere.tile.tolist(), strict=True)) & set(
        zip(found.slide_id, found.tile.tolist(), strict=True)
    )  # ranked first and filtered then, nothing would be left
    assert len(found) == 10
    assert set(found.slide_id) == {flat.slide_ids[3]}
    assert found.tile.max() < 60


def test_unreadable_tiles_are_never_found(indexed):
    path, _ = indexed
    found = TileIndex(path).candidates(questions(1)[0], 6_000, nprobes=8, refine=1)
    assert len(found) > 5_000
    assert found.tile.min() == 3


def test_new_rows_are_found_before_and_after_an_update(indexed):
    path, _ = indexed
    index = TileIndex(path)
    new = clustered(300, seed=5) + np.float16(3)  # far from all that the index has seen
    append(path, "new.svs", new)
    assert index.info().rows_unindexed == 300
    for _ in range(2):
        found = index.candidates(new[123].astype(np.float32), 3)
        assert (found.slide_id[0], int(found.tile[0])) == ("new.svs", 123)
        assert found.score[0] > 0.9999
        assert ann.update(path).rows_unindexed == 0
    assert index.info().rows_indexed == 6_300


def test_new_slides_can_be_left_out_before_and_after_an_update(indexed):
    path, flat = indexed
    index = TileIndex(path)
    append(path, "new.svs", flat.vectors[:300])
    query = flat.vectors[0].astype(np.float32)
    for _ in range(2):
        both = index.candidates(query, 2)
        assert set(both.slide_id) == {"new.svs", flat.slide_ids[0]}
        assert index.candidates(query, 1, where=ann.not_in("slide_id", ["new.svs"])).slide_id == (
            flat.slide_ids[0],
        )
        assert index.candidates(query, 1, where=ann.not_in("slide_id", flat.slide_ids)).slide_id == (
            "new.svs",
        )
        ann.update(path)


def test_searching_while_slides_are_appended(indexed, monkeypatch):
    path, flat = indexed
    index = TileIndex(path)
    arrivals = [(f"late-{n}", clustered(100, seed=1000 + n) + np.float16(2)) for n in range(8)]
    errors, written = [], threading.Event()

    def write():
        try:
            for name, vectors in arrivals:
                append(path, name, vectors)
            ann.update(path)
        finally:
            written.set()

    monkeypatch.setattr(threading, "excepthook", errors.append)
    writer = threading.Thread(target=write)
    writer.start()
    searches = 0
    rows_of = Searcher(flat, index).rows_of
    while not written.is_set() or searches < 20:
        assert len(index.candidates(questions(1)[0], 10)) == 10
        rows_of(index.candidates(arrivals[0][1][0].astype(np.float32), 10))
        searches += 1
    writer.join()
    assert errors == []
    for name, vectors in arrivals:
        found = index.candidates(vectors[7].astype(np.float32), 1)
        assert (found.slide_id, found.tile.tolist()) == ((name,), [7])


def test_a_compacted_and_cleaned_table_is_opened_again(indexed):
    path, _ = indexed
    index = TileIndex(path)
    before = index.candidates(questions(1)[0], 10)
    lance.dataset(str(path)).optimize.compact_files(target_rows_per_fragment=100_000)
    lance.dataset(str(path)).cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    after = index.candidates(questions(1)[0], 10)
    assert (before.slide_id, before.tile.tolist()) == (after.slide_id, after.tile.tolist())
    assert index.info().rows_indexed == 6_000


@pytest.mark.parametrize("times", [2, 100])
def test_an_index_is_built_again_where_the_table_is_compacted_meanwhile(small, monkeypatch, times):
    path, flat = small
    really, left = ann.assigned, [times]

    @contextmanager
    def overtaken(table, *arguments):
        with really(table, *arguments) as partitions:
            if left[0]:  # every row of some slides is somewhere else now
                left[0] -= 1
                for _ in range(2):
                    append(path, f"late-{left[0]}-{_}.svs", clustered(10, seed=left[0]))
                lance.dataset(str(path)).optimize.compact_files(target_rows_per_fragment=100_000)
            yield partitions

    monkeypatch.setattr(ann, "assigned", overtaken)
    monkeypatch.setattr(ann.time, "sleep", lambda seconds: None)
    if times > 10:
        with pytest.raises(SearchError, match="conflict"):
            ann.build(path, PLAN, ann.sample(flat.vectors, PLAN))
        assert left[0] == times - ann._TRIES
        return
    assert ann.build(path, PLAN, ann.sample(flat.vectors, PLAN)).rows_indexed == 6_000 + 2 * 2 * 10
    right = top_k(questions(), flat.vectors, 10)
    index = TileIndex(path)
    old = "slide_id NOT LIKE 'late%'"
    found = [index.candidates(question, 10, where=old) for question in questions()]
    assert recall([Searcher(flat, index).rows_of(hits) for hits in found], right.index) >= 0.99


def test_bad_sql_and_a_missing_table_are_one_line(indexed, tmp_path):
    path, _ = indexed
    with pytest.raises(SearchError) as caught:
        TileIndex(path).candidates(questions(1)[0], 3, where="no_such_column = 3")
    assert "no_such_column" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SearchError):
        TileIndex(tmp_path / "none.lance")
    with pytest.raises(SearchError, match="plan fewer"):
        ann.build(path, ann.IndexPlan("IVF_RQ", 8), clustered(4, 0))


# -- the one door --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["all", "mask", "one tile in a hundred", "own case", "mask and case"])
def test_by_index_as_exactly(indexed, always_by_index, case):
    path, flat = indexed
    rng = np.random.default_rng(0)
    mask = {
        "mask": rng.random(len(flat.tile_index)) < 0.5,
        "mask and case": rng.random(len(flat.tile_index)) < 0.3,
    }
    mask["one tile in a hundred"] = rng.random(len(flat.tile_index)) < 0.01
    exclude = [*flat.slide_ids[2:4], "not there"] if "case" in case else []
    asked = flat.vectors[flat.spans[2, 0] :][:40].astype(np.float32) if "case" in case else questions()
    door = Searcher(flat, TileIndex(path))
    found = door.search(asked, 10, mask=mask.get(case), exclude=exclude)
    right = door.search(asked, 10, mask=mask.get(case), exclude=exclude, exact=True)
    assert right.exact
    assert not found.exact or case == "one tile in a hundred"
    assert recall(found.index, right.index) >= 0.99
    allowed = mask.get(case, np.ones(len(flat.tile_index), bool)).copy()
    if exclude:
        allowed[flat.spans[2, 0] : flat.spans[3, 1]] = False
    assert allowed[found.index[found.index >= 0]].all()
    assert (found.index >= 0).all()
    same = found.index == right.index
    assert np.array_equal(found.score[same], right.score[same])


def test_few_rows_left_are_searched_exactly(indexed, monkeypatch):
    path, flat = indexed
    monkeypatch.setattr(searcher, "EXACT_ROWS", 1_000)
    door = Searcher(flat, TileIndex(path))
    mask = np.zeros(len(flat.tile_index), bool)
    mask[:900] = True
    assert door.search(questions(2), 5, mask=mask).exact
    assert not door.search(questions(2), 5).exact
    assert door.search(questions(searcher.EXACT_BATCH), 5).exact


def test_too_many_new_rows_for_the_index_means_exact(indexed, always_by_index, monkeypatch):
    path, flat = indexed
    monkeypatch.setattr(searcher, "_MANY_UNINDEXED", 50)
    door = Searcher(flat, TileIndex(path))
    append(path, "new.svs", clustered(300, 4))
    assert door.search(questions(2), 5).exact
    ann.update(path)
    assert not door.search(questions(2), 5).exact


def test_a_dropped_index_means_exact(indexed, always_by_index):
    path, flat = indexed
    door = Searcher(flat, TileIndex(path))
    ann.drop(path)
    assert door.search(questions(2), 5).exact


def test_only_what_the_flat_table_lists_is_found(indexed, always_by_index):
    path, flat = indexed
    # A slide that was ingested again, its old rows still in the table; and one that no registry lists.
    again = clustered(500, 4242)
    append(path, flat.slide_ids[5], again, missing=3, ingest_id="second")
    append(path, "unlisted", clustered(300, 5) + np.float16(3))
    start, stop = flat.spans[5]
    vectors = flat.vectors.copy()
    vectors[start:stop] = again[3:]
    current = type(flat)(flat.slide_ids, flat.spans, flat.tile_index, vectors)
    asked = np.concatenate([again[100:110], flat.vectors[start : start + 10]]).astype(np.float32)
    found = Searcher(current, TileIndex(path)).search(asked, 10)
    right = top_k(asked, vectors, 10)
    assert not found.exact
    assert recall(found.index, right.index) >= 0.9
    assert found.index[:10, 0].tolist() == list(range(start + 97, start + 107))
    assert all(len(set(row.tolist())) == 10 for row in found.index)
    same = found.index == right.index
    assert np.array_equal(found.score[same], right.score[same])


def test_without_an_index(small):
    _, flat = small
    mask = np.ones(len(flat.tile_index), bool)
    found = Searcher(flat).search(questions(3), 4, mask=mask, exclude=[flat.slide_ids[0]])
    mask[: flat.spans[0, 1]] = False
    assert np.array_equal(found.index, top_k(questions(3), flat.vectors, 4, allowed=mask).index)
    with pytest.raises(SearchError, match="one bool a tile"):
        Searcher(flat).search(questions(1), 4, mask=mask[1:])


def test_a_query_of_another_length_is_refused_by_index_too(indexed, always_by_index):
    path, flat = indexed
    with pytest.raises(SearchError, match="same recipe"):
        Searcher(flat, TileIndex(path)).search(np.ones((1, DIM + 1), np.float32), 3)
