"""Kill it at any instant, start it again: the store is what an uninterrupted run would have written."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from beph_store.store import KeptTiles, Store, verify


def _start(slides: list[Path], store: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "beph_store_cli",
        "ingest",
        *map(str, slides),
        "--store",
        str(store),
        "--json",
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(slides: list[Path], store: Path, *options: str) -> float:
    start = time.monotonic()
    process = _start(slides, store, *options)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return time.monotonic() - start


def _rows(store: Path) -> pl.DataFrame:
    opened = Store.open(store)
    tiles = opened.tiles(opened.recipe().recipe.key).drop("ingest_id").collect()
    return tiles.sort("slide_id", "tile")


def _kill_and_compare(slides: list[Path], folder: Path, *options: str, kills: int, seed: int) -> None:
    """``kills`` kills, each of a run at work; an ingest that ends before its kill is compared and begun anew."""
    took = _finish(slides, folder / "whole", *options)
    start_up = _finish(slides, folder / "whole", *options)  # nothing left to do
    chance = random.Random(seed)
    killed, store = 0, folder / "killed-0"
    while killed < kills:
        process = _start(slides, store, *options)
        try:
            process.wait(
                start_up * chance.uniform(0.3, 1.0) + (took - start_up) * chance.uniform(0, 1.5 / kills)
            )
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
            if (store / "store.json").exists():
                assert verify(Store.open(store)).ok  # at no time is a half-written slide to be seen
        else:
            _compare(store, folder / "whole")
            store = folder / f"killed-{killed}"
    _finish(slides, store, *options)
    _compare(store, folder / "whole")


def _compare(store: Path, whole: Path) -> None:
    report = verify(Store.open(store))
    assert report.ok, report.problems
    assert_frame_equal(_rows(store), _rows(whole))
    assert not [path for path in (store / "staging").rglob("*") if path.is_file()]
    mine, theirs = _kept(store), _kept(whole)
    assert (mine.slides, mine.counts.tolist()) == (theirs.slides, theirs.counts.tolist())
    for slide_id, count in zip(mine.slides, mine.counts.tolist(), strict=True):
        every = np.arange(count)
        np.testing.assert_array_equal(mine.read(slide_id, every), theirs.read(slide_id, every))
        assert mine.row(slide_id).pixels_sha256 == theirs.row(slide_id).pixels_sha256


def _kept(store: Path) -> KeptTiles:
    opened = Store.open(store)
    return opened.pixels(opened.recipe().recipe.key)


def test_killed_three_times(drawn_slide, tmp_path: Path) -> None:
    slides = [tmp_path / "slides" / name for name in ("a.tif", "b.tif", "c.tif")]
    slides[0].parent.mkdir()
    for slide in slides:
        shutil.copy(drawn_slide.path, slide)
    _kill_and_compare(slides, tmp_path, "--limit-tiles", "32", kills=3, seed=1)


def test_killed_while_tiles_are_kept(drawn_slide, tmp_path: Path) -> None:
    slides = [tmp_path / "slides" / name for name in ("a.tif", "b.tif")]
    slides[0].parent.mkdir()
    for slide in slides:
        shutil.copy(drawn_slide.path, slide)
    _kill_and_compare(slides, tmp_path, "--keep-tiles", "--limit-tiles", "24", kills=2, seed=3)
    assert _kept(tmp_path / "whole").slides == ("a.tif", "b.tif")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_ten_times_on_real_slides(realdata: Path, tmp_path: Path) -> None:
    names = ("pancreas_pdac_trucut_HE3_20x.tif", "lung_scc_HE3_20x.tif", "lung_scc_HE2_20x.tif")
    _kill_and_compare([realdata / "wsi_atlas" / name for name in names], tmp_path, kills=10, seed=2)


def test_stopped_by_ctrl_c(drawn_slide, tmp_path: Path) -> None:
    """Exit code 130, one line that says how to go on, and what was encoded is kept."""
    slides = [tmp_path / f"{number}.tif" for number in range(8)]
    for slide in slides:
        shutil.copy(drawn_slide.path, slide)
    few = ("--limit-tiles", "24")
    process = _start(slides, tmp_path / "S", *few)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "S").glob("staging/*/*/plan.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("error: stopped; run the same command again")
    assert '"ok": false' in out
    _finish(slides, tmp_path / "S", *few)
    assert verify(Store.open(tmp_path / "S")).ok
