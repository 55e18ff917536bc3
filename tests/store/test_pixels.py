"""Kept tiles: what goes in comes out, whatever dies and whenever, and what is wrong with them is found."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import zarr

from beph_store.errors import StoreError, UnknownSlide
from beph_store.records import Recipe, TileSet
from beph_store.store import RecipeWriter, SlideRow, Store, compact, pack, sealing, verify
from beph_store.store.layout import LANCE_VERSION, REGISTRY
from beph_store.store.pixels import SHARD, PixelLog
from beph_store.store.staging import Spool
from tests.store.conftest import ENCODER, TILE, crash, rasters, slide_info, tile_set, vectors

SIDE = 24
RECIPE = Recipe(
    dataclasses.replace(TILE, tile_px=SIDE, stride_px=SIDE), dataclasses.replace(ENCODER, tile_px=SIDE)
)
KEY = RECIPE.key
Begin = Callable[..., RecipeWriter]


def pa_without(schema: pa.Schema, name: str) -> pa.Schema:
    return pa.schema([field for field in schema if field.name != name])


def table_of(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    rows = [{**row, "created_at": datetime.fromisoformat(str(row["created_at"]))} for row in rows]
    return pa.Table.from_pylist(rows, schema=schema)


class Died(Exception):
    """Stands for kill -9."""


@pytest.fixture
def begin(store: Store) -> Begin:
    def make(*, keep: bool = True) -> RecipeWriter:
        return store.writer(RECIPE, run="run", encoder_source="toy", parity={}, keep_tiles=keep)

    return make


def pixels(slide_id: str, n: int) -> np.ndarray:
    """Smooth enough to compress, another for each slide and tile."""
    seed = int.from_bytes(slide_id.encode()[:4], "little")
    coarse = np.random.default_rng(seed).integers(0, 255, (n, SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def tiles_of(slide_id: str, n: int) -> TileSet:
    return dataclasses.replace(tile_set(slide_id, n), spec=RECIPE.tile)


def fill(writer: RecipeWriter, slide_id: str, n: int, *, lost: tuple[int, ...] = ()) -> Spool:
    """Everything from the claim to the last tile, in another order than theirs; what is done is not given again."""
    claim = writer.claim(slide_id)
    assert claim is not None
    spool = writer.open_spool(claim, slide_info(slide_id), tiles_of(slide_id, n))
    todo = np.random.default_rng(n).permutation(np.flatnonzero(~spool.done)).astype(np.int32)
    give(spool, slide_id, todo, n, lost)
    return spool


def give(spool: Spool, slide_id: str, todo: np.ndarray, n: int, lost: tuple[int, ...] = ()) -> None:
    ok = ~np.isin(todo, lost)
    spool.keep(todo[ok], pack(pixels(slide_id, n)[todo[ok]]))
    spool.add(todo, ok, vectors(slide_id, n)[todo])


def seal(
    writer: RecipeWriter, slide_id: str, n: int, *, lost: tuple[int, ...] = (), **row: object
) -> SlideRow:
    fill(writer, slide_id, n, lost=lost)
    return writer.seal(writer.claimed(slide_id), rasters(), SlideRow(KEY, slide_id, "done", **row))  # type: ignore[arg-type]


def archives(store: Store) -> list[Path]:
    return sorted(store.layout.pixels(KEY).glob("*"))


def check(store: Store, slide_id: str, n: int, *, lost: tuple[int, ...] = ()) -> None:
    """Its tiles are those that were given, for our reader and for zarr's."""
    kept = store.pixels(KEY)
    want = pixels(slide_id, n)
    want[list(lost)] = 0
    np.testing.assert_array_equal(kept.read(slide_id, np.arange(n)), want)
    group = zarr.open_group(str(kept._archive(kept.row(slide_id))), mode="r")
    np.testing.assert_array_equal(group["tiles"][...], want)
    np.testing.assert_array_equal(group["ok"][...], ~np.isin(np.arange(n), lost))
    np.testing.assert_array_equal(kept.ok(slide_id), ~np.isin(np.arange(n), lost))


def test_tiles_come_back_as_they_went_in(store: Store, begin: Begin) -> None:
    writer = begin()
    seal(writer, "a.svs", 50, lost=(3, 49))
    seal(writer, "b/c.svs", 7)
    seal(writer, "glass.svs", 0)
    writer.close()
    kept = store.pixels(KEY[:6])
    assert (kept.slides, kept.counts.tolist(), kept.without) == (("a.svs", "b/c.svs"), [50, 7], ())
    check(store, "a.svs", 50, lost=(3, 49))
    check(store, "b/c.svs", 7)
    np.testing.assert_array_equal(kept.read("b/c.svs", [6, 0, 6]), pixels("b/c.svs", 7)[[6, 0, 6]])
    assert kept.read("b/c.svs", []).shape == (0, SIDE, SIDE, 3)
    assert len([p for p in archives(store)[0].rglob("*") if p.is_file()]) == 5
    report = verify(store)
    assert (report.ok, report.notes) == (True, [])
    (summary,) = store.summaries()
    assert summary.kept_slides == 2
    assert summary.kept_bytes == kept.nbytes == sum(p.stat().st_size for p in archives_files(store))


def archives_files(store: Store) -> list[Path]:
    return [path for path in store.layout.pixels(KEY).rglob("*") if path.is_file()]


def test_what_is_not_there_is_told(store: Store, begin: Begin) -> None:
    writer = begin()
    seal(writer, "a.svs", 5)
    writer.close()
    plain = begin(keep=False)
    seal(plain, "plain.svs", 5)
    plain.close()
    kept = store.pixels(KEY)
    assert (kept.slides, kept.without) == (("a.svs",), ("plain.svs",))
    for name in ("plain.svs", "nope.svs"):
        with pytest.raises(UnknownSlide, match=r"--keep-tiles --replace"):
            kept.read(name, [0])
    for number in (-1, 5):
        with pytest.raises(IndexError):
            kept.read("a.svs", [0, number])


def test_nothing_is_kept_unless_asked_for(store: Store, begin: Begin) -> None:
    writer = begin(keep=False)
    row = seal(writer, "a.svs", 5)
    assert not list(store.layout.staging(KEY).rglob("pixels*"))
    writer.close()
    assert row.pixels_sha256 is None
    assert not store.layout.pixels(KEY).exists()


def test_an_archive_is_seen_with_its_row_and_not_before(store: Store, begin: Begin) -> None:
    writer = begin()
    seal(writer, "a.svs", 5)
    assert len(archives(store)) == 1
    assert store.pixels(KEY).slides == ()
    assert verify(store).notes == []  # it waits for its commit, it is no leftover
    writer.close()
    assert store.pixels(KEY).slides == ("a.svs",)


POINTS = (
    "half way",
    "mid write",
    "before the archive",
    "in the archive",
    "before ready",
    "before placing",
    "sealed",
    "appended",
    "registered",
)


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_changes_nothing(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    n, lost = 40, (7,)
    with monkeypatch.context() as patch, pytest.raises(Died):
        _die_at(point, begin(), n, lost, patch)
    second = begin()
    claim = second.claim("a.svs")
    assert claim is not None
    known = second.registry.get(KEY, "a.svs")
    if second.recover(claim) is not None:
        assert point in ("before placing", "sealed", "appended")
    elif known is not None:  # nothing waits any more
        assert (point, known.complete) == ("registered", True)
        second.release("a.svs")
    else:
        done_before = second.open_spool(claim, slide_info("a.svs"), tiles_of("a.svs", n)).resumed
        second.release("a.svs")
        fill(second, "a.svs", n, lost=lost)
        assert done_before == {"half way": 20, "mid write": 0}.get(point, n)
        second.seal(second.claimed("a.svs"), rasters(), SlideRow(KEY, "a.svs", "done"))
    second.close()
    check(store, "a.svs", n, lost=lost)
    report = verify(store)
    assert report.ok, report.problems
    assert len(archives(store)) == 1
    assert not list(store.layout.staging(KEY).glob("*"))
    assert (known is not None) == (point == "registered")


def _die_at(
    point: str, writer: RecipeWriter, n: int, lost: tuple[int, ...], patch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Died

    try:
        if point in ("half way", "mid write"):
            claim = writer.claim("a.svs")
            assert claim is not None
            spool = writer.open_spool(claim, slide_info("a.svs"), tiles_of("a.svs", n))
            order = np.arange(n, dtype=np.int32)[::-1]
            give(spool, "a.svs", order[:20], n, lost)
            if point == "half way":
                spool.flush()
            give(spool, "a.svs", order[20:30], n, lost)  # on the disk perhaps, but no part says so
            spool._pixels.sync()  # type: ignore[union-attr]
            raise Died
        steps = {
            "before the archive": (PixelLog, "_write_archive"),
            "in the archive": (zarr.Group, "create_array"),
            "before ready": (sealing, "write_ready"),
            "before placing": (sealing, "place"),
        }
        if point in steps:
            fill(writer, "a.svs", n, lost=lost).flush()
            patch.setattr(*steps[point], die)
        seal_again = SlideRow(KEY, "a.svs", "done")
        if point not in steps:
            fill(writer, "a.svs", n, lost=lost)
        writer.seal(writer.claimed("a.svs"), rasters(), seal_again)
        if point in ("appended", "registered"):
            writer._append(writer._ready)
        if point == "registered":
            writer.registry.put([ready.row for ready in writer._ready])
        raise Died
    finally:
        crash(writer)


def test_a_run_goes_on_where_the_last_part_ends(store: Store, begin: Begin) -> None:
    first = begin()
    claim = first.claim("a.svs")
    assert claim is not None
    spool = first.open_spool(claim, slide_info("a.svs"), tiles_of("a.svs", 40))
    give(spool, "a.svs", np.arange(10, 30, dtype=np.int32), 40)
    spool.flush()
    log = claim.folder / "pixels.log"
    vouched = log.stat().st_size
    give(spool, "a.svs", np.arange(30, 35, dtype=np.int32), 40)
    spool._pixels.sync()  # type: ignore[union-attr]
    assert log.stat().st_size > vouched
    crash(first)
    second = begin()
    claim = second.claim("a.svs")
    assert claim is not None
    spool = second.open_spool(claim, slide_info("a.svs"), tiles_of("a.svs", 40))
    assert np.flatnonzero(spool.done).tolist() == list(range(10, 30))
    assert log.stat().st_size == vouched
    second.release("a.svs")
    seal(second, "a.svs", 40)
    second.close()
    check(store, "a.svs", 40)


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_vectors_whose_pixels_are_lost_are_made_again(store: Store, begin: Begin, harm: str) -> None:
    first = begin()
    fill(first, "a.svs", 20)
    first.release("a.svs")
    log = store.layout.slide_staging(KEY, "a.svs") / "pixels.log"
    log.unlink() if harm == "gone" else log.write_bytes(log.read_bytes()[:-1])
    second = begin()
    claim = second.claim("a.svs")
    assert claim is not None
    assert second.open_spool(claim, slide_info("a.svs"), tiles_of("a.svs", 20)).resumed == 0
    second.release("a.svs")
    seal(second, "a.svs", 20)
    second.close()
    check(store, "a.svs", 20)


@pytest.mark.parametrize("keep", [True, False])
def test_another_wish_begins_the_slide_anew(store: Store, begin: Begin, keep: bool) -> None:
    first = begin(keep=not keep)
    fill(first, "a.svs", 20)
    first.release("a.svs")
    second = begin(keep=keep)
    claim = second.claim("a.svs")
    assert claim is not None
    assert second.open_spool(claim, slide_info("a.svs"), tiles_of("a.svs", 20)).resumed == 0
    second.release("a.svs")
    seal(second, "a.svs", 20)
    second.close()
    assert store.pixels(KEY).slides == (("a.svs",) if keep else ())
    assert verify(store).ok


def test_a_tile_without_its_pixels_does_not_become_an_archive(begin: Begin) -> None:
    writer = begin()
    claim = writer.claim("a.svs")
    assert claim is not None
    spool = writer.open_spool(claim, slide_info("a.svs"), tiles_of("a.svs", 4))
    spool.add(np.arange(4, dtype=np.int32), np.ones(4, bool), vectors("a.svs", 4))
    with pytest.raises(StoreError, match="4 tiles were never kept"):
        writer.seal(claim, rasters(), SlideRow(KEY, "a.svs", "done"))


@pytest.mark.parametrize("keep", [True, False])
def test_replacing_a_slide_replaces_its_tiles_at_the_commit(store: Store, begin: Begin, keep: bool) -> None:
    writer = begin()
    old = seal(writer, "a.svs", 9)
    writer.close()
    second = begin(keep=keep)
    seal(second, "a.svs", 4, replaces=old.ingest_id)
    check(store, "a.svs", 9)  # still
    second.close()
    if keep:
        check(store, "a.svs", 4)
    assert len(archives(store)) == int(keep)
    report = verify(store)
    assert report.ok
    assert not any("kept tiles" in note for note in report.notes)


def test_the_loser_of_a_race_is_a_note_and_compact_removes_it(store: Store, begin: Begin) -> None:
    one, two = begin(), begin()
    seal(one, "a.svs", 9)
    crash(one)
    (store.layout.slide_staging(KEY, "a.svs") / "ready.json").unlink()
    seal(two, "a.svs", 9)
    one.publish(force=True)
    two.close()
    assert len(archives(store)) == 2
    report = verify(store)
    assert report.ok
    assert any("of 1 ingests that no slide refers to" in note for note in report.notes)
    compact(store)
    assert len(archives(store)) == 1
    check(store, "a.svs", 9)
    report = verify(store)
    assert (report.ok, report.notes) == (True, [])


@pytest.fixture
def full(store: Store, begin: Begin) -> Store:
    writer = begin()
    seal(writer, "a.svs", 30, lost=(4,))
    seal(writer, "b.svs", 30, lost=(4,))
    writer.close()
    return store


def test_verify_finds_flipped_bits_wherever_they_are(full: Store) -> None:
    shard = archives(full)[0] / SHARD
    good = shard.read_bytes()
    rng, seen = np.random.default_rng(0), 0
    for offset in [*rng.integers(0, len(good), 40).tolist(), len(good) - 1, len(good) - 100]:
        bad = bytearray(good)
        bad[offset] ^= 1 << int(rng.integers(8))
        shard.write_bytes(bad)
        report = verify(full)
        if report.ok:  # a bit that zstd does not use: the pixels are what they were
            check(full, "a.svs", 30, lost=(4,))
            continue
        seen += 1
        assert len(report.problems) == 1
        assert "kept tiles" in report.problems[0]
    assert seen > 35
    shard.write_bytes(good)
    assert verify(full).ok


def test_a_damaged_tile_is_never_given_out(full: Store) -> None:
    shard = archives(full)[0] / SHARD
    bad = bytearray(shard.read_bytes())
    with full.pixels(KEY).open(full.pixels(KEY).rows[0]) as opened:
        offset, count = (int(value) for value in opened.index()[11])
    bad[offset + count // 2] ^= 16
    shard.write_bytes(bad)
    kept = full.pixels(KEY)
    np.testing.assert_array_equal(kept.read("a.svs", [10]), pixels("a.svs", 30)[[10]])
    with pytest.raises(StoreError, match=r"a\.svs are damaged at tile 11: .*--replace"):
        kept.read("a.svs", [10, 11])


@pytest.mark.parametrize(
    "harm", ["missing", "no shard", "cut", "no metadata", "not ok", "another's", "older"]
)
def test_verify_finds_what_is_missing_or_another_slides(full: Store, harm: str) -> None:
    mine, other = archives(full)
    if harm == "missing":
        shutil.rmtree(mine)
    elif harm == "no shard":
        (mine / SHARD).unlink()
    elif harm == "cut":
        (mine / SHARD).write_bytes((mine / SHARD).read_bytes()[:-1])
    elif harm == "no metadata":
        (mine / "tiles" / "zarr.json").unlink()
    elif harm == "not ok":
        zarr.open_group(str(mine))["ok"][...] = True
    elif harm == "another's":
        shutil.copy(other / SHARD, mine / SHARD)
    else:
        zarr.open_group(str(mine)).attrs["ingest_id"] = "0" * 32
    report = verify(full)
    assert [line.split(" [")[0] for line in report.problems[:1]] == ["slide a.svs"]
    assert "kept tiles" in report.problems[0]
    if harm == "missing":
        kept = full.pixels(KEY)
        assert (kept.slides, kept.without) == (("b.svs",), ("a.svs",))


def test_a_store_from_before_there_were_kept_tiles(tmp_path: Path) -> None:
    """Its registry has no such column: it is read as it is, and the next ingest adds it."""
    store = Store.create(tmp_path / "old", written_by="test")
    shutil.rmtree(store.layout.registry)
    before = pa_without(REGISTRY, "pixels_sha256")
    lance.write_dataset(
        before.empty_table(), str(store.layout.registry), mode="create", data_storage_version=LANCE_VERSION
    )
    old = {**SlideRow(KEY, "old.svs", "done", tiles=3, ingest_id="1").to_json(), "key": f"{KEY}/old.svs"}
    (
        store.registry.dataset()
        .merge_insert("key")
        .when_not_matched_insert_all()
        .execute(table_of([old], before))
    )
    assert store.rows(KEY)[0].pixels_sha256 is None
    assert store.slides().height == 1
    writer = store.writer(RECIPE, run="new", encoder_source="toy", parity={}, keep_tiles=True)
    seal(writer, "new.svs", 3)
    writer.close()
    assert store.registry.missing_columns() == []
    assert [row.pixels_sha256 is None for row in store.rows(KEY)] == [False, True]
    assert store.pixels(KEY).slides == ("new.svs",)
    assert store.pixels(KEY).without == ("old.svs",)
