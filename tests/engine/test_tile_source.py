"""Tiles by number, from a store that keeps them and from a folder of images."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beph_store.engine import tile_source
from beph_store.engine.tile_source import ArchiveSource, FolderSource, open_source
from beph_store.errors import FormatUnknown, RecipeMismatch, StoreError, UnknownSlide, UsageError
from beph_store.records import Recipe
from beph_store.store import RecipeWriter, SlideRow, Store, pack
from tests.store.conftest import ENCODER, TILE, rasters, slide_info, tile_set, vectors

SIDE = 16


def recipe(mpp: float = 0.5) -> Recipe:
    return Recipe(replace(TILE, tile_px=SIDE, stride_px=SIDE, mpp=mpp), replace(ENCODER, tile_px=SIDE))


KEY = recipe().key


def pixels(slide_id: str, n: int) -> np.ndarray:
    """Spell the slide and the number of each tile."""
    out = np.empty((n, SIDE, SIDE, 3), np.uint8)
    out[..., 0], out[..., 1] = ord(slide_id[0]), np.arange(n)[:, None, None]
    out[..., 2] = np.arange(SIDE)
    return out


def put(writer: RecipeWriter, slide_id: str, n: int, lost: tuple[int, ...] = (), **row: object) -> None:
    claim = writer.claim(slide_id)
    assert claim is not None
    tiles = replace(tile_set(slide_id, n), spec=writer.recipe.tile)
    spool = writer.open_spool(claim, slide_info(slide_id), tiles)
    todo = np.arange(n, dtype=np.int32)
    ok = ~np.isin(todo, lost)
    spool.keep(todo[ok], pack(pixels(slide_id, n)[ok]))
    spool.add(todo, ok, vectors(slide_id, n))
    writer.seal(claim, rasters(), SlideRow(writer.key, slide_id, "done", **row))  # type: ignore[arg-type]


def writer_of(store: Store, *, keep: bool = True, mpp: float = 0.5) -> RecipeWriter:
    return store.writer(recipe(mpp), run="run", encoder_source="toy", parity={}, keep_tiles=keep)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """a: 20 tiles, 2 of them unreadable; b: 5; c: without pixels; d: nothing but an unreadable tile. Read only."""
    made = Store.create(tmp_path_factory.mktemp("kept") / "S", written_by="test")
    writer = writer_of(made)
    put(writer, "a.svs", 20, lost=(0, 7))
    put(writer, "b.svs", 5)
    put(writer, "d.svs", 1, lost=(0,))
    writer.close()
    plain = writer_of(made, keep=False)
    put(plain, "c.svs", 4)
    plain.close()
    return made


def names(tiles: list[np.ndarray]) -> list[tuple[str, int]]:
    for tile in tiles:
        np.testing.assert_array_equal(tile[3, :, 2], np.arange(SIDE))
    return [(chr(tile[0, 0, 0]), int(tile[0, 0, 1])) for tile in tiles]


def test_it_has_the_readable_tiles_of_all_slides_in_order(store: Store) -> None:
    source = ArchiveSource(store, KEY)
    expected = [("a", i) for i in range(20) if i not in (0, 7)] + [("b", i) for i in range(5)]
    assert len(source) == len(expected) == 23
    assert names(source.read(np.arange(23))) == expected
    index = np.array([22, 0, 5, 5, 18, 17])
    got = source.read(index)
    assert names(got) == [expected[i] for i in index]
    assert all(
        tile.shape == (SIDE, SIDE, 3) and tile.dtype == np.uint8 and tile.flags.writeable for tile in got
    )
    assert [source.slides[i] for i in source.slide_of(index)] == ["b.svs", *["a.svs"] * 3, "b.svs", "a.svs"]
    assert source.recipe.tile.mpp == 0.5
    assert source.read(np.array([], np.int64)) == []
    for wrong in ([-1], [23], [0, 99]):
        with pytest.raises(IndexError):
            source.read(np.array(wrong))


def test_what_is_left_out_is_listed(store: Store) -> None:
    assert ArchiveSource(store, KEY).left_out == (
        ("c.svs", "its tiles were not kept"),
        ("a.svs", "unreadable tiles: 2"),
        ("d.svs", "unreadable tiles: 1"),
    )
    assert ArchiveSource(store, KEY, ["b.svs"]).left_out == ()


def test_some_slides_by_name(store: Store) -> None:
    source = ArchiveSource(store, KEY, ["b", "a.svs", "b.svs"])
    assert source.slides == ("a.svs", "b.svs")
    assert names(ArchiveSource(store, KEY, ["b"]).read(np.array([4, 1]))) == [("b", 4), ("b", 1)]
    with pytest.raises(UnknownSlide, match="nope"):
        ArchiveSource(store, KEY, ["a.svs", "nope"])
    with pytest.raises(UnknownSlide, match=r"c\.svs are not kept: .*--keep-tiles --replace"):
        ArchiveSource(store, KEY, ["c.svs"])
    with pytest.raises(StoreError, match="--keep-tiles"):
        ArchiveSource(store, KEY, ["d.svs"])


def test_the_fingerprint_names_the_tiles(store: Store, tmp_path: Path) -> None:
    one = ArchiveSource(store, KEY).fingerprint
    shutil.copytree(store.layout.root, tmp_path / "moved")
    assert open_source(tmp_path / "moved").fingerprint == one
    assert ArchiveSource(store, KEY, ["a.svs"]).fingerprint != one
    moved = Store.open(tmp_path / "moved")
    old = moved.slide(KEY, "b.svs")
    writer = writer_of(moved)
    put(writer, "b.svs", 5, replaces=old.ingest_id)
    writer.close()
    assert moved.slide(KEY, "b.svs").ingest_id != old.ingest_id
    assert ArchiveSource(moved, KEY).fingerprint == one  # the same pixels again
    writer = writer_of(moved)
    put(writer, "b.svs", 5, lost=(1,), replaces=moved.slide(KEY, "b.svs").ingest_id)
    writer.close()
    assert ArchiveSource(moved, KEY).fingerprint != one


def test_few_files_are_open_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_source, "OPEN_SLIDES", 1)
    source = ArchiveSource(store, KEY)
    assert names(source.read(np.array([20, 1, 21, 2]))) == [("b", 2), ("a", 2), ("b", 3), ("a", 3)]
    assert len(source._open) == 1
    source.close()
    assert not source._open
    assert len(source.read(np.array([3]))) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of several kinds and sizes, one cut off, one of 16 bits, one that is none. Read only."""
    root = tmp_path_factory.mktemp("images")
    (root / "sub").mkdir()
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(root / "b.png")
    Image.fromarray(picture[:8, :8]).save(root / "sub" / "a.tif")
    Image.fromarray(picture[..., 0]).save(root / "grey.bmp")
    Image.fromarray(picture).save(root / "c.JPG", quality=90)
    whole = (root / "c.JPG").read_bytes()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "none.png").write_bytes(b"no picture")
    Image.fromarray(rng.integers(0, 65535, (9, 9), dtype=np.uint16)).save(root / "deep.png")
    (root / "notes.txt").write_text("not an image")
    return root


def test_a_folder_is_its_readable_images_by_name(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = FolderSource(folder, progress=lambda done, total: seen.append((done, total)))
    assert source.names == ("b.png", "c.JPG", "grey.bmp", "sub/a.tif")
    assert seen == [(i, 7) for i in range(1, 8)]
    left_out = dict(source.left_out)
    assert set(left_out) == {"cut.jpg", "none.png", "deep.png"}
    assert "truncated" in left_out["cut.jpg"]
    assert "8 bits" in left_out["deep.png"]
    small, large, grey = source.read(np.array([3, 0, 2]))
    np.testing.assert_array_equal(small, large[:8, :8])
    np.testing.assert_array_equal(grey, np.repeat(large[..., :1], 3, axis=2))
    with pytest.raises(IndexError):
        source.read(np.array([4]))


def test_the_fingerprint_of_a_folder_is_that_of_its_files(folder: Path, tmp_path: Path) -> None:
    one = FolderSource(folder).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert FolderSource(copy).fingerprint == one
    Image.new("RGB", (30, 40)).save(copy / "b.png")
    assert FolderSource(copy).fingerprint != one
    shutil.copy(folder / "b.png", copy / "b.png")
    assert FolderSource(copy).fingerprint == one
    (copy / "b.png").rename(copy / "bb.png")
    assert FolderSource(copy).fingerprint != one


def test_a_file_that_goes_bad_later_is_an_error_and_no_other_image(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    source = FolderSource(copy)
    (copy / "b.png").unlink()
    with pytest.raises(UsageError, match=r"b\.png cannot be read"):
        source.read(np.array([0]))


def test_a_path_gives_the_source_that_it_is(store: Store, folder: Path) -> None:
    assert isinstance(open_source(store.layout.root), ArchiveSource)
    assert isinstance(open_source(str(store.layout.root), KEY[:4]), ArchiveSource)
    assert isinstance(open_source(folder), FolderSource)


def test_what_cannot_be_a_source_is_told_with_its_cure(folder: Path, tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no store and holds no images"):
        open_source(tmp_path)
    with pytest.raises(UsageError, match="no recipe 'abc'"):
        open_source(folder, "abc")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"none of the 1 images .*x\.png"):
        open_source(tmp_path / "bad")
    with pytest.raises(RecipeMismatch, match="no recipe begins with 'zzz'"):
        open_source(store.layout.root, "zzz")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "store.json").write_text('{"format": 99}')
    with pytest.raises(FormatUnknown):
        open_source(tmp_path / "new")


def test_a_store_without_kept_tiles_and_one_with_too_many(tmp_path: Path) -> None:
    made = Store.create(tmp_path / "S", written_by="test")
    with pytest.raises(StoreError, match=r"keeps no tiles .*--keep-tiles.*--replace"):
        open_source(made.layout.root)
    plain = writer_of(made, keep=False)
    put(plain, "a.svs", 3)
    plain.close()
    with pytest.raises(StoreError, match=r"keeps no tiles .*--keep-tiles.*--replace"):
        open_source(made.layout.root)
    finer = writer_of(made, mpp=0.25)
    put(finer, "a.svs", 3)
    finer.close()
    source = open_source(made.layout.root)  # the only one that there is to take
    assert isinstance(source, ArchiveSource)
    assert source.recipe.tile.mpp == 0.25
    third = writer_of(made, mpp=1.0)
    put(third, "a.svs", 3)
    third.close()
    with pytest.raises(RecipeMismatch, match="more than one recipe has kept tiles"):
        open_source(made.layout.root)
    assert len(open_source(made.layout.root, recipe(1.0).key)) == 3


def _read_elsewhere(pickled: bytes, result: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    result.put([_look(source) for source in pickle.loads(pickled)])


def _look(source: ArchiveSource | FolderSource) -> tuple[str, list[int]]:
    return source.fingerprint, [int(tile.sum()) for tile in source.read(np.array([2, 0]))]


def test_both_go_into_a_spawned_process(store: Store, folder: Path) -> None:
    sources = [ArchiveSource(store, KEY), FolderSource(folder)]
    here = [_look(source) for source in sources]  # their files are open now
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=_read_elsewhere, args=(pickle.dumps(sources), result))
    process.start()
    assert result.get(timeout=60) == here
    process.join(60)
