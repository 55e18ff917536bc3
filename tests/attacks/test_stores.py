"""Stores as attackers: edited records and registries, tables swapped, links out, bombs; and folders of other users."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from beph_store.engine.active.labels import LabelBook, TileMark
from beph_store.errors import BephStoreError, StoreError
from beph_store.store import Store, compact, verify
from beph_store.store.journal import Journal

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "format1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))
FULL, SPARSE = EXPECTED["full"], EXPECTED["sparse"]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(shutil.copytree(GOLDEN / "S", tmp_path / "S"))


@pytest.fixture
def victim(tmp_path) -> Path:
    """Somebody's folder, of which nothing may go."""
    home = tmp_path / "victim"
    (home / "photos").mkdir(parents=True)
    (home / "photos" / "one").write_text("precious")
    (home / "letter").write_text("precious")
    (home / "old.lance").write_text("precious")
    (home / "old.lock").write_text("precious")
    return home


def intact(victim: Path) -> bool:
    files = ("photos/one", "letter", "old.lance", "old.lock")
    return all((victim / name).read_text() == "precious" for name in files)


def edit(store: Store, slide_id: str = "beta.svs", **columns: str) -> None:
    """Change a row of the registry as anybody with Lance can."""
    store.registry.dataset().update(columns, where=f"slide_id = '{slide_id}' AND recipe = '{FULL}'")


# --- edited registries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    [
        {"tiles": "11"},
        {"tiles": "-5"},
        {"tiles": "9000000000000"},
        {"unreadable": "3"},
        {"sha256": "'0000'"},
        {"sha256": "NULL"},
        {"ingest_id": "'" + "0" * 32 + "'"},
        {"ingest_id": "'x'' OR ''1''=''1'"},
        {"ingest_id": "NULL"},
        {"status": "'maybe'"},
        {"recipe": "'ffffffffffffffff'"},
        {"pixels_sha256": "'0000'"},
        {"pixels_sha256": "NULL", "sha256": "'11'"},
    ],
    ids=str,
)
def test_verify_finds_an_edited_row(store, columns):
    edit(store, **columns)
    assert any("beta.svs" in problem for problem in verify(store).problems)


def test_a_row_that_is_there_twice_is_found(store):
    lance.write_dataset(store.registry.table().slice(0, 1), str(store.layout.registry), mode="append")
    assert any("2 times" in problem for problem in verify(store).problems)


def test_an_edited_id_reaches_no_other_slides_rows(store):
    edit(store, ingest_id="'x'' OR ''1''=''1'")
    assert len(store.bag(FULL, "beta.svs")) == 0


@pytest.mark.parametrize("evil", ["x/../../../../victim/photos", "../../../victim/photos", "/etc"])
def test_an_edited_id_names_no_folder_elsewhere(store, evil):
    place = store.layout.slide_pixels(FULL, "beta.svs", evil)
    assert place.parent == store.layout.pixels(FULL)
    assert place.resolve().is_relative_to(store.layout.root.resolve())


@pytest.mark.parametrize(
    "slide_id", ["../../../etc/passwd", "/etc/passwd", "..", ".", "", "a\n/../b", "x" * 5000, "\u202egnp"]
)
def test_no_slide_id_names_a_folder_elsewhere(store, slide_id):
    for place in (
        store.layout.raster(FULL, slide_id),
        store.layout.slide_staging(FULL, slide_id),
        store.layout.slide_pixels(FULL, slide_id, "0" * 32),
    ):
        assert place.resolve().is_relative_to(store.layout.root.resolve())
        assert len(place.name) < 255


# --- tables swapped, damaged, of another form -----------------------------------------------------------------------


def test_a_swapped_tile_table_is_found(store):
    shutil.rmtree(store.layout.tiles(FULL))
    shutil.copytree(store.layout.tiles(SPARSE), store.layout.tiles(FULL))
    problems = verify(store).problems
    assert sum("0 tiles, the registry says" in problem for problem in problems) == 3


def test_a_tile_table_of_other_columns_is_found(store):
    shutil.rmtree(store.layout.tiles(FULL))
    table = pa.table({"slide_id": ["beta.svs"], "ingest_id": ["x"], "tile": pa.array([0], pa.int64())})
    lance.write_dataset(table, str(store.layout.tiles(FULL)))
    assert verify(store).problems


def test_rows_of_one_slide_given_to_another_are_found(store):
    dataset = lance.dataset(str(store.layout.tiles(FULL)))
    dataset.update({"x": "x + 256"}, where="slide_id = 'beta.svs'")
    assert any("beta.svs" in problem and "hash" in problem for problem in verify(store).problems)


@pytest.mark.parametrize("how", ["gone", "junk manifest", "junk data", "other columns"])
def test_a_damaged_registry_is_said_in_one_line(store, how):
    path = store.layout.registry
    if how == "gone":
        shutil.rmtree(path)
    elif how == "other columns":
        shutil.rmtree(path)
        lance.write_dataset(pa.table({"key": ["a"], "recipe": [FULL]}), str(path))
    else:
        for file in (path / ("_versions" if how == "junk manifest" else "data")).glob("*.*"):
            file.write_bytes(b"junk")
    for ask in (lambda: list(store.summaries()), lambda: verify(store), lambda: store.bag(FULL, "beta.svs")):
        with pytest.raises(StoreError) as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{}",
        b'{"format": true}',
        b'{"format": [1]}',
        b"\xff" * 9,
        b"[" * 200_000,
        b'{"format": 1',
    ],
)
def test_a_marker_that_is_none_is_refused(store, content):
    store.layout.marker.write_bytes(content)
    with pytest.raises(BephStoreError) as caught:
        Store.open(store.layout.root)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("field", ["mpp", "tile_px", "tissue_min", "dim", "mean", "weights_sha256", "name"])
def test_an_edited_recipe_is_refused(store, field):
    path = store.layout.recipe(FULL)
    record = json.loads(path.read_bytes())
    part = record["recipe"]["tile" if field in record["recipe"]["tile"] else "encoder"]
    part[field] = {"mean": [1.0, 1.0, 1.0], "name": "other", "weights_sha256": "1" * 64}.get(field, 1)
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match="altered"):
        store.recipes()


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b'{"format": 1}', b"[" * 200_000, b"\xff"])
def test_a_recipe_record_that_is_none_is_refused(store, content):
    store.layout.recipe(FULL).write_bytes(content)
    with pytest.raises(StoreError) as caught:
        store.recipes()
    assert len(str(caught.value).splitlines()) == 1


# --- zarr -----------------------------------------------------------------------------------------------------------


def test_a_raster_that_says_it_is_huge_is_refused(store):
    meta = store.layout.raster(FULL, "beta.svs") / "thumbnail" / "zarr.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"shape": [10**7, 10**7, 3]}))
    with pytest.raises(StoreError, match="says that it has"):
        store.rasters(FULL, "beta.svs")


def test_kept_tiles_that_say_they_are_many_are_refused(store):
    (archive,) = store.layout.pixels(FULL).glob("beta*.zarr")
    meta = archive / "ok" / "zarr.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"shape": [10**14]}))
    assert any("beta.svs" in problem for problem in verify(store).problems)


def test_a_pickle_as_a_zarr_codec_is_not_run(store, tmp_path):
    """zarr's second version knows filters that unpickle; only the third is opened."""
    import pickle

    mark = tmp_path / "ran"
    payload = type("P", (), {"__reduce__": lambda self: (os.system, (f"touch {mark}",))})()
    raster = store.layout.raster(FULL, "beta.svs")
    shutil.rmtree(raster)
    (raster / "thumbnail").mkdir(parents=True)
    (raster / ".zgroup").write_text('{"zarr_format": 2}')
    array = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": "|O",
        "compressor": None,
        "fill_value": 0,
        "order": "C",
    }
    array["filters"] = [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]
    (raster / "thumbnail" / ".zarray").write_text(json.dumps(array))
    (raster / "thumbnail" / "0").write_bytes(pickle.dumps(payload))
    with pytest.raises(BephStoreError):
        store.rasters(FULL, "beta.svs")
    assert not mark.exists()


def test_a_pickle_as_a_staged_part_is_not_run(store, tmp_path):
    import pickle

    mark = tmp_path / "ran"
    payload = type("P", (), {"__reduce__": lambda self: (os.system, (f"touch {mark}",))})()
    (folder,) = (path for path in store.layout.staging(FULL).iterdir() if path.name.startswith("delta"))
    np.savez(
        folder / "part-00001.npz", index=np.array([payload], object), ok=np.ones(1, bool), vectors=np.ones(1)
    )
    (folder / "part-00002.npz").write_bytes(pickle.dumps(payload))
    from beph_store.store.staging import Spool

    plan = json.loads((folder / "plan.json").read_text())
    assert Spool(folder, plan, 6).resumed == 4
    assert not mark.exists()


# --- links out of the store -----------------------------------------------------------------------------------------


def linked(place: Path, victim: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim)


@pytest.mark.parametrize("part", ["cache", "cache/KEY"])
def test_a_flat_copy_takes_nothing_away_through_a_link(store, victim, part):
    linked(store.layout.root / part.replace("KEY", FULL), victim)
    assert len(store.flat(FULL)) == 56
    assert intact(victim)


PLACES = [
    "pixels",
    "pixels/KEY",
    "tiles/KEY.lance/data",
    "locks",
    "staging",
    "staging/KEY",
    "slides.lance/_versions",
    "rasters/KEY",
]


@pytest.mark.parametrize("part", PLACES)
def test_compact_and_writers_refuse_a_link_out_of_the_store(store, victim, part):
    linked(store.layout.root / part.replace("KEY", FULL), victim)
    with pytest.raises(StoreError, match=r"link out of the store|cannot be read"):
        compact(store)
    with pytest.raises(StoreError, match=r"link out of the store|cannot be read"):
        store.writer(store.recipe(FULL).recipe, run="r", encoder_source="e", parity={})
    assert intact(victim)


def test_a_lock_that_is_a_link_truncates_nothing(store, victim):
    linked(store.layout.locks / "commit.lock", victim / "letter")
    with pytest.raises((StoreError, OSError)):
        compact(store)
    assert intact(victim)


def test_a_journal_that_is_a_link_is_not_written_through(store, victim):
    linked(store.layout.annotations(FULL), victim / "letter")
    with pytest.raises(BephStoreError):
        LabelBook(Journal(store.layout.annotations(FULL))).mark("Ann", [TileMark("beta.svs", 0, 0, 0, "x")])
    assert intact(victim)


def test_a_link_of_ones_own_is_followed_on_demand(store, tmp_path, monkeypatch):
    moved = tmp_path / "disk2"
    shutil.move(store.layout.root / "pixels", moved)
    (store.layout.root / "pixels").symlink_to(moved)
    with pytest.raises(StoreError, match="BEPH_STORE_FOLLOW_LINKS=1"):
        compact(store)
    monkeypatch.setenv("BEPH_STORE_FOLLOW_LINKS", "1")
    compact(store)
    assert verify(store).problems == []


def test_links_within_the_store_are_fine(store):
    shutil.move(store.layout.root / "pixels", store.layout.root / "pixels-too")
    (store.layout.root / "pixels").symlink_to("pixels-too")
    compact(store)
    assert verify(store).problems == []


# --- another user's permissions -------------------------------------------------------------------------------------


#: Root without the capabilities to pass over permissions (1, 2, 3) obeys the modes of its own files.
_OBEYING = """
import ctypes, os, sys
for capability in (1, 2, 3) if os.getuid() == 0 else ():
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "beph_store_cli", *sys.argv[1:]])
"""


@pytest.fixture
def foreign(tmp_path):
    """A store that may be read only, and ``run(*line)``: a command of a user who may not change that."""
    if sys.platform != "linux":
        pytest.skip("permissions are tested on Linux")
    place, own = tmp_path / "foreign" / "S", tmp_path / "own"
    own.mkdir()
    shutil.copytree(GOLDEN / "S", place)
    files = [place, *place.rglob("*")]
    for path in files:
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = os.environ | {"HOME": str(own), "BEPH_STORE_CACHE": str(own / "cache")}

    def run(*line: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _OBEYING, *map(str, line)]
        return subprocess.run(
            command,
            env=environment,
            cwd=own,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    yield place, run
    for path in files:
        if path.exists():
            path.chmod(0o755)


@pytest.mark.parametrize(
    "line",
    [
        ("info", "S"),
        ("slides", "S"),
        ("verify", "S"),
        ("query", "S", "SELECT count(*) AS n FROM tiles", "--recipe", FULL),
    ],
    ids=lambda line: line[0],
)
def test_a_store_that_may_only_be_read_is_read(foreign, line):
    place, run = foreign
    done = run(*[place if word == "S" else word for word in line])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        ("compact", "S"),
        ("search", "S", "--recipe", FULL, "--slide", "beta.svs"),  # makes the flat copy
        ("ingest", "slide.png", "--store", "S", "--slide-mpp", "0.5"),
    ],
    ids=lambda line: line[0],
)
def test_what_must_write_says_so_in_one_line(foreign, line):
    place, run = foreign
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    if line[0] == "ingest":
        from PIL import Image

        Image.new("RGB", (512, 512), (200, 100, 150)).save(place.parent.parent / "own" / "slide.png")
    done = run(*[place if word == "S" else word for word in line])
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_a_store_that_may_not_even_be_read_is_said_in_one_line(foreign):
    place, run = foreign
    (place / "store.json").chmod(0)
    done = run("info", place)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
