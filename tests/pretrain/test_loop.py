import json

import pytest
import torch

from beph_store.errors import StoreError, UsageError
from beph_store.pretrain import loop
from beph_store.pretrain.data import Batch
from beph_store.pretrain.parallel import Place
from beph_store.pretrain.session import Parts, pretrain, sample

from .parts import SIDE, Colours, plan, trunk

HERE = Place(0, 1, torch.device("cpu"))
TIMES = {"seconds", "tiles_per_second", "waiting"}


class Killed(Exception):
    pass


def run(drawn, out, *, kill_at=None, **changes):
    """The rows of a run, and the trunk; ``kill_at`` (stage, step) ends it there."""
    rows = []

    def log(row):
        rows.append({k: v for k, v in row.items() if k not in TIMES})
        if kill_at == (row["stage"], row["step"]):
            raise Killed

    out.mkdir(exist_ok=True)
    parts = Parts(trunk(), trunk(absolute=True, seed=1), Colours(), Colours.dim)
    net, _ = pretrain(parts, drawn, plan(**changes), out, HERE, loop.Watch(log))
    return rows, net


@pytest.fixture(scope="module")
def whole(drawn, tmp_path_factory):
    return run(drawn, tmp_path_factory.mktemp("whole"))


def test_losses_fall_and_codes_are_used(whole):
    rows, _ = whole
    first = [row for row in rows if row["stage"] == "tokenizer"]
    second = [row for row in rows if row["stage"] == "masked"]
    assert first[-1]["distil"] < first[0]["distil"]
    assert first[-1]["codebook_use"] > 0.5
    assert second[-1]["loss"] < second[0]["loss"]
    assert [row["step"] for row in second] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("kill_at", [("tokenizer", 6), ("tokenizer", 12), ("masked", 2), ("masked", 10)])
def test_a_run_that_was_killed_goes_on_as_if_it_was_not(drawn, whole, tmp_path, kill_at):
    with pytest.raises(Killed):
        run(drawn, tmp_path, kill_at=kill_at)
    rows, net = run(drawn, tmp_path)
    assert len(rows) < len(whole[0])
    assert rows == whole[0][-len(rows) :]
    for ours, theirs in zip(net.parameters(), whole[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_finished_run_trains_nothing_again(drawn, tmp_path):
    _, net = run(drawn, tmp_path)
    rows, again = run(drawn, tmp_path)
    assert rows == []
    assert torch.equal(net.cls_token, again.cls_token)


def test_a_checkpoint_of_other_options_is_refused(drawn, tmp_path):
    with pytest.raises(Killed):
        run(drawn, tmp_path, kill_at=("tokenizer", 6))
    with pytest.raises(StoreError, match="other options"):
        run(drawn, tmp_path, seed=5)


def test_accumulated_parts_give_the_gradient_of_the_whole(drawn, tmp_path):
    class Mean:
        name = "mean"

        def __init__(self):
            torch.manual_seed(0)
            self.model = torch.nn.Linear(3 * SIDE * SIDE, 1)

        def loss(self, net, batch):
            return {"loss": net(batch.pixels.float().flatten(1) / 255).square().mean()}

        def after(self, found):
            return {}

    def train(parts):
        stage, rng = Mean(), torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 255, (3, 8, 3, SIDE, SIDE), dtype=torch.uint8, generator=rng)
        spec = loop.LoopSpec(steps=3, lr=1e-3, accumulate=parts)
        feed = lambda steps: (Batch(pixels[s], torch.zeros(8, 1, dtype=torch.bool)) for s in steps)  # noqa: E731
        folder = tmp_path / str(parts)
        folder.mkdir()
        loop.run(stage, feed, spec, folder, HERE, loop.Watch(lambda row: None))
        return stage.model.weight.detach()

    torch.testing.assert_close(train(1), train(4), rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="does not divide into 3"):
        train(3)


def test_the_learning_rate_rises_and_falls():
    spec = loop.LoopSpec(steps=100, lr=1.0, least=0.1, warmup=10)
    rates = [loop.learning_rate(spec, step) for step in range(101)]
    assert rates[0] == 0.1
    assert rates[9] == 1.0
    assert rates[55] == pytest.approx(0.55, abs=0.01)
    assert rates[100] == pytest.approx(0.1)


def test_norms_biases_tokens_and_positions_are_not_decayed():
    decayed, free = loop.make_optimiser(trunk(), loop.LoopSpec(steps=1)).param_groups
    net = trunk()
    linear = sum(
        p.numel() for n, p in net.named_parameters() if p.ndim >= 2 and "table" not in n and "cls" not in n
    )
    assert sum(p.numel() for p in decayed["params"]) == linear
    assert free["weight_decay"] == 0


def test_a_loss_that_is_not_finite_ends_the_run_with_a_cure(drawn, tmp_path):
    with pytest.raises(StoreError, match="lower --lr"):
        run(drawn, tmp_path, tokenizer_loop=loop.LoopSpec(steps=40, lr=1e30, log_every=2, clip=1e30))


def test_bfloat16_products_train_too(drawn, tmp_path):
    spec = loop.LoopSpec(steps=4, lr=1e-3, log_every=2, precision="bf16")
    rows, _ = run(drawn, tmp_path, tokenizer_loop=spec, masked_loop=spec)
    assert rows[-1]["stage"] == "masked"
    with pytest.raises(UsageError, match="no precision"):
        loop.LoopSpec(steps=1, precision="int4")


def test_the_probe_is_asked_at_its_steps(drawn, tmp_path):
    rows, asked = [], []
    parts = Parts(trunk(), trunk(absolute=True, seed=1), Colours(), Colours.dim)
    spec = loop.LoopSpec(steps=12, lr=1e-3, log_every=2, probe_every=5)

    def probe(model):
        assert not model.training
        asked.append(1)
        return {"accuracy": 0.5}

    pretrain(parts, drawn, plan(masked_loop=spec), tmp_path, HERE, loop.Watch(rows.append, probe))
    assert [row["step"] for row in rows if "probe_accuracy" in row] == [6, 10, 12]
    assert len(asked) == 3
    assert json.dumps(rows)


def test_a_sample_holds_whole_tiles(drawn):
    found = sample(drawn, SIDE, 5)
    assert found.shape == (5, 3, SIDE, SIDE)
    assert torch.equal(found, sample(drawn, SIDE, 5))
