"""The flat training cache: what it holds, when it is made again, and what must not harm it."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pytest
from filelock import FileLock

from beph_store.errors import CohortError, RecipeMismatch, StoreError, UnknownSlide
from beph_store.records import Case
from beph_store.store import RecipeWriter, SlideRow, Store, bags, cache, compact, verify
from tests.store.conftest import DIM, RECIPE, seal

NewWriter = Callable[..., RecipeWriter]
KEY = RECIPE.key


@pytest.fixture
def full(store: Store, new_writer: NewWriter) -> Store:
    """Slides of 61, 60, 3 and 0 tiles, some unreadable, sealed in no order, one failed; two commits."""
    for names in (("c/d.svs", "a.svs"), ("b.svs", "glass.svs", "lost.svs")):
        writer = new_writer()
        for name in names:
            n, lost = {"a.svs": (60, (0, 7)), "b.svs": (3, ()), "c/d.svs": (61, (60,))}.get(name, (0, ()))
            if name == "lost.svs":
                n, lost = 2, (0, 1)
            seal(writer, name, n, lost=lost)
        writer.fail("bad.svs", SlideRow(KEY, "bad.svs", "failed", error="no mpp"))
        writer.close()
    return store


def folders(store: Store) -> list[Path]:
    return sorted(store.layout.cache(KEY).iterdir())


def same_as_lance(store: Store) -> None:
    flat = store.flat(KEY)
    for slide_id, (start, stop) in zip(flat.slide_ids, flat.spans, strict=True):
        bag = store.bag(KEY, slide_id)
        np.testing.assert_array_equal(flat.vectors[start:stop], bag.vectors)
        np.testing.assert_array_equal(flat.tile_index[start:stop], bag.tile_index)
        np.testing.assert_array_equal(flat.origin_l0[start:stop], bag.origin_l0)


def test_it_holds_the_readable_tiles_of_finished_slides_and_nothing_else(full: Store) -> None:
    flat = full.flat(KEY)
    assert flat.slide_ids == ("a.svs", "b.svs", "c/d.svs", "glass.svs", "lost.svs")
    assert flat.spans.tolist() == [[0, 58], [58, 61], [61, 121], [121, 121], [121, 121]]
    assert (len(flat), flat.recipe_key, flat.vectors.shape) == (121, KEY, (121, DIM))
    for array, dtype in ((flat.vectors, np.float16), (flat.tile_index, np.int32), (flat.origin_l0, np.int32)):
        assert isinstance(array, np.memmap)
        assert array.dtype == dtype
        assert not array.flags.writeable
    assert 0 not in flat.tile_index[:58]
    same_as_lance(full)


def test_tiles_come_in_order_from_batches_of_any_size_and_after_compaction(
    full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_BATCH_BYTES", 1)
    same_as_lance(full)
    shutil.rmtree(full.layout.root / "cache")
    compact(full)
    same_as_lance(full)


def test_rows_that_lie_in_another_order_are_put_right(full: Store) -> None:
    """As a rewrite of the table by other hands might leave them: slides interleaved, tiles backwards."""
    before = {slide_id: full.bag(KEY, slide_id).vectors for slide_id in ("a.svs", "b.svs", "c/d.svs")}
    path = full.layout.tiles(KEY)
    table = lance.dataset(str(path)).to_table()
    order = np.random.default_rng(0).permutation(table.num_rows)
    lance.write_dataset(table.take(order), str(path), mode="overwrite", data_storage_version="2.2")
    flat = full.flat(KEY)
    for i, vectors in enumerate(before.values()):
        start, stop = flat.spans[i]
        np.testing.assert_array_equal(flat.vectors[start:stop], vectors)
    same_as_lance(full)


def test_it_is_made_once_and_tells_how_far_it_is(full: Store) -> None:
    seen: list[tuple[int, int]] = []
    full.flat(KEY, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (121, 121)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    full.flat(KEY, progress=lambda *_: pytest.fail("it was made again"))


def test_another_ingest_makes_another_and_the_old_goes(full: Store, new_writer: NewWriter) -> None:
    old = full.flat(KEY)
    (before,) = folders(full)
    writer = new_writer()
    seal(writer, "aa.svs", 5)
    writer.close()
    new = full.flat(KEY)
    (after,) = folders(full)
    assert before != after
    assert new.slide_ids[:2] == ("a.svs", "aa.svs")
    assert len(new) == len(old) + 5
    np.testing.assert_array_equal(new.vectors[new.spans[0, 1] + 5 :], old.vectors[old.spans[0, 1] :])
    same_as_lance(full)


def test_a_replaced_slide_of_as_many_tiles_is_seen(full: Store, new_writer: NewWriter) -> None:
    full.flat(KEY)
    (before,) = folders(full)
    writer = new_writer()
    seal(writer, "b.svs", 3, lost=(1,), replaces=full.slide(KEY, "b.svs").ingest_id)
    writer.close()
    assert full.flat(KEY).tile_index[58:60].tolist() == [0, 2]
    assert folders(full) != [before]
    same_as_lance(full)


@pytest.mark.parametrize("damage", ["no json", "other json", "no file", "short", "other type", "leftover"])
def test_a_damaged_or_half_written_cache_is_made_again(full: Store, damage: str) -> None:
    full.flat(KEY)
    (folder,) = folders(full)
    if damage == "no json":
        (folder / "cache.json").unlink()
    elif damage == "other json":
        (folder / "cache.json").write_text(json.dumps({"format": 99}))
    elif damage == "no file":
        (folder / "tile_index.npy").unlink()
    elif damage == "short":
        with (folder / "vectors.npy").open("r+b") as file:
            file.truncate(1000)
    elif damage == "other type":
        np.save(folder / "origin_l0.npy", np.zeros((121, 2), np.int64))
    else:
        folder.rename(folder.with_name(f".{folder.name}.abc"))  # killed before the rename
    same_as_lance(full)
    assert [path.name for path in folders(full)] == [folder.name]


def test_a_build_that_fails_leaves_nothing_and_says_what_it_needs(
    full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache._Column, "put", full_disk)
        with pytest.raises(StoreError, match=r"cannot be written: .*No space.* takes 0\.0 GB"):
            full.flat(KEY)
    assert folders(full) == []
    same_as_lance(full)


def test_a_table_that_contradicts_the_registry_is_refused(full: Store) -> None:
    lance.dataset(str(full.layout.tiles(KEY))).delete("slide_id = 'b.svs' AND tile = 1")
    with pytest.raises(StoreError, match=r"b\.svs.* not the 3 .*verify"):
        full.flat(KEY)
    shutil.rmtree(full.layout.tiles(KEY))
    with pytest.raises(StoreError, match=r"cannot be read.*verify"):
        full.flat(KEY)
    assert folders(full) == []


def test_a_doubled_table_is_refused(full: Store) -> None:
    path = str(full.layout.tiles(KEY))
    lance.write_dataset(lance.dataset(path).to_table(filter="slide_id = 'b.svs'"), path, mode="append")
    with pytest.raises(StoreError, match="verify"):
        full.flat(KEY)


def test_a_recipe_without_tiles(store: Store, writer: RecipeWriter) -> None:
    assert len(store.flat(KEY)) == 0
    seal(writer, "glass.svs", 0)
    writer.close()
    flat = store.flat(KEY)
    assert (flat.slide_ids, flat.vectors.shape) == (("glass.svs",), (0, DIM))
    assert bags(flat, [Case("c", ("glass.svs",))]).bag(0).shape == (0, DIM)
    with pytest.raises(RecipeMismatch):
        store.flat("zzz")


def test_verify_and_compact_do_not_mind_it(full: Store) -> None:
    full.flat(KEY)
    (folder,) = folders(full)
    assert verify(full).ok
    compact(full)
    assert verify(full).ok
    full.flat(KEY, progress=lambda *_: pytest.fail("it was made again"))
    assert folders(full) == [folder]


def test_compact_waits_for_no_builder_but_says_so(full: Store) -> None:
    with FileLock(full.layout.cache_lock(KEY)), pytest.raises(StoreError, match="another process"):
        compact(full)


def test_a_second_builder_waits_and_takes_what_the_first_made(
    full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_inside, go_on = threading.Event(), threading.Event()
    builds: list[str] = []
    real = cache._export

    def slow(*args: object) -> None:
        builds.append(threading.current_thread().name)
        first_inside.set()
        assert go_on.wait(20)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "_export", slow)
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(len(full.flat(KEY)))) for _ in range(2)]
    threads[0].start()
    assert first_inside.wait(20)
    threads[1].start()
    threads[1].join(0.5)
    assert threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert results == [121, 121]
    assert len(builds) == 1


def _open_in_a_process(root: str, result: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    flat = Store.open(root).flat(KEY)
    result.put((len(flat), float(flat.vectors.astype(np.float64).sum())))


def test_two_processes_at_once_both_succeed(full: Store) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    both = [
        context.Process(target=_open_in_a_process, args=(str(full.layout.root), results)) for _ in range(2)
    ]
    for process in both:
        process.start()
    found = [results.get(timeout=60) for _ in both]
    for process in both:
        process.join(60)
    assert found[0] == found[1] == (121, float(full.flat(KEY).vectors.astype(np.float64).sum()))
    assert len(folders(full)) == 1


def test_a_slide_replaced_and_compacted_away_under_a_build_starts_it_again(
    full: Store, new_writer: NewWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock keeps `compact` out, but a lock file can be lost: the outcome must not depend on it."""
    real, calls = cache._export, []

    def moved(*args: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            writer = new_writer()
            seal(writer, "b.svs", 4, replaces=full.slide(KEY, "b.svs").ingest_id)
            writer.close()
            lance.dataset(str(full.layout.tiles(KEY))).delete(
                f"slide_id = 'b.svs' AND ingest_id != '{full.slide(KEY, 'b.svs').ingest_id}'"
            )
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "_export", moved)
    assert full.flat(KEY).spans.tolist()[1] == [58, 62]
    assert len(calls) == 2
    same_as_lance(full)


def test_bags_are_spans_of_the_map_in_the_order_of_the_case(full: Store) -> None:
    flat = full.flat(KEY)
    made = bags(
        flat, [Case("two", ("c/d.svs", "a.svs")), Case("glass", ("glass.svs", "b.svs")), Case("none", ())]
    )
    assert made.case_ids == ("two", "glass", "none")
    assert made.spans == (((61, 121), (0, 58)), ((58, 61),), ())
    assert made.vectors is flat.vectors
    assert made.vectors.dtype == np.float16
    expected = np.concatenate([full.bag(KEY, name).vectors for name in ("c/d.svs", "a.svs")])
    np.testing.assert_array_equal(made.bag(0), expected)
    assert np.shares_memory(made.bag(1), flat.vectors)
    assert [made.tiles(i) for i in range(3)] == [118, 3, 0]


def test_slides_are_found_with_and_without_their_suffix_and_never_guessed(
    full: Store, new_writer: NewWriter
) -> None:
    assert full.flat(KEY).bag_spans(["c/d", "a.svs", "glass"]) == ((61, 121), (0, 58))
    with pytest.raises(UnknownSlide, match=r"'bad\.svs'.*beph-store slides"):
        full.flat(KEY).bag_spans(["bad.svs"])
    with pytest.raises(UnknownSlide, match="nope"):
        bags(full.flat(KEY), [Case("c", ("a.svs", "nope"))])
    with pytest.raises(CohortError, match="case c lists a slide twice"):
        bags(full.flat(KEY), [Case("c", ("a.svs", "a"))])
    writer = new_writer()
    seal(writer, "a.tif", 2)
    writer.close()
    with pytest.raises(UnknownSlide, match="'a'"):
        full.flat(KEY).bag_spans(["a"])
