"""Training: what is learnt, what must not change it, and what is refused."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from beph_store.errors import HeadError, RuntimeUnavailable  # noqa: E402
from beph_store.heads import HeadOptions, fit, fit_many  # noqa: E402
from beph_store.heads.options import resolved  # noqa: E402
from beph_store.heads.torch_side.batches import MAX_BAGS, Loader  # noqa: E402
from beph_store.heads.torch_side.hardware import dtype_of  # noqa: E402
from beph_store.heads.torch_side.objectives import DiscreteTime  # noqa: E402
from beph_store.heads.torch_side.train import Trainer, _seed  # noqa: E402
from beph_store.records import Bags, ClassTarget, SurvivalTarget  # noqa: E402

NONE = np.zeros(0, int)
#: Every kind of torch head: (name, loss, which target of the cohort).
KINDS = [
    ("abmil", "cross_entropy", "classes"),
    ("clam", "cross_entropy", "classes"),
    ("abmil", "cox", "survival"),
    ("clam", "nll", "survival"),
]


def options(head="abmil", loss="auto", **more):
    base = {"epochs": 3, "lr": 1e-3, "precision": "fp32", "device": "cpu"}
    return HeadOptions(head=head, loss=loss, **(base | more))


def outputs(head, bags, cases):
    return np.stack([head.predict(bags.bag(int(case))).values for case in cases])


def same(first, second):
    return all(np.array_equal(first.weights()[name], second.weights()[name]) for name in first.weights())


# ---- what is learnt -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["abmil", "clam"])
def test_finds_the_planted_classes_and_nothing_in_shuffled_ones(cohort, name):
    train, val, test = cohort.split()
    head = fit(options(name, epochs=8), cohort.bags, cohort.classes, train, val, 0)
    assert (outputs(head, cohort.bags, test).argmax(1) == cohort.classes.index[test]).mean() > 0.9
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(4):
        noise = ClassTarget(cohort.classes.classes, rng.permutation(cohort.classes.index))
        head = fit(options(name, epochs=3), cohort.bags, noise, train, val, 0)
        rates.append((outputs(head, cohort.bags, test).argmax(1) == noise.index[test]).mean())
    assert np.mean(rates) < 0.6


@pytest.mark.parametrize(
    ("name", "loss"), [("abmil", "cox"), ("abmil", "nll"), ("clam", "cox"), ("clam", "nll")]
)
def test_orders_the_planted_hazards(draw, concordance, name, loss):
    cohort = draw(cases=90)
    train, val, test = cohort.split((0.5, 0.2, 0.3))
    chosen = options(name, loss, epochs=12, batch_cases=16 if loss == "cox" else 4)
    head = fit(chosen, cohort.bags, cohort.survival, train, val, 0)
    hazard = outputs(head, cohort.bags, test)[:, 0]
    assert concordance(hazard, cohort.survival.event[test], cohort.survival.time_days[test]) > 0.7
    prediction = head.predict(cohort.bags.bag(int(test[0])))
    assert prediction.survival.shape == (len(head.times),)
    assert (np.diff(prediction.survival) <= 0).all()
    assert ((prediction.survival >= 0) & (prediction.survival <= 1)).all()
    # The worst case is never likelier to be alive than the best.
    curves = np.stack([head.predict(cohort.bags.bag(int(case))).survival for case in test])
    assert (curves[hazard.argmax()] <= curves[hazard.argmin()] + 1e-9).all()


@pytest.mark.parametrize("name", ["linear", "abmil"])
def test_log_hazards_are_relative_to_the_mean_training_case(cohort, name):
    head = fit(options(name, "cox"), cohort.bags, cohort.survival, np.arange(40), NONE, 0)
    assert outputs(head, cohort.bags, range(40)).mean() == pytest.approx(0, abs=1e-4)


def test_the_whole_cohort_cox_loss_learns_with_its_defaults(draw, concordance):
    cohort = draw(cases=60, signal=4.0)
    train, val, test = cohort.split((0.6, 0.1, 0.3))
    chosen = HeadOptions(head="abmil", precision="fp32", device="cpu")
    head = fit(chosen, cohort.bags, cohort.survival, train, val, 0)
    hazard = outputs(head, cohort.bags, test)[:, 0]
    assert concordance(hazard, cohort.survival.event[test], cohort.survival.time_days[test]) > 0.7


def test_attention_finds_the_tiles_with_the_signal():
    """One tile in twenty carries the class."""
    rng = np.random.default_rng(0)
    index = np.arange(60) % 2
    vectors = rng.normal(size=(60, 20, 16))
    vectors[:, 0, :2] += np.where(index[:, None] == [0, 1], 8, 0)
    bags = Bags(
        tuple(map(str, range(60))),
        vectors.reshape(-1, 16).astype(np.float16),
        tuple(((20 * i, 20 * i + 20),) for i in range(60)),
    )
    head = fit(options(epochs=15), bags, ClassTarget(("a", "b"), index), np.arange(50), NONE, 0)
    found = [head.predict(bags.bag(case)) for case in range(50, 60)]
    assert np.mean([p.attention.argmax() == 0 for p in found]) > 0.7
    assert np.mean([p.tile_scores[0].argmax() == index[i] for i, p in enumerate(found, 50)]) > 0.8


# ---- what must not change anything --------------------------------------------------------------


@pytest.mark.parametrize(("name", "loss", "task"), KINDS)
def test_the_same_seed_gives_the_same_head_and_another_another(cohort, name, loss, task):
    target = getattr(cohort, task)
    chosen = options(name, loss, tiles_per_epoch=10)
    heads = [fit(chosen, cohort.bags, target, np.arange(40), NONE, seed) for seed in (5, 5, 6)]
    assert same(heads[0], heads[1])
    assert not same(heads[0], heads[2])
    assert [e.train_loss for e in heads[0].spec.history] == [e.train_loss for e in heads[1].spec.history]


def test_training_leaves_the_callers_random_state_alone(cohort):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fit(options(epochs=1), cohort.bags, cohort.classes, np.arange(20), NONE, 9)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("name", "loss", "task"), KINDS)
def test_the_token_budget_changes_nothing(cohort, name, loss, task):
    target = getattr(cohort, task)
    chosen = options(name, loss, dropout=0.0, batch_cases=8)
    heads = [
        fit(dataclasses.replace(chosen, token_budget=budget), cohort.bags, target, np.arange(40), NONE, 0)
        for budget in (1, 100, 10**6)
    ]
    expected = outputs(heads[0], cohort.bags, range(60))
    for other in heads[1:]:
        np.testing.assert_allclose(outputs(other, cohort.bags, range(60)), expected, atol=1e-3)
        for part, array in heads[0].weights().items():
            # Softmax does not feel the attention's bias: its gradient is rounding, which Adam blows up to a step.
            if part != "attention.bias":
                np.testing.assert_allclose(other.weights()[part], array, atol=1e-3, rtol=2e-3)


def test_splits_do_not_touch_each_other(cohort):
    train, val, _ = cohort.split()
    splits = [(train, val), (np.arange(10, 50), NONE)]
    seen = []
    together = fit_many(options(), cohort.bags, cohort.classes, splits, 4, seen.append)
    alone = fit(options(), cohort.bags, cohort.classes, *splits[1], 4)
    assert same(together[1], alone)
    assert [(p.split, p.epoch and p.epoch.number) for p in seen] == [
        (0, 1), (0, 2), (0, 3), (0, None), (1, 1), (1, 2), (1, 3), (1, None)
    ]  # fmt: skip


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_two_passes_give_the_gradient_of_holding_everything(cohort, dropout):
    chosen = resolved(options(loss="cox", dropout=dropout, token_budget=60), "survive")
    cases = np.arange(30)
    torch.manual_seed(0)
    trainer = Trainer.start(chosen, cohort.bags, cohort.survival, (cases, NONE), 7)
    trainer.body.train()
    loss = trainer._two_passes(cases, (1, 0))
    gradients = [parameter.grad.clone() for parameter in trainer.body.parameters()]
    trainer.optimiser.zero_grad()
    held = []
    groups = trainer.loader.plan(cases)
    assert len(groups) > 5
    for number, batch in enumerate(trainer.loader.stream(groups)):
        torch.manual_seed(_seed(7, 1, 0, number))
        held.append(trainer._forward(batch).logits)
    whole = trainer.objective.loss(torch.cat(held), cases)
    whole.backward()
    assert loss == pytest.approx(whole.item(), abs=1e-6)
    for gradient, parameter in zip(gradients, trainer.body.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-4)


# ---- stopping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "loss", "task"), KINDS)
def test_stops_early_and_restores_the_best_epoch(cohort, name, loss, task):
    """Labels are noise, so that the validation loss soon rises."""
    order = np.random.default_rng(3).permutation(60)
    target = getattr(cohort, task)
    if task == "classes":
        target = ClassTarget(target.classes, target.index[order])
    else:
        target = SurvivalTarget(target.event[order], target.time_days[order])
    train, val, _ = cohort.split()
    epochs = []
    chosen = options(name, loss, epochs=40, patience=3, lr=3e-3)
    head = fit(chosen, cohort.bags, target, train, val, 0, epochs.append)
    assert tuple(epochs) == head.spec.history
    losses = [epoch.val_loss for epoch in epochs]
    assert head.spec.best_epoch == int(np.argmin(losses)) + 1
    assert len(epochs) == head.spec.best_epoch + 3 < 40
    if task == "classes":
        chance = outputs(head, cohort.bags, val)[np.arange(len(val)), target.index[val]]
        assert -np.log(chance).mean() == pytest.approx(min(losses), abs=1e-4)


def test_without_validation_all_epochs_are_trained(cohort):
    head = fit(options(epochs=4, patience=1), cohort.bags, cohort.classes, np.arange(30), NONE, 0)
    assert [epoch.number for epoch in head.spec.history] == [1, 2, 3, 4]
    assert all(epoch.val_loss is None for epoch in head.spec.history)
    assert head.spec.best_epoch == 4


def test_the_test_cases_are_never_read(cohort):
    """Their vectors are not numbers; training does not notice, predicting does."""
    train, val, test = cohort.split()
    vectors = cohort.bags.vectors.copy()
    for case in test:
        for start, stop in cohort.bags.spans[case]:
            vectors[start:stop] = np.nan
    bags = Bags(cohort.bags.case_ids, vectors, cohort.bags.spans)
    head = fit(options(epochs=1), bags, cohort.classes, train, val, 0)
    with pytest.raises(HeadError, match="no finite prediction"):
        head.predict(bags.bag(int(test[0])))


# ---- bags into batches --------------------------------------------------------------------------


def loader(bags, budget=50, dtype=torch.float32):
    return Loader(bags, torch.device("cpu"), dtype, budget, 0)


def test_groups_keep_the_order_and_the_budget(cohort):
    order = np.random.default_rng(0).permutation(60)
    groups = loader(cohort.bags).plan(order)
    assert np.array_equal(np.concatenate(groups), order)
    assert any(len(group) > 1 for group in groups)
    for group in groups:
        assert len(group) == 1 or sum(cohort.bags.tiles(case) for case in group) <= 50
    assert max(map(len, loader(cohort.bags, 10**9).plan(list(range(60)) * 3))) == MAX_BAGS


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_batches_are_the_bags(draw, kind):
    cohort = draw(dtype=kind)
    reader = loader(cohort.bags)
    groups = reader.plan(range(60))
    count = 0
    for group, batch in zip(groups, reader.stream(groups), strict=True):
        assert np.array_equal(batch.cases, group)
        for case, part in zip(group, torch.split(batch.x, list(batch.lengths)), strict=True):
            assert np.array_equal(part.numpy(), cohort.bags.bag(int(case)).astype(np.float32))
            count += 1
    assert count == 60


def test_bags_are_read_from_a_read_only_file_without_a_warning(cohort, tmp_path, recwarn):
    np.save(tmp_path / "flat.npy", cohort.bags.vectors)
    flat = np.load(tmp_path / "flat.npy", mmap_mode="r")
    bags = Bags(cohort.bags.case_ids, flat, cohort.bags.spans)
    first = fit(options(epochs=1), bags, cohort.classes, np.arange(30), NONE, 0)
    second = fit(options(epochs=1), cohort.bags, cohort.classes, np.arange(30), NONE, 0)
    first.predict(bags.bag(0))
    assert same(first, second)
    assert [str(w.message) for w in recwarn if "writ" in str(w.message)] == []


def test_sampled_tiles_are_distinct_rows_of_the_bag_new_in_every_epoch(cohort):
    reader = loader(cohort.bags)
    case = next(c for c in range(60) if cohort.bags.tiles(c) > 20 and len(cohort.bags.spans[c]) == 2)
    rows = {tuple(row) for row in cohort.bags.bag(case).astype(np.float32).tolist()}
    draws = []
    for epoch in (1, 1, 2):
        batch = reader.load(np.array([case]), 8, epoch)
        assert batch.lengths == (8,)
        drawn = {tuple(row) for row in batch.x.tolist()}
        assert len(drawn) == 8
        assert drawn <= rows
        draws.append(drawn)
    assert draws[0] == draws[1] != draws[2]
    assert reader.load(np.array([case]), 10**6, 1).lengths == (cohort.bags.tiles(case),)


def test_balanced_draws_classes_equally(draw):
    cohort = draw(cases=60, classes=2)
    index = cohort.classes.index
    train = np.concatenate([np.flatnonzero(index == 0)[:3], np.flatnonzero(index == 1)])
    chosen = resolved(options(balanced=True), "classify")
    trainer = Trainer.start(chosen, cohort.bags, cohort.classes, (train, NONE), 0)
    drawn = np.concatenate([trainer._order(epoch) for epoch in range(40)])
    assert np.isin(drawn, train).all()
    assert index[drawn].mean() == pytest.approx(0.5, abs=0.06)


# ---- precision, device, refusals ----------------------------------------------------------------


def test_bf16_learns_the_same(cohort):
    train, val, test = cohort.split()
    head = fit(options(precision="bf16", epochs=8), cohort.bags, cohort.classes, train, val, 0)
    assert (outputs(head, cohort.bags, test).argmax(1) == cohort.classes.index[test]).mean() > 0.9
    assert all(array.dtype == np.float32 for array in head.weights().values())


def test_auto_precision_is_bf16_only_where_the_processor_has_it(monkeypatch):
    from beph_store.heads.torch_side import hardware

    cpu = torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(hardware, "cpu_has_bf16", lambda native=native: native)
        assert dtype_of(HeadOptions(), cpu) == expected
        assert dtype_of(HeadOptions(precision="fp32"), cpu) == torch.float32
        assert dtype_of(HeadOptions(precision="bf16"), cpu) == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(cohort):
    with pytest.raises(RuntimeUnavailable, match="CUDA"):
        fit(options(device="cuda"), cohort.bags, cohort.classes, np.arange(30), NONE, 0)


def test_a_case_that_is_not_finite_is_named(cohort):
    vectors = cohort.bags.vectors.copy()
    vectors[cohort.bags.spans[7][0][0], 2] = np.inf
    bags = Bags(cohort.bags.case_ids, vectors, cohort.bags.spans)
    for head in ("linear", "abmil"):
        with pytest.raises(HeadError, match="case007"):
            fit(options(head), bags, cohort.classes, np.arange(30), NONE, 0)


@pytest.mark.parametrize("val", [NONE, np.arange(30, 40)])
def test_divergence_is_told(cohort, monkeypatch, val):
    """In the first epoch in which the training loss, or the validation loss alone, is no longer finite."""
    plain = DiscreteTime.loss

    def overflowing(self, logits, cases):
        return plain(self, logits, cases) * (np.inf if len(cases) == 10 or not len(val) else 1)

    monkeypatch.setattr(DiscreteTime, "loss", overflowing)
    with pytest.raises(HeadError, match="diverged in epoch 1"):
        fit(options(loss="nll"), cohort.bags, cohort.survival, np.arange(30), val, 0)


def test_validation_without_an_event_is_refused_for_cox(cohort):
    event = cohort.survival.event.copy()
    event[40:50] = False
    target = SurvivalTarget(event, cohort.survival.time_days)
    with pytest.raises(HeadError, match="no event"):
        fit(options(loss="cox"), cohort.bags, target, np.arange(40), np.arange(40, 50), 0)
    fit(options("linear"), cohort.bags, target, np.arange(40), np.arange(40, 50), 0)
