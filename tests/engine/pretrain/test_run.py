"""Pre-training from folders to a bundle, on a tiny BEPH."""

import json

import pytest

from beph_store.encoders import load_bundle
from beph_store.encoders.torch_side.beph import load_beph, read_layout
from beph_store.encoders.torch_side.trunks import Size, trunk_from_beph
from beph_store.engine.pretrain.log import Log, read_log
from beph_store.engine.pretrain.options import Codes, PretrainOptions, ProbeSet, Schedule
from beph_store.engine.pretrain.run import pretrain
from beph_store.errors import StoreError, UsageError

from ...threads import one_torch_thread
from .conftest import SIDE

SHORT = Schedule(steps=8, tokenizer_steps=6, batch=8, lr=1e-3, log_every=2, save_every=4, probe_every=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with one_torch_thread():
        yield


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


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"stage": "tokenizer", "step": 2}\n{"stage": "tokeni')
    Log(path).add({"stage": "tokenizer", "step": 4})
    assert [row["step"] for row in read_log(path)] == [2, 4]
