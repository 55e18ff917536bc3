"""Distillation on arrays: shapes, the stem that is adopted, and that training learns."""

import numpy as np
import pytest
import timm
import torch

from beph_store.encoders.torch_side.mini import load_mini, make_mini
from beph_store.errors import WeightsMismatch
from beph_store.pretrain import distill


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return distill.make_teacher(timm.create_model("tf_efficientnet_lite0").state_dict())


@pytest.fixture(scope="module")
def features(teacher, crops):
    return distill.teacher_features(teacher, crops, batch=4)


@pytest.fixture
def student(teacher, features):
    made = make_mini()
    distill.adopt_stem(made, teacher, features)
    return made


def test_the_teachers_features_are_its_own(teacher, crops, features):
    assert features.tokens.shape == (6, 14, 14, 112)
    assert features.coarse.shape == (6, 7, 7, 320)
    x = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        expected = teacher.forward_features(x).mean((2, 3)).numpy()
    np.testing.assert_allclose(features.pooled, expected, atol=1e-4)


def test_a_teacher_of_another_shape_is_refused():
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    with pytest.raises(ValueError, match="another shape"):
        distill.make_teacher({**state, "conv_stem.weight": torch.zeros(1)})


def test_features_turn_as_pixels_do():
    image = np.arange(8 * 8).reshape(8, 8, 1)
    coarse = image.reshape(2, 4, 2, 4, 1).mean((1, 3))
    for k in range(8):
        turned = distill.turn(image, k).reshape(2, 4, 2, 4, 1).mean((1, 3))
        assert np.array_equal(turned, distill.turn(coarse, k))
    assert len({distill.turn(image, k).tobytes() for k in range(8)}) == 8


def test_the_adopted_stem_is_the_teachers(student, crops, features):
    x = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        own = student.patch_embed.features(x).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(own, features.tokens.astype(np.float32), atol=2e-2)
    assert not any(p.requires_grad for p in student.patch_embed.blocks.parameters())
    assert student.patch_embed.proj.weight.requires_grad


def test_training_lowers_the_loss_and_leaves_the_stem_alone(student, features, tmp_path):
    before = {k: v.clone() for k, v in student.state_dict().items()}
    seen = []
    config = distill.DistillConfig(minutes=1, steps=50, batch=6, lr=2e-3)
    kept = distill.train(student, features, config, lambda model, now: seen.append(now))
    model = distill.Distiller(make_mini(), features)
    tokens, coarse = (torch.from_numpy(a.astype(np.float32)) for a in (features.tokens, features.coarse))
    assert set(model(tokens, coarse, torch.from_numpy(features.pooled))) == {"tokens", "coarse", "pooled"}
    assert [now.steps for now in seen] == [25, 50]
    assert seen[1].loss["tokens"] < seen[0].loss["tokens"]
    after = kept.state_dict()
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert "blocks.0.attn.qkv.weight" in changed
    assert not any(
        k.startswith(("patch_embed.blocks", "patch_embed.conv_stem", "patch_embed.bn1")) for k in changed
    )
    torch.save({"state_dict": after, "author": "test"}, tmp_path / "mini.pth")
    assert load_mini(tmp_path / "mini.pth").spec.dim == 192


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    state = make_mini().state_dict()
    state.pop("cls_token")
    torch.save({"state_dict": {**state, "extra": torch.zeros(1)}, "author": "test"}, tmp_path / "mini.pth")
    with pytest.raises(WeightsMismatch, match=r"1 missing: cls_token; 1 unexpected: extra"):
        load_mini(tmp_path / "mini.pth")


def test_the_learning_rate_rises_and_falls():
    config = distill.DistillConfig(minutes=1, lr=1.0, warmup=0.1)
    rates = [distill.learning_rate(config, done) for done in (0.05, 0.1, 0.5, 1.0)]
    assert rates[1] == pytest.approx(1.0)
    assert rates[0] < rates[1] > rates[2] > rates[3] == pytest.approx(0.01)
