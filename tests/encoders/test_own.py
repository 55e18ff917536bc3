"""A user's own encoder: a timm architecture, a file, and what the file does not say."""

import pytest
import timm
import torch

from beph_store.encoders.entry import Normalisation, scaled
from beph_store.encoders.torch_side.export import ExportOptions, export_loaded
from beph_store.encoders.torch_side.layouts import fit
from beph_store.encoders.torch_side.published import OwnEncoder, load_own
from beph_store.encoders.torch_side.timm_models import load_timm
from beph_store.encoders.torch_side.trainable import trained, write_weights
from beph_store.errors import UnknownEncoder, UsageError, WeightsMismatch

MODEL = "test_vit"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("own") / "mine.pth"
    torch.save(timm.create_model(MODEL, num_classes=0).state_dict(), path)
    return path


def own(**changes):
    return OwnEncoder(**({"name": "mine", "architecture": MODEL, "mpp": 0.25} | changes))


def test_it_is_what_it_was_said_to_be(weights, tmp_path):
    loaded = load_own(own(statistics=scaled((0.7, 0.5, 0.6), (0.2, 0.2, 0.2)), licence="ours"), weights)
    spec = loaded.spec
    assert (spec.name, spec.mpp, spec.tile_px, spec.dim, spec.pooling) == (
        "mine",
        0.25,
        160,
        64,
        "class token",
    )
    assert (spec.mean, spec.std, spec.licence) == ((178.5, 127.5, 153.0), (51.0,) * 3, "ours")
    bundle = export_loaded(loaded, tmp_path / "bundle", ExportOptions(fp16_twin=False))
    assert bundle.spec == spec
    assert bundle.parity["fp32"]["passed"]


def test_pooling_is_the_users_choice(weights):
    x = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        cls, mean, both = (load_own(own(pooling=p), weights).model(x) for p in ("cls", "mean", "cls+mean"))
        torch.testing.assert_close(torch.cat([cls, mean], 1), both)
        tokens = load_own(own(), weights).model.forward_features(x)
        torch.testing.assert_close(mean, tokens[:, 1:].mean(1))
    path = weights.with_name("resnet.pth")
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    with pytest.raises(UsageError, match="for vision transformers"):
        load_own(own(architecture="test_resnet", pooling="mean"), path)


def test_tiles_of_another_size_resample_the_positions(weights):
    x = torch.randn(1, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    loaded = load_own(own(tile_px=192), weights)
    reference = timm.create_model(MODEL, num_classes=0, dynamic_img_size=True).eval()
    reference.load_state_dict(torch.load(weights, weights_only=True))
    assert loaded.spec.tile_px == 192
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(x), reference(x), atol=1e-5, rtol=1e-5)


def test_arguments_reach_timm(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "registers.pth"
    torch.save(timm.create_model(MODEL, num_classes=0, reg_tokens=2, init_values=1e-5).state_dict(), path)
    arguments = (("reg_tokens", 2), ("init_values", 1e-5))
    assert load_own(own(arguments=arguments), path).spec.dim == 64
    with pytest.raises(WeightsMismatch, match=r"unexpected: blocks\.0\.ls1\.gamma.*wrong: pos_embed"):
        load_own(own(), path)
    with pytest.raises(UsageError, match="timm does not build test_vit with"):
        load_own(own(arguments=(("no_such", 1),)), path)


@pytest.mark.parametrize("name", ["beph", "uni", "timm:mine", " ", "a/b"])
def test_a_name_that_means_something_else_is_refused(weights, name):
    with pytest.raises(UsageError, match="cannot name your own encoder"):
        load_own(own(name=name), weights)


def test_an_architecture_that_timm_lacks_is_told(weights):
    with pytest.raises(UnknownEncoder, match="has no model 'vit_smal_patch16_224'"):
        load_own(own(architecture="vit_smal_patch16_224"), weights)


def test_prefixes_of_training_frameworks_do_not_matter(weights):
    state = torch.load(weights, weights_only=True)
    model = timm.create_model(MODEL, num_classes=0)
    assert fit(model, {f"module.backbone.{k}": v for k, v in state.items()}, weights) == ()
    head = {"module.head.weight": torch.zeros(9, 64)}
    assert fit(model, {**{f"module.{k}": v for k, v in state.items()}, **head}, weights) == (
        "module.head.weight",
    )


def test_a_timm_model_and_its_own_name_have_the_same_weights(weights):
    assert (
        load_timm(f"timm:{MODEL}", weights).spec.weights_sha256
        == load_own(own(), weights).spec.weights_sha256
    )


def test_one_that_joins_tokens_can_be_trained_on_and_read_back(weights, tmp_path):
    loaded = load_own(own(pooling="cls+mean"), weights)
    state = {k: v + 0.01 if v.is_floating_point() else v for k, v in loaded.model.state_dict().items()}
    further = trained(loaded, state)
    assert further.spec.name == "mine-finetuned"
    write_weights(further, tmp_path / "more.safetensors")
    again = load_own(own(pooling="cls+mean"), tmp_path / "more.safetensors")
    assert again.spec.weights_sha256 == further.spec.weights_sha256 != loaded.spec.weights_sha256


def test_statistics_are_on_the_scale_of_pixels():
    assert scaled((0.5, 0.5, 0.5), (0.1, 0.2, 0.4)) == Normalisation((127.5,) * 3, (25.5, 51.0, 102.0))
