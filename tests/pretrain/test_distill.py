"""Distillation on arrays: shapes, growth that changes nothing, and a checkpoint in BEPH's layout."""

import numpy as np
import pytest
import timm
import torch

from beph_store.pretrain import distill

DIM, DEPTH, HEADS = 24, 6, 2


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def targets(crops):
    """Random features of the right shapes: what they mean does not matter here."""
    rng = np.random.default_rng(1)
    sides = zip((14, 14, 14, 7), distill.MAP_CHANNELS, strict=True)
    maps = tuple(rng.normal(size=(len(crops), s, s, c)).astype(np.float16) for s, c in sides)
    return distill.Targets(maps, rng.normal(size=(len(crops), distill.POOLED)).astype(np.float32))


def small(seed=0):
    return distill.make_student(DIM, DEPTH, HEADS, seed=seed)


def test_the_teachers_features_have_a_cell_a_token(crops):
    torch.manual_seed(0)
    teacher = distill.make_teacher(timm.create_model("tf_efficientnet_lite0").state_dict())
    found = distill.make_targets(teacher, crops[:3], batch=2)
    assert [m.shape for m in found.maps] == [
        (3, 14, 14, 40),
        (3, 14, 14, 80),
        (3, 14, 14, 112),
        (3, 7, 7, 320),
    ]
    assert found.pooled.shape == (3, 1280)
    x = torch.from_numpy(crops[:3]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        expected = teacher.forward_features(x).mean((2, 3)).numpy()
    np.testing.assert_allclose(found.pooled, expected, atol=1e-4)


def test_a_teacher_of_another_shape_is_refused():
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    with pytest.raises(ValueError, match="another shape"):
        distill.make_teacher({**state, "conv_stem.weight": torch.zeros(1)})


def test_pixels_and_maps_turn_alike():
    image = np.arange(8 * 8).reshape(8, 8, 1)
    coarse = image.reshape(2, 4, 2, 4, 1).mean((1, 3))
    for k in range(8):
        turned = distill.turn(image, k).reshape(2, 4, 2, 4, 1).mean((1, 3))
        assert np.array_equal(turned, distill.turn(coarse, k))
    assert len({distill.turn(image, k).tobytes() for k in range(8)}) == 8


def test_recolouring_stays_in_range_and_near(crops):
    pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    changed = distill.jitter(pixels.clone(), np.random.default_rng(0))
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 255
    assert 0.5 < float((changed - pixels).abs().mean()) < 60


def test_growing_changes_no_output():
    torch.manual_seed(0)
    student = small()
    before = set(distill.every(2, DEPTH))
    distill.silence(student, before)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        old = student.forward_features(x)
    distill.grow(student, before, set(range(DEPTH)))
    with torch.inference_mode():
        assert torch.equal(student.forward_features(x), old)
    blocks = student.blocks
    assert torch.equal(blocks[0].attn.qkv.weight, blocks[1].attn.qkv.weight)
    assert not blocks[2].gamma_1.any()


@pytest.mark.parametrize(("n", "depth", "expected"), [(4, 12, [3, 7, 11]), (2, 4, [1, 3]), (1, 3, [0, 1, 2])])
def test_every_nth_block_with_the_last(n, depth, expected):
    assert list(distill.every(n, depth)) == expected


def test_the_learning_rate_follows_the_clock():
    config = distill.DistillConfig(minutes=1, lr=1.0, warmup=0.1)
    rates = [distill.learning_rate(config, done) for done in (0, 0.05, 0.1, 0.5, 1, 2)]
    assert rates[1] == pytest.approx(0.5)
    assert max(rates) == rates[2] == pytest.approx(1)
    assert rates[2] > rates[3] > rates[4] == rates[5] == pytest.approx(0.01)


def test_a_run_learns_grows_and_ends_by_the_clock(crops, targets):
    seen = []
    config = distill.DistillConfig(minutes=0.15, batch=3, lr=3e-3, stages=((0.0, 2), (0.5, 1)))
    kept = distill.train(small(), crops, targets, config, lambda student, now: seen.append(now))
    last = seen[-1]
    assert last.seconds < 60
    assert last.crops == 3 * last.steps
    assert set(last.loss) == set("0123p")
    assert all(np.isfinite(v) for v in last.loss.values())
    assert any(p.abs().sum() > 0 for p in (kept.blocks[0].gamma_1, kept.blocks[2].gamma_1))


def test_a_step_lowers_the_loss_on_what_it_saw(crops, targets):
    torch.manual_seed(0)
    model = distill.Distiller(small(), targets)
    optimiser = distill._optimiser(model, distill.DistillConfig(1))
    batch = next(distill.batches(crops, targets, 4, np.random.default_rng(0)))
    losses = [distill._step(model, optimiser, batch, 2e-3) for _ in range(12)]
    assert sum(losses[-1].values()) < 0.95 * sum(losses[0].values())


def test_a_checkpoint_has_exactly_the_keys_of_beph(realdata):
    lines = (realdata / "beph_fixture" / "beph_backbone_keys.tsv").read_text().splitlines()[1:]
    wanted = {line.split("\t")[0] for line in lines if not line.startswith("(absent")}
    data = distill.to_checkpoint(distill.make_student(24, 12, 2), "somebody")
    assert set(data["state_dict"]) == wanted
    assert set(data) == {"state_dict", "author"}


def test_a_checkpoint_can_be_gone_on_from():
    one, two = small(seed=1), small(seed=2)
    distill.load_checkpoint(two, distill.to_checkpoint(one, "somebody")["state_dict"])
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(one.forward_features(x), two.forward_features(x))
