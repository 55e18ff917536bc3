"""Two processes under torchrun train as one run, and one that loses a process ends the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beph_store.encoders import load_bundle
from beph_store.encoders.torch_side.beph import load_beph

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(images, weights, out, *, restarts):
    beph = [
        "--init",
        "beph",
        "--weights",
        str(weights),
        "--teacher",
        "beph",
        "--teacher-weights",
        str(weights),
    ]
    sizes = ["--steps", "60", "--tokenizer-steps", "4", "--batch", "8", "--codes", "16", "--mpp", "0.5"]
    how = ["--log-every", "2", "--save-every", "4", "--workers", "0", "--device", "cpu", "--json"]
    start = [
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        str(restarts),
    ]
    train = ["-m", "beph_store_cli", "pretrain", str(images), "--out", str(out)]
    return [sys.executable, "-m", *start, *train, *beph, *sizes, *how]


@pytest.fixture(scope="module")
def whole(weights, images, tmp_path_factory):
    """A run that nothing happens to: its folder, and what it said."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run(
        command(images, weights, out, restarts=0),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out, done.stdout


def rows(out):
    return [
        (row["stage"], row["step"], row["loss"])
        for row in map(json.loads, (out / "log.jsonl").read_text().splitlines())
    ]


def test_two_processes_train_as_one_run(whole):
    out, said = whole
    assert json.loads(said)["last"]["masked"]["step"] == 60  # of the first process alone
    assert len(rows(out)) == 32
    assert load_bundle(out / "bundle").spec.dim == 32
    assert not list(out.glob(".*"))  # nothing half written, by nobody


@pytest.mark.soak
def test_a_run_that_loses_a_process_is_restarted_and_ends_the_same(whole, weights, images, tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        command(images, weights, out, restarts=1),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        killed = kill_one(process.pid, out / "log.jsonl")
        said = process.communicate()[1]
    assert process.returncode == 0, said[-3000:]
    assert killed < 32, "the run ended before it lost a process"
    assert rows(out) == rows(whole[0])
    ours, theirs = (load_beph(folder / "encoder.pth").spec.weights_sha256 for folder in (out, whole[0]))
    assert ours == theirs


def kill_one(launcher, log):
    """Wait until some steps of masked modelling are done, then kill a process of the launcher; how many rows there
    were.
    """
    end = time.monotonic() + 120
    while time.monotonic() < end:
        count = len(log.read_text().splitlines()) if log.exists() else 0
        if count >= 9:
            children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            return count
        time.sleep(0.02)
    raise AssertionError("no step was made in two minutes")
