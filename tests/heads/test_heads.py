"""The table, the checks, and heads on disk."""

import dataclasses
import json

import numpy as np
import pytest

from beph_store.errors import HeadError
from beph_store.heads import HEADS, HeadOptions, fit, fit_many, head_row, load_head, save_head
from beph_store.records import Bags, ClassTarget, SurvivalTarget

NONE = np.zeros(0, int)
EVERY = [
    (row.name, loss, task)
    for row in HEADS.values()
    for loss, task in (("cross_entropy", "classes"), ("cox", "survival"), ("nll", "survival"))
    if (row.name, loss) != ("linear", "nll")
]


def train(cohort, name, loss, task):
    if HEADS[name].needs_torch:
        pytest.importorskip("torch")
    options = HeadOptions(head=name, loss=loss, epochs=2, device="cpu", precision="fp32")
    return fit(options, cohort.bags, getattr(cohort, task), np.arange(40), np.arange(40, 50), 1)


@pytest.fixture(scope="module")
def linear(cohort):
    return train(cohort, "linear", "cox", "survival")


@pytest.mark.parametrize(("name", "loss", "task"), EVERY)
def test_a_head_is_what_its_row_says_and_comes_back_from_disk_the_same(cohort, tmp_path, name, loss, task):
    head = train(cohort, name, loss, task)
    back = load_head(save_head(head, tmp_path / "head"))
    assert back.spec == head.spec
    assert type(back) is type(head)
    assert {p.name for p in (tmp_path / "head").iterdir()} == {"head.json", "weights.safetensors"}
    row = head_row(name)
    for case in (50, 51):
        bag = cohort.bags.bag(case)
        first, second = head.predict(bag), back.predict(bag)
        for field in dataclasses.fields(first):
            a, b = getattr(first, field.name), getattr(second, field.name)
            assert (a is None) == (b is None)
            assert a is None or np.array_equal(a, b)
        assert (first.attention is not None) == ("attention" in row.gives)
        assert (first.tile_scores is not None) == ("tile_scores" in row.gives)
        assert first.tile_scores.shape == (len(bag), 3 if task == "classes" else 1)
        assert first.tile_scores.dtype == np.float32
        if first.attention is not None:
            assert first.attention.shape == (len(bag),)
            assert first.attention.sum() == pytest.approx(1, abs=1e-5)
        if task == "classes":
            assert first.values.shape == (3,)
            assert first.values.sum() == pytest.approx(1)
            assert first.survival is None
        else:
            assert first.values.shape == (1,)
            assert first.survival.shape == (len(head.times),)


@pytest.mark.parametrize("name", ["abmil", "clam"])
def test_tile_scores_under_the_attention_are_the_bags_logits(cohort, name):
    head = train(cohort, name, "cross_entropy", "classes")
    prediction = head.predict(cohort.bags.bag(3))
    logits = prediction.attention @ prediction.tile_scores
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), prediction.values, atol=1e-5)


def test_a_long_bag_is_predicted_in_pieces_without_a_seam(cohort, monkeypatch):
    pytest.importorskip("torch")
    from beph_store.heads import linear as linear_module
    from beph_store.heads.torch_side import head as torch_module

    bag = np.concatenate([cohort.bags.bag(case) for case in range(5)])
    for name in HEADS:
        head = train(cohort, name, "cross_entropy", "classes")
        whole = head.predict(bag)
        with monkeypatch.context() as patch:
            patch.setattr(linear_module, "_CHUNK", 7)
            patch.setattr(torch_module, "_CHUNK", 7)
            pieces = head.predict(bag)
        np.testing.assert_allclose(pieces.values, whole.values, atol=1e-6)
        np.testing.assert_allclose(pieces.tile_scores, whole.tile_scores, atol=1e-5)


# ---- files that are not right -------------------------------------------------------------------


def edit(folder, **changes):
    about = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps(about | changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 99}, "format 99"),
        ({"weights_sha256": "0"}, "not the file"),
        ({"dim": 17}, "coef"),
        ({"times": [1.0]}, "baseline"),
        ({"name": "forest"}, "forest"),
        ({"surprise": 1}, "surprise"),
        ({"history": [{"number": 1}]}, "understood"),
        ({"task": "classify", "classes": ["a", "b"]}, "baseline"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(linear, tmp_path, changes, match):
    save_head(linear, tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(HeadError, match=match):
        load_head(tmp_path)


def test_altered_weights_and_missing_files_are_refused(linear, tmp_path):
    with pytest.raises(HeadError, match=r"no head in .*head\.json"):
        load_head(tmp_path)
    save_head(linear, tmp_path)
    weights = tmp_path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(HeadError, match="not the file"):
        load_head(tmp_path)
    weights.unlink()
    with pytest.raises(HeadError, match="weights"):
        load_head(tmp_path)
    (tmp_path / "head.json").write_text("[not json")
    with pytest.raises(HeadError, match="cannot be read"):
        load_head(tmp_path)


def test_a_torch_head_with_other_shapes_is_refused(cohort, tmp_path):
    save_head(train(cohort, "abmil", "cross_entropy", "classes"), tmp_path)
    edit(tmp_path, classes=["a", "b"])
    with pytest.raises(HeadError, match=r"classifier\.weight"):
        load_head(tmp_path)


# ---- what cannot be trained or predicted --------------------------------------------------------


def test_cases_without_tiles_are_named(cohort):
    spans = list(cohort.bags.spans)
    spans[5], spans[9] = (), ((3, 3),)
    bags = Bags(cohort.bags.case_ids, cohort.bags.vectors, tuple(spans))
    for name in HEADS:
        with pytest.raises(HeadError, match="2 cases without tiles: case005, case009"):
            fit(HeadOptions(head=name), bags, cohort.classes, np.arange(40), NONE, 0)
    fit(HeadOptions(), bags, cohort.classes, np.arange(10, 40), NONE, 0)


@pytest.mark.parametrize(
    ("train_cases", "val", "match"),
    [
        (NONE, NONE, "no training cases"),
        ([0, 1, 60], NONE, "case 60"),
        ([-1, 1], NONE, "numbered"),
        ([1, 1, 2], NONE, "twice"),
        (range(30), [29], "case029 in both"),
        ([0.5, 1.0], NONE, "whole numbers"),
    ],
)
def test_positions_that_cannot_be_meant_are_refused(cohort, train_cases, val, match):
    with pytest.raises(HeadError, match=match):
        fit(HeadOptions(), cohort.bags, cohort.classes, train_cases, val, 0)


def test_a_class_missing_from_training_is_named(cohort):
    only = np.flatnonzero(cohort.classes.index != 1)
    with pytest.raises(HeadError, match="split 2 has no training case of class b"):
        fit_many(HeadOptions(), cohort.bags, cohort.classes, [(np.arange(40), NONE), (only, NONE)], 0)


def test_survival_that_teaches_nothing_is_refused(cohort):
    time = np.arange(1.0, 61)
    censored = SurvivalTarget(np.zeros(60, bool), time)
    last_only = SurvivalTarget(time == 40, time)
    for target in (censored, last_only):
        with pytest.raises(HeadError, match="nothing to learn"):
            fit(HeadOptions(), cohort.bags, target, np.arange(40), NONE, 0)
    wrong = SurvivalTarget(np.ones(60, bool), np.where(time == 7, 0.0, time))
    with pytest.raises(HeadError, match="above 0 days"):
        fit(HeadOptions(), cohort.bags, wrong, np.arange(40), NONE, 0)


def test_targets_of_another_length_are_refused(cohort):
    short = ClassTarget(("a", "b"), np.array([0, 1]))
    with pytest.raises(HeadError, match="2 labels for 60 bags"):
        fit(HeadOptions(), cohort.bags, short, [0, 1], NONE, 0)


@pytest.mark.parametrize(
    "bag", [np.zeros((3, 15)), np.zeros(16), np.zeros((0, 16)), np.full((2, 16), np.nan)]
)
def test_bags_that_cannot_be_predicted_are_refused(linear, bag):
    with pytest.raises(HeadError):
        linear.predict(bag.astype(np.float16))


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "hinge"},
        {"epochs": 0},
        {"lr": float("nan")},
        {"lr": 0.0},
        {"dropout": 1.0},
        {"alpha": 1.5},
        {"bins": 1},
        {"penalties": ()},
        {"penalties": (0.0,)},
        {"token_budget": 0},
        {"precision": "fp8"},
        {"device": "tpu"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(HeadError, match=next(iter(wrong))):
        HeadOptions(**wrong)


def test_options_that_clash_with_the_task_are_refused(cohort):
    cases = (
        (HeadOptions(loss="cox"), cohort.classes, "classify"),
        (HeadOptions(loss="cross_entropy"), cohort.survival, "survive"),
        (HeadOptions(balanced=True), cohort.survival, "classes"),
    )
    for options, target, match in cases:
        with pytest.raises(HeadError, match=match):
            fit(options, cohort.bags, target, np.arange(40), NONE, 0)


def test_an_unknown_head_is_answered_with_the_names(cohort):
    with pytest.raises(HeadError, match="did you mean abmil"):
        fit(HeadOptions(head="abmill"), cohort.bags, cohort.classes, np.arange(40), NONE, 0)


# ---- without torch ------------------------------------------------------------------------------

_BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'torchsurv', 'torchvision'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Block())
import numpy as np
from beph_store.errors import MissingExtra
from beph_store.heads import HeadOptions, fit, load_head, save_head
from beph_store.records import Bags, ClassTarget, SurvivalTarget
rng = np.random.default_rng(0)
spans = tuple(((2 * i, 2 * i + 2),) for i in range(20))
bags = Bags(tuple(map(str, range(20))), rng.normal(size=(40, 4)).astype('f2'), spans)
targets = [ClassTarget(('a', 'b'), np.arange(20) % 2), SurvivalTarget(np.ones(20, bool), np.arange(1., 21))]
for target in targets:
    head = fit(HeadOptions(), bags, target, np.arange(20), [], 0)
    load_head(save_head(head, sys.argv[1])).predict(bags.bag(0))
try:
    fit(HeadOptions(head='abmil'), bags, targets[0], np.arange(20), [], 0)
except MissingExtra as error:
    print(error)
print('torch' in sys.modules)
"""


def test_the_linear_head_needs_no_torch_and_the_others_say_what_to_install(run_python, tmp_path):
    message, loaded = run_python(_BLOCKED, tmp_path).splitlines()
    assert "pip install 'beph-store[train]'" in message
    assert loaded == "False"


def test_importing_the_room_loads_no_torch(run_python):
    code = "import sys, beph_store.heads\nprint('torch' in sys.modules, 'torchsurv' in sys.modules)"
    assert run_python(code).split() == ["False", "False"]
