"""SIGKILL at some moment, the same command again: the predictions of a run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from safetensors.torch import load_file


@pytest.fixture
def start(world):
    """``start(out)`` a fine-tuning into ``out``; none outlives the test."""
    running: list[subprocess.Popen[str]] = []
    yield lambda out: running.append(begin(world, out)) or running[-1]
    for process in running:
        process.kill()


def begin(world, out: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "beph_store_cli", "finetune", str(world.table), "--encoder", "beph",
        "--weights", str(world.checkpoint), "--out", str(out), "--folds", "3", "--epochs", "4", "--batch", "8",
        "--lr", "0.02", "--draws", "20", "--workers", "1", "--json",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def epochs(out: Path) -> int:
    log = out / "log.jsonl"
    return len(log.read_text().splitlines()) if log.is_file() else 0


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_killed_again_and_again(start, tmp_path):
    whole = start(tmp_path / "whole")
    wanted, errors = whole.communicate()
    assert whole.returncode == 0, errors
    for least in (1, 4, 9):
        run = start(tmp_path / "killed")
        while epochs(tmp_path / "killed") < least and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=60)  # its pipes close when the process that reads tiles for it has ended too
    last = start(tmp_path / "killed")
    said, errors = last.communicate()
    assert last.returncode == 0, errors
    assert json.loads(said)["metrics"] == json.loads(wanted)["metrics"]
    assert_frame_equal(
        pl.read_parquet(tmp_path / "killed" / "predictions.parquet"),
        pl.read_parquet(tmp_path / "whole" / "predictions.parquet"),
    )
    ours, theirs = (load_file(tmp_path / name / "encoder.safetensors") for name in ("killed", "whole"))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
