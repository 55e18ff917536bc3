"""The protocol: whatever dies, whenever, the store ends as if nothing had."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import lance
import numpy as np
import pytest

from beph_store.errors import StoreError, VectorInvalid
from beph_store.store import RecipeWriter, SlideRow, Store, verify
from tests.store.conftest import DIM, RECIPE, crash, rasters, seal, slide_info, tile_set, vectors

NewWriter = Callable[..., RecipeWriter]


def test_a_slide_comes_back_as_it_went_in(store: Store, writer: RecipeWriter) -> None:
    seal(writer, "a.svs", 50, lost=(3,), case_id="case-1", seconds=2.0)
    writer.close()
    bag = store.bag(RECIPE.key, "a.svs")
    keep = np.delete(np.arange(50), 3)
    assert bag.tile_index.tolist() == keep.tolist()
    np.testing.assert_array_equal(bag.vectors, vectors("a.svs", 50)[keep].astype(np.float16))
    np.testing.assert_array_equal(bag.origin_l0, tile_set("a.svs", 50).origin_l0[keep])
    row = store.slide(RECIPE.key, "a")  # the suffix may be left out
    assert (row.tiles, row.unreadable, row.case_id, row.status) == (50, 1, "case-1", "done")
    assert store.rasters(RECIPE.key, "a.svs").tissue.mask.all()


def test_nothing_is_visible_before_the_commit(store: Store, writer: RecipeWriter) -> None:
    seal(writer, "a.svs", 5)
    assert store.rows(RECIPE.key) == []
    writer.publish(force=True)
    assert [row.slide_id for row in store.rows(RECIPE.key)] == ["a.svs"]


def test_empty_slides_are_complete(store: Store, writer: RecipeWriter) -> None:
    seal(writer, "glass.svs", 0)
    writer.close()
    assert store.slide(RECIPE.key, "glass.svs").status == "empty"
    assert store.bag(RECIPE.key, "glass.svs").vectors.shape == (0, DIM)


def test_one_fragment_a_slide_and_one_commit_for_many(store: Store, writer: RecipeWriter) -> None:
    for name in "abcde":
        seal(writer, f"{name}.svs", 7)
    writer.close()
    dataset = store.dataset(RECIPE.key)
    assert [f.count_rows() for f in dataset.get_fragments()] == [7] * 5
    assert dataset.version == 2  # created, appended once
    assert dataset.data_storage_version == "2.2"


def test_crash_between_fragment_and_commit(store: Store, new_writer: NewWriter) -> None:
    first = new_writer("first")
    sealed = seal(first, "a.svs", 9)
    crash(first)
    second = new_writer("second")
    claim = second.claim("a.svs")
    assert claim is not None
    assert second.recover(claim) == sealed
    second.close()
    assert verify(store).ok
    assert store.slide(RECIPE.key, "a.svs").ingest_id == sealed.ingest_id


def test_crash_between_append_and_registry(store: Store, new_writer: NewWriter) -> None:
    first = new_writer("first")
    seal(first, "a.svs", 9)
    first._append(first._ready)
    crash(first)
    assert store.dataset(RECIPE.key).count_rows() == 9
    assert store.rows(RECIPE.key) == []  # appended, and yet nobody sees it
    second = new_writer("second")
    claim = second.claim("a.svs")
    assert claim is not None
    assert second.recover(claim) is not None
    second.close()
    assert store.dataset(RECIPE.key).count_rows() == 9  # not 18
    assert verify(store).ok


def test_crash_after_the_registry(store: Store, new_writer: NewWriter) -> None:
    first = new_writer("first")
    seal(first, "a.svs", 9)
    first._append(first._ready)
    first.registry.put([ready.row for ready in first._ready])
    crash(first)  # before its staging folder was removed
    second = new_writer("second")
    claim = second.claim("a.svs")
    assert claim is not None
    second.recover(claim)
    second.close()
    assert store.dataset(RECIPE.key).count_rows() == 9
    assert verify(store).ok


def test_publishing_twice_is_publishing_once(store: Store, writer: RecipeWriter) -> None:
    seal(writer, "a.svs", 9)
    ready = list(writer._ready)
    writer.publish(force=True)
    writer._ready.extend(ready)  # the acknowledgement was lost, so it is tried again
    writer.publish(force=True)
    assert store.dataset(RECIPE.key).count_rows() == 9
    assert verify(store).ok


def test_the_loser_of_a_race_is_invisible(store: Store, new_writer: NewWriter) -> None:
    """Two writers that both sealed a slide, as may happen where locks do not work."""
    one, two = new_writer("one"), new_writer("two")
    seal(one, "a.svs", 9)
    crash(one)
    (store.layout.slide_staging(RECIPE.key, "a.svs") / "ready.json").unlink()
    seal(two, "a.svs", 9)
    one.publish(force=True)
    two._append(two._ready)  # past the check that would have spared it
    two.registry.put([ready.row for ready in two._ready])
    assert store.dataset(RECIPE.key).count_rows() == 18
    assert store.tiles(RECIPE.key).collect().height == 9
    assert store.slide(RECIPE.key, "a.svs").run == "one"
    report = verify(store)
    assert report.ok
    assert "9 rows that no slide refers to" in report.notes[0]


def test_a_spool_goes_on_where_it_stopped(store: Store, new_writer: NewWriter) -> None:
    first = new_writer("first")
    claim = first.claim("a.svs")
    assert claim is not None
    spool = first.open_spool(claim, slide_info("a.svs"), tile_set("a.svs", 40))
    spool.add(np.arange(25, dtype=np.int32), np.ones(25, bool), vectors("a.svs", 40)[:25])
    spool.flush()
    spool.add(np.array([39], np.int32), np.ones(1, bool), vectors("a.svs", 40)[39:])
    crash(first)  # the last tile was in memory only
    second = new_writer("second")
    claim = second.claim("a.svs")
    assert claim is not None
    spool = second.open_spool(claim, slide_info("a.svs"), tile_set("a.svs", 40))
    assert np.flatnonzero(~spool.done).tolist() == list(range(25, 40))
    second.release("a.svs")
    seal(second, "a.svs", 40)
    second.close()
    np.testing.assert_array_equal(
        store.bag(RECIPE.key, "a.svs").vectors, vectors("a.svs", 40).astype(np.float16)
    )


def test_a_spool_of_another_grid_is_not_used(new_writer: NewWriter) -> None:
    writer = new_writer()
    for n, changed in ((40, "f" * 64), (41, "f" * 64), (40, "e" * 64)):
        claim = writer.claim("a.svs")
        assert claim is not None
        spool = writer.open_spool(claim, slide_info("a.svs", changed), tile_set("a.svs", n))
        assert spool.resumed == 0
        spool.add(np.arange(5, dtype=np.int32), np.ones(5, bool), vectors("a.svs", 5))
        writer.release("a.svs")


def test_a_damaged_part_is_encoded_again(store: Store, new_writer: NewWriter) -> None:
    writer = new_writer()
    claim = writer.claim("a.svs")
    assert claim is not None
    spool = writer.open_spool(claim, slide_info("a.svs"), tile_set("a.svs", 40))
    for start in (0, 10, 20):
        spool.add(np.arange(start, start + 10, dtype=np.int32), np.ones(10, bool), vectors("a.svs", 10))
        spool.flush()
    writer.release("a.svs")
    part = store.layout.slide_staging(RECIPE.key, "a.svs") / "part-00001.npz"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0xFF
    part.write_bytes(data)
    claim = writer.claim("a.svs")
    assert claim is not None
    spool = writer.open_spool(claim, slide_info("a.svs"), tile_set("a.svs", 40))
    assert np.flatnonzero(spool.done).tolist() == [*range(10), *range(20, 30)]
    spool.add(np.arange(10, 20, dtype=np.int32), np.ones(10, bool), vectors("a.svs", 10))
    spool.flush()
    assert len(list(part.parent.glob("part-*.npz"))) == 3  # no part was overwritten


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN"), (np.inf, "NaN or infinite"), (1e5, "65504"), (0.0, "all-zero")]
)
def test_bad_vectors_stay_out(writer: RecipeWriter, value: float, message: str) -> None:
    claim = writer.claim("a.svs")
    assert claim is not None
    spool = writer.open_spool(claim, slide_info("a.svs"), tile_set("a.svs", 3))
    bad = vectors("a.svs", 3)
    bad[1] = value
    with pytest.raises(VectorInvalid, match=message):
        spool.add(np.arange(3, dtype=np.int32), np.ones(3, bool), bad)
    spool.add(np.arange(3, dtype=np.int32), np.array([True, False, True]), bad)  # unreadable: not looked at


def test_a_slide_with_tiles_missing_cannot_be_sealed(writer: RecipeWriter) -> None:
    claim = writer.claim("a.svs")
    assert claim is not None
    spool = writer.open_spool(claim, slide_info("a.svs"), tile_set("a.svs", 3))
    spool.add(np.array([0, 2], np.int32), np.ones(2, bool), vectors("a.svs", 2))
    with pytest.raises(StoreError, match="1 tiles were never encoded"):
        writer.seal(claim, rasters(), SlideRow(writer.key, "a.svs", "done"))


def test_a_failed_slide_can_succeed_later_but_not_the_reverse(store: Store, new_writer: NewWriter) -> None:
    writer = new_writer("one")
    writer.fail("a.svs", SlideRow(RECIPE.key, "a.svs", "failed", error="no mpp"))
    writer.close()
    assert store.slide(RECIPE.key, "a.svs").error == "no mpp"
    writer = new_writer("two")
    seal(writer, "a.svs", 4)
    writer.close()
    writer = new_writer("three")
    writer.fail("a.svs", SlideRow(RECIPE.key, "a.svs", "failed", error="disk gone"))
    writer.close()
    assert store.slide(RECIPE.key, "a.svs").status == "done"


def test_replacing_a_slide(store: Store, new_writer: NewWriter) -> None:
    writer = new_writer("one")
    old = seal(writer, "a.svs", 9)
    seal(writer, "b.svs", 9)
    writer.close()
    writer = new_writer("two")
    seal(writer, "a.svs", 4, replaces=old.ingest_id)
    writer.close()
    assert len(store.bag(RECIPE.key, "a.svs")) == 4
    assert len(store.bag(RECIPE.key, "b.svs")) == 9
    assert verify(store).ok


def test_a_claimed_slide_is_refused_to_others(new_writer: NewWriter) -> None:
    one, two = new_writer(), new_writer()
    assert one.claim("a.svs") is not None
    assert two.claim("a.svs") is None
    one.release("a.svs")
    assert two.claim("a.svs") is not None


def _contend(root: str, number: int) -> None:
    writer = Store.open(root).writer(RECIPE, run=f"run-{number}", encoder_source="toy", parity={})
    for i in range(12):
        slide_id = f"s{(i + number) % 12:02d}.svs"
        if slide_id not in writer.known() and writer.claim(slide_id) is not None:
            claim = writer.claimed(slide_id)
            known = writer.registry.get(RECIPE.key, slide_id)
            if known is None:
                spool = writer.open_spool(claim, slide_info(slide_id), tile_set(slide_id, 30))
                spool.add(np.arange(30, dtype=np.int32), np.ones(30, bool), vectors(slide_id, 30))
                writer.seal(claim, rasters(), SlideRow(RECIPE.key, slide_id, "done"))
                writer.publish(force=True)
            else:
                writer.release(slide_id)
    writer.close()


def test_processes_share_the_slides(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_contend, args=(str(store.layout.root), i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert store.dataset(RECIPE.key).count_rows() == 12 * 30
    report = verify(store)
    assert (report.ok, report.slides, report.notes) == (True, 12, [])


def test_append_alone_would_have_doubled_the_rows(store: Store, writer: RecipeWriter) -> None:
    """Why the protocol exists; if Lance ever makes this idempotent, we want to know."""
    seal(writer, "a.svs", 9)
    ready = list(writer._ready)
    writer.publish(force=True)
    dataset = store.dataset(RECIPE.key)
    fragments = [lance.FragmentMetadata.from_json(__import__("json").dumps(f)) for f in ready[0].fragments]
    lance.LanceDataset.commit(
        dataset.uri, lance.LanceOperation.Append(fragments), read_version=dataset.version
    )
    assert store.dataset(RECIPE.key).count_rows() == 18
    assert not verify(store).ok
