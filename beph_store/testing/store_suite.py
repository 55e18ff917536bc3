"""What every place for a store must do, as tests to inherit.

    class TestMyServer(StoreContract):
        @pytest.fixture
        def root(self):
            return "s3://bucket/new/store"  # a new one each time, with the variables of its server set

The same store on a disk, in a bucket, and in a bucket whose server fails now and then: nothing lost, nothing doubled.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from beph_store.errors import NotAStore, StoreError, UnknownSlide, VectorInvalid
from beph_store.store import Store, compact, query, verify
from beph_store.store.journal import Journal
from beph_store.store.place import children, place, remove_tree
from beph_store.store.sealing import seal_slide
from beph_store.store.staging import write_part
from beph_store.testing.store_parts import (
    DIM,
    KEY,
    RECIPE,
    claimed,
    fill,
    info_of,
    pixels_of,
    rasters_of,
    row_of,
    seal,
    sealing_of,
    tiles_of,
    vectors_of,
    writer_of,
)


def whole(store: Store, slides: int) -> None:
    """The store is what it says, with so many slides and nothing left over."""
    report = verify(store)
    assert report.problems == []
    assert report.slides == slides


class StoreContract:
    """Inherit, and give a fixture ``root``: the address of a store that is not there yet."""

    @pytest.fixture
    def root(self) -> str:
        """Where the store is to be made."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, root: str) -> Store:
        """A new store."""
        return Store.create(root, written_by="tests")

    def test_what_goes_in_comes_out(self, store: Store) -> None:
        """Vectors, positions, unreadable tiles, rasters, a slide without tiles; under their ids and not before."""
        writer = writer_of(store)
        seal(writer, "a/ü 1.svs", 70, lost=(3, 69))
        seal(writer, "b.svs", 5)
        seal(writer, "empty.svs", 0)
        assert store.rows(KEY) == []
        with pytest.raises(UnknownSlide):
            store.bag(KEY, "b.svs")
        writer.close()
        bag = store.bag(KEY, "a/ü 1")
        kept = np.setdiff1d(np.arange(70), (3, 69))
        np.testing.assert_array_equal(bag.tile_index, kept)
        np.testing.assert_array_equal(bag.vectors, vectors_of("a/ü 1.svs", 70)[kept].astype(np.float16))
        np.testing.assert_array_equal(bag.origin_l0, tiles_of("a", 70).origin_l0[kept])
        assert len(store.bag(KEY, "empty.svs").tile_index) == 0
        np.testing.assert_array_equal(store.rasters(KEY, "b.svs").thumbnail, rasters_of().thumbnail)
        whole(store, 2)
        (summary,) = store.summaries()
        assert (summary.slides, summary.empty, summary.tiles, summary.unreadable) == (2, 1, 75, 2)
        assert summary.bytes > 75 * DIM * 2

    def test_the_same_store_is_opened_again_and_elsewhere(self, store: Store, root: str) -> None:
        """By its address, by what a command line makes of it, and by what another process is handed."""
        writer = writer_of(store)
        seal(writer, "a.svs", 5)
        writer.close()
        for other in (Store.open(root), Store.open(place(root)), pickle.loads(pickle.dumps(store))):
            assert other.bag(KEY, "a.svs").vectors.shape == (5, DIM)
            assert str(other.layout.root) == str(store.layout.root)
        assert Store.create(root, written_by="another").layout == store.layout

    def test_what_is_no_store_is_said_to_be_none(self, root: str) -> None:
        """Nothing there; other things there."""
        with pytest.raises(NotAStore, match="makes one"):
            Store.open(root)
        folder = place(root)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "letter.txt").write_text("hello")
        with pytest.raises(NotAStore, match="holds other things"):
            Store.create(root, written_by="tests")

    def test_a_slide_that_was_begun_is_gone_on_with(self, store: Store) -> None:
        """By another writer, from what the first had put away."""
        first, n = writer_of(store, "first"), 40
        claim = claimed(first, "a.svs")
        spool = first.open_spool(claim, info_of("a.svs"), tiles_of("a.svs", n))
        for begin in (0, 10):
            index = np.arange(begin, begin + 10, dtype=np.int32)
            spool.add(index, np.ones(10, bool), vectors_of("a.svs", n)[index])
            spool.flush()
        first.release("a.svs")
        second = writer_of(store, "second")
        claim = claimed(second, "a.svs")
        assert second.open_spool(claim, info_of("a.svs"), tiles_of("a.svs", n)).resumed == 20
        fill(second, claim, n)
        second.seal(claim, rasters_of(), row_of("a.svs"))
        second.close()
        np.testing.assert_array_equal(
            store.bag(KEY, "a.svs").vectors, vectors_of("a.svs", n).astype(np.float16)
        )
        assert [*store.layout.staging(KEY).rglob("*")] == []

    def test_a_slide_that_was_sealed_needs_only_its_commit(self, store: Store) -> None:
        """Whoever comes next commits it, once."""
        first = writer_of(store, "first")
        seal(first, "a.svs", 9)
        first.claimed("a.svs").lock.release()
        second = writer_of(store, "second")
        row = second.recover(claimed(second, "a.svs"))
        assert row is not None
        assert row.run == "first"
        second.close()
        first.publish(force=True)  # the first was only slow
        assert store.dataset(KEY).count_rows() == 9
        whole(store, 1)

    def test_publishing_twice_is_publishing_once(self, store: Store) -> None:
        """As after a lost acknowledgement."""
        writer = writer_of(store)
        seal(writer, "a.svs", 9)
        ready = list(writer._ready)
        writer.publish(force=True)
        for one in ready:
            writer.take(one)
        writer.publish(force=True)
        assert store.dataset(KEY).count_rows() == 9
        assert len(store.dataset(KEY).get_fragments()) == 1
        whole(store, 1)

    def test_any_process_may_stage_and_seal(self, store: Store) -> None:
        """Parts in any order, some of them twice; the same bits as from one spool."""
        n, writer = 50, writer_of(store)
        claim = claimed(writer, "a.svs")
        spool = writer.open_spool(claim, info_of("a.svs"), tiles_of("a.svs", n))
        folder = store.layout.slide_staging(KEY, "a.svs")
        for begin in (30, 0, 15, 0):
            index = np.arange(begin, min(begin + 20, n), dtype=np.int32)
            ok = index != 7
            write_part(folder, index, ok, vectors_of("a.svs", n)[index], slide_id="a.svs")
            spool.mark(index)
        assert spool.done.all()
        ready = pickle.loads(pickle.dumps(seal_slide(store.layout, RECIPE, sealing_of("a.svs", n))))
        writer.take(ready)
        seal(writer, "b.svs", n, lost=(7,))
        writer.close()
        assert store.dataset(KEY).count_rows() == 2 * n
        np.testing.assert_array_equal(store.slide_rows(store.slide(KEY, "a.svs")).ok, np.arange(n) != 7)
        whole(store, 2)

    def test_what_was_not_staged_is_not_sealed(self, store: Store) -> None:
        """Missing tiles, tiles of another grid, and vectors that must not be stored."""
        writer = writer_of(store)
        claim = claimed(writer, "a.svs")
        spool = writer.open_spool(claim, info_of("a.svs"), tiles_of("a.svs", 9))
        folder, index = store.layout.slide_staging(KEY, "a.svs"), np.arange(4, dtype=np.int32)
        write_part(folder, index, np.ones(4, bool), vectors_of("a.svs", 4), slide_id="a.svs")
        with pytest.raises(StoreError, match="5 tiles were never encoded"):
            seal_slide(store.layout, RECIPE, sealing_of("a.svs", 9))
        with pytest.raises(StoreError, match="other tiles"):
            seal_slide(store.layout, RECIPE, sealing_of("a.svs", 4))
        with pytest.raises(VectorInvalid):
            write_part(folder, index, np.ones(4, bool), np.zeros((4, DIM), np.float32), slide_id="a.svs")
        spool.mark(np.arange(9, dtype=np.int32))
        with pytest.raises(StoreError, match="5 tiles were never encoded"):
            writer.seal(claim, rasters_of(), row_of("a.svs"))
        assert int(spool.done.sum()) == 4
        writer.close()

    def test_replacing_leaves_nothing_of_the_old(self, store: Store) -> None:
        """Rows, pixels and rasters."""
        writer = writer_of(store, keep_tiles=True)
        old = seal(writer, "a.svs", 9)
        writer.publish(force=True)
        new = seal(writer, "a.svs", 6, version=1, replaces=old.ingest_id)
        writer.close()
        assert store.slide(KEY, "a.svs").ingest_id == new.ingest_id
        assert store.dataset(KEY).count_rows() == 6
        assert (
            len({path.parent for path in store.layout.pixels(KEY).rglob("zarr.json")}) == 3
        )  # of one archive
        whole(store, 1)

    def test_kept_tiles_are_read_by_their_numbers(self, store: Store) -> None:
        """And what nothing refers to goes with `compact`."""
        writer = writer_of(store, keep_tiles=True)
        seal(writer, "a.svs", 12, lost=(5,))
        writer.close()
        kept = store.pixels(KEY)
        assert kept.slides == ("a.svs",)
        assert kept.nbytes > 0
        found = kept.read("a.svs", [11, 0, 5])
        np.testing.assert_array_equal(found[:2], pixels_of("a.svs", 12)[[11, 0]])
        assert not found[2].any()
        np.testing.assert_array_equal(kept.ok("a.svs"), np.arange(12) != 5)
        stray = store.layout.slide_pixels(KEY, "b.svs", "0" * 32) / "zarr.json"
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"{}")
        assert len(verify(store).notes) == 1
        compact(store)
        assert verify(store).notes == []
        whole(store, 1)

    def test_who_holds_a_slide_holds_it_alone(self, store: Store) -> None:
        """Until it is released; nothing is compacted meanwhile."""
        one, two = writer_of(store, "one"), writer_of(store, "two")
        claimed(one, "a.svs")
        assert two.claim("a.svs") is None
        with pytest.raises(StoreError, match="another process is writing"):
            compact(store)
        one.release("a.svs")
        claimed(two, "a.svs")
        two.close()
        compact(store)

    def test_compact_keeps_every_row_and_nothing_else(self, store: Store) -> None:
        """Fewer files, the same content; what a crash left behind is gone, what waits for its commit is not."""
        writer = writer_of(store)
        for number in range(4):
            seal(writer, f"{number}.svs", 8)
            writer.publish(force=True)
        seal(writer, "waits.svs", 8)
        writer.claimed("waits.svs").lock.release()
        with pytest.raises(StoreError, match="run the same ingest again"):
            compact(store)
        writer.publish(force=True)
        writer.close()
        dead = writer_of(store, "dead")
        seal(dead, "dead.svs", 8)
        dead.release("dead.svs")
        remove_tree(store.layout.slide_staging(KEY, "dead.svs"))
        assert len(verify(store).notes) == 1
        report = compact(store)
        assert report.files_after < report.files_before
        assert report.bytes_after < report.bytes_before
        assert len(store.dataset(KEY).get_fragments()) == 1
        whole(store, 5)
        assert verify(store).notes == []

    def test_verify_finds_what_was_damaged(self, store: Store) -> None:
        """A vector changed on the disk, rasters gone, a data file gone."""
        writer = writer_of(store)
        seal(writer, "a.svs", 9)
        seal(writer, "b.svs", 9)
        writer.close()
        remove_tree(store.layout.raster(KEY, "b.svs"))
        (problem,) = verify(store).problems
        assert "thumbnail and tissue mask are missing" in problem
        file = children(store.layout.tiles(KEY) / "data", "*.lance")[0]
        data, half = file.read_bytes(), vectors_of("a.svs", 9).astype(np.float16).tobytes()
        at = (
            data.find(half[:32])
            if half[:32] in data
            else data.find(vectors_of("b.svs", 9).astype(np.float16).tobytes()[:32])
        )
        assert at >= 0
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert any("hash" in problem for problem in verify(Store.open(store.layout.root)).problems)
        file.unlink()
        assert any("cannot be read" in problem for problem in verify(Store.open(store.layout.root)).problems)

    def test_the_flat_copy_is_what_the_bags_are(self, store: Store) -> None:
        """Made once, and again when a slide came."""
        writer = writer_of(store)
        seal(writer, "b.svs", 9, lost=(2,))
        writer.publish(force=True)
        assert len(store.flat(KEY)) == 8
        seal(writer, "a.svs", 5)
        writer.close()
        flat = store.flat(KEY)
        assert flat.slide_ids == ("a.svs", "b.svs")
        np.testing.assert_array_equal(
            np.asarray(flat.vectors), np.concatenate([store.bag(KEY, i).vectors for i in flat.slide_ids])
        )
        folders = [path for path in store.layout.cache(KEY).iterdir() if not path.name.startswith(".")]
        assert len(folders) == 1

    def test_tables_are_asked_by_sql(self, store: Store) -> None:
        """Tiles and slides."""
        writer = writer_of(store)
        seal(writer, "a.svs", 9)
        seal(writer, "b.svs", 5)
        writer.close()
        sql = "SELECT slide_id, COUNT(*) AS n FROM tiles WHERE tissue > 0 GROUP BY slide_id ORDER BY slide_id"
        assert query(store, sql).rows() == [("a.svs", 9), ("b.svs", 5)]
        assert query(store, "SELECT SUM(tiles) FROM slides").item() == 14

    def test_writers_at_once_write_every_slide_once(self, store: Store) -> None:
        """Three of them, all wanting the same slides."""
        slides = [f"{number}.svs" for number in range(6)]

        def work(run: str) -> int:
            writer, done = writer_of(store, run), 0
            for slide_id in slides:
                claim = writer.claim(slide_id)
                known = writer.registry.get(KEY, slide_id)
                if claim is None or (known and known.complete):
                    writer.release(slide_id)
                    continue
                fill(writer, claim, 7)
                writer.seal(claim, rasters_of(), row_of(slide_id))
                writer.publish(force=True)
                done += 1
            writer.close()
            return done

        with ThreadPoolExecutor(3) as pool:
            done = list(pool.map(work, ["one", "two", "three"]))
        assert sum(done) == len(slides)
        assert store.dataset(KEY).count_rows() == 7 * len(slides)
        whole(store, len(slides))

    def test_of_two_that_race_past_the_locks_one_wins(self, store: Store) -> None:
        """The registry decides; what the loser wrote is not seen, and goes."""
        one, two = writer_of(store, "one"), writer_of(store, "two")
        seal(one, "a.svs", 9)
        one.claimed("a.svs").lock.release()
        (store.layout.slide_staging(KEY, "a.svs") / "ready.json").unlink()
        seal(two, "a.svs", 9)
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(writer.publish, force=True) for writer in (one, two)]
        assert [future.result() for future in both] == [None, None]
        assert len(store.rows(KEY)) == 1
        assert len(store.bag(KEY, "a.svs").tile_index) == 9
        one.close()
        two.close()
        compact(store)
        assert store.dataset(KEY).count_rows() == 9
        whole(store, 1)

    def test_a_journal_takes_every_entry_once(self, store: Store) -> None:
        """From several threads, each with a journal of its own."""
        path = store.layout.annotations(KEY)

        def write(name: str) -> None:
            journal = Journal(path)
            for number in range(4):
                journal.append(lambda seen, n=number: {"who": name, "n": n, "at": len(seen)})  # type: ignore[misc]

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(write, "abc"))
        entries = Journal(path).read()
        assert sorted((e["who"], e["n"]) for e in entries) == [(w, n) for w in "abc" for n in range(4)]
        assert [e["at"] for e in entries] == list(range(12))
