"""The disk is full, not by a patched call: one line, and with more room the same command goes on."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from beph_store.store import Store, compact
from beph_store.testing.synthetic import SlidePlan, write_slide
from tests.faults import full_disk
from tests.faults.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(full_disk.why_not() is not None, reason=full_disk.why_not() or "")


def _on_a_full_disk(name: str, folder: Path, leave: int) -> tuple[dict, pl.DataFrame]:
    """What was said and seen, and the rows in the end."""
    line = [
        *full_disk.unshare(),
        sys.executable,
        "-m",
        "tests.faults.full_disk",
        name,
        str(folder),
        str(leave),
    ]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), pl.read_parquet(folder / "rows.parquet")


def _held(told: dict) -> None:
    code, _, said = told["full"]
    assert code not in (0, None), "the disk was not full"
    assert code > 0, f"it was killed: {code}, {said}"
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert "space" in lines[0], lines[0]
    assert told["seen"] == []
    assert told["again"][0] == 0, told["again"]
    assert told["problems"] == []
    assert told["left"] == []


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_ingest(tmp_path):
    (tmp_path / "slides").mkdir()
    for seed in range(2):
        write_slide(
            tmp_path / "slides" / f"{seed}.tif", SlidePlan(size=(2048, 2048), seed=seed, nuisances=())
        )
    whole = tmp_path / "whole"
    subprocess.run(full_disk.job("ingest", tmp_path, whole), check=True, capture_output=True, cwd=ROOT)
    told, rows = _on_a_full_disk("ingest", tmp_path, 3 << 20)
    _held(told)
    assert_frame_equal(rows, full_disk.rows(whole))


@pytest.mark.timeout(300)
def test_import(tmp_path):
    OPERATIONS["import"].prepare(tmp_path)
    subprocess.run(full_disk.job("import", tmp_path, tmp_path / "whole"), check=True, cwd=ROOT)
    told, rows = _on_a_full_disk("import", tmp_path, 24 << 10)
    _held(told)
    assert_frame_equal(rows, full_disk.rows(tmp_path / "whole"))


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_compact(tmp_path):
    OPERATIONS["compact"].prepare(tmp_path)
    before = tmp_path / "before"
    (tmp_path / "S").rename(before)
    told, rows = _on_a_full_disk("compact", tmp_path, 8 << 10)
    _held(told)
    compact(Store.open(before))
    assert_frame_equal(rows, full_disk.rows(before))
