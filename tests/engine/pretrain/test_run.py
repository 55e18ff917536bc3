"""Pre-training from folders to a bundle, on a tiny BEPH."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from beph_store.encoders import load_bundle
from beph_store.encoders.torch_side.beph import load_beph, read_layout
from beph_store.encoders.torch_side.trunks import Size, checkpoint, make_trunk, trunk_from_beph
from beph_store.engine.pretrain.options import Codes, PretrainOptions, ProbeSet, Schedule
from beph_store.engine.pretrain.run import pretrain
from beph_store.errors import StoreError, UsageError

from ...threads import one_torch_thread

SIDE = 48
SHORT = Schedule(steps=8, tokenizer_steps=6, batch=8, lr=1e-3, log_every=2, save_every=4, probe_every=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint as BEPH's, two blocks of 32."""
    torch.manual_seed(3)
    trunk = make_trunk(Size(32, 2, 2, SIDE, 2.0))
    torch.nn.init.normal_(trunk.rel_pos_bias.relative_position_bias_table)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(checkpoint(trunk, torch.full((1, 1, 32), 0.25)), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Labelled images of two kinds, by case."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(24):
        kind = n % 2
        base = np.array([[200, 120, 170], [120, 80, 150]][kind])
        pixels = np.clip(base + rng.normal(0, 25, (60, 60, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{n:02d}.png")
        rows.append((f"{n:02d}.png", "ab"[kind], f"case-{n // 2}"))
    pl.DataFrame(rows, schema=["path", "label", "case_id"], orient="row").write_csv(root / "labels.csv")
    return root


def options(checkpoint_file, **changes):
    given = {
        "init": "beph",
        "weights": checkpoint_file,
        "teacher": "beph",
        "teacher_weights": checkpoint_file,
        "schedule": SHORT,
        "codes": Codes(16, 1),
        "mpp": 0.5,
        "name": "mine",
        "workers": 0,
        "device": "cpu",
    }
    return PretrainOptions(**(given | changes))


@pytest.fixture(scope="module")
def done(weights, images, tmp_path_factory):
    probe = ProbeSet(images / "labels.csv")
    return pretrain([images], tmp_path_factory.mktemp("out"), options(weights, probe=probe))


def test_beph_goes_on_and_becomes_a_bundle(done, weights):
    bundle = load_bundle(done.bundle)
    assert bundle.spec.name == "mine"
    assert bundle.spec.mpp == 0.5
    assert bundle.spec.dim == 32
    assert bundle.spec.weights_sha256 != load_beph(weights).spec.weights_sha256
    assert bundle.has("fp16")
    assert "not a diagnostic model" in (bundle.path / "MODEL_CARD.md").read_text()


def test_the_checkpoint_is_in_bephs_layout(done):
    loaded = load_beph(done.weights)
    assert loaded.spec.dim == 32
    assert loaded.dropped == ("mask_token",)
    trunk, size = trunk_from_beph(done.weights)
    assert size == Size(32, 2, 2, SIDE, 2.0)
    assert trunk.rel_pos_bias is not None
    assert "rel_pos_bias.relative_position_bias_table" in read_layout(done.weights)


def test_log_result_and_page_tell_the_run(done):
    rows = [json.loads(line) for line in (done.out / "log.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [
        *(("tokenizer", step) for step in (2, 4, 6)),
        *(("masked", step) for step in (2, 4, 6, 8)),
    ]
    assert [row["step"] for row in rows if "probe_balanced_accuracy" in row] == [4, 8]
    assert 0 < rows[2]["codebook_use"] <= 1
    result = json.loads((done.out / "pretrain.json").read_text())
    assert result["tiles"] == 24
    assert result["options"]["schedule"]["steps"] == 8
    page = (done.out / "page.html").read_text()
    assert "done · masked 8 of 8" in page
    assert 'http-equiv="refresh"' not in page
    assert page.count("<svg") >= 4


def test_a_run_stopped_in_the_middle_ends_the_same(done, weights, images, tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        if (row["stage"], row["step"]) == ("masked", 6):
            raise Stop

    wanted = options(weights)
    with pytest.raises(Stop):
        pretrain([images], tmp_path, wanted, progress=stop)
    again = pretrain([images], tmp_path, wanted)
    assert [(row["stage"], row["step"], row["loss"]) for row in again.rows] == [
        (row["stage"], row["step"], row["loss"]) for row in done.rows
    ]
    ours, theirs = (load_beph(one.weights).spec.weights_sha256 for one in (again, done))
    assert ours == theirs
    with pytest.raises(StoreError, match="other options"):
        pretrain([images], tmp_path, options(weights, masked=120))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init": "beph", "weights": None}, "pass --weights"),
        ({"init": "none"}, "no use with --init none"),
        ({"init": "none", "weights": None, "size": "mini"}, "--teacher timm:tf_efficientnet_lite0"),
        ({"size": "base"}, "leave --size out"),
        ({"init": "scratch"}, "choose from none, beph, timm, beph-mini"),
        ({"mpp": 0.0}, "above 0"),
        ({"scale": 0.0}, "--scale"),
    ],
)
def test_options_that_do_not_fit_name_the_cure(weights, changes, words):
    with pytest.raises(UsageError, match=words):
        options(weights, **changes)


def test_tiles_without_a_scale_ask_for_it(weights, images, tmp_path):
    with pytest.raises(UsageError, match="pass --mpp"):
        pretrain([images], tmp_path, options(weights, mpp=None))
    with pytest.raises(UsageError, match="name a store"):
        pretrain([], tmp_path, options(weights))


def test_a_teacher_of_another_tile_size_is_refused(weights, images, tmp_path):
    with pytest.raises(UsageError, match="takes tiles of 224 px, the trunk of 48"):
        pretrain([images], tmp_path, options(weights, teacher=None, teacher_weights=None))


def test_two_processes_train_as_one_run(weights, images, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "beph_store_cli", "pretrain", str(images), "--out", str(tmp_path / "out"), "--json"]
    command += [
        "--init",
        "beph",
        "--weights",
        str(weights),
        "--teacher",
        "beph",
        "--teacher-weights",
        str(weights),
    ]
    command += ["--steps", "4", "--tokenizer-steps", "4", "--batch", "8", "--codes", "16", "--mpp", "0.5"]
    command += ["--log-every", "2", "--workers", "0", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)  # of the first process alone
    assert told["last"]["masked"]["step"] == 4
    rows = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert len(rows) == 4
    assert load_bundle(tmp_path / "out" / "bundle").spec.dim == 32
