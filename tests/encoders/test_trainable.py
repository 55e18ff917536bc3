"""Weights out of a graph, trained on, and back in by the loaders: nothing is lost on the way."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from beph_store.encoders.torch_side.beph import load_beph
from beph_store.encoders.torch_side.export import ExportOptions, load_encoder
from beph_store.encoders.torch_side.graph_weights import weights_from_graph
from beph_store.encoders.torch_side.mini import load_mini, load_mini_bundle
from beph_store.encoders.torch_side.trainable import as_trainable, load_for_training, trained, write_weights
from beph_store.errors import UsageError, WeightsMismatch


def nudged(model):
    """The state dict with every float a little elsewhere: the trace of training."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: t + 0.01 * torch.randn(t.shape, generator=generator) if t.is_floating_point() else t
        for name, t in model.state_dict().items()
    }


def embedding(loaded, px):
    pixels = torch.randn(2, 3, px, px, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return loaded.model.eval()(pixels)


def test_a_graph_gives_the_weights_of_its_model_back(exported, checkpoint):
    bundle, _ = exported
    trunk = load_beph(checkpoint).model.trunk
    empty = load_beph(checkpoint).model.trunk
    for parameter in empty.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    found = weights_from_graph(bundle.onnx_path(), empty)
    for name, tensor in trunk.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-7, msg=name)


def test_a_graph_of_another_architecture_is_refused(exported, checkpoint):
    bundle, _ = exported
    other = timm.create_model("test_vit", num_classes=0)
    with pytest.raises(WeightsMismatch):
        weights_from_graph(bundle.onnx_path(), other)


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_beph_is_written_in_its_fine_tuned_layout(tmp_path, fine_tuned):
    from .conftest import TILE, save, seeded_state

    path = save(tmp_path / "in.pth", seeded_state(fine_tuned=fine_tuned))
    loaded = load_for_training("beph", path)
    model = as_trainable(loaded)
    assert {name for name, _ in model.named_parameters()} > {"weight", "bias"}
    torch.testing.assert_close(
        embedding(trained(loaded, model.state_dict()), TILE), embedding(loaded, TILE), rtol=0, atol=1e-6
    )
    new = trained(loaded, nudged(model), mpp=0.4)
    assert new.spec.name == "beph-finetuned"
    assert (new.spec.mpp, loaded.spec.mpp) == (0.4, 0.25)
    assert new.spec.weights_sha256 != loaded.spec.weights_sha256
    write_weights(new, tmp_path / "out.safetensors")
    again = load_encoder("beph", tmp_path / "out.safetensors", ExportOptions())
    assert again.spec.weights_sha256 == new.spec.weights_sha256
    assert torch.equal(embedding(again, TILE), embedding(new, TILE))
    assert trained(again, nudged(as_trainable(again))).spec.name == "beph-finetuned"


def test_a_timm_model_goes_there_and_back(tmp_path):
    source = timm.create_model("test_vit", num_classes=0)
    save_file(source.state_dict(), tmp_path / "in.safetensors")
    loaded = load_for_training("timm:test_vit", tmp_path / "in.safetensors")
    new = trained(loaded, nudged(as_trainable(loaded)))
    write_weights(new, tmp_path / "out.safetensors")
    again = load_encoder("timm:test_vit", tmp_path / "out.safetensors", ExportOptions())
    assert again.spec.weights_sha256 == new.spec.weights_sha256
    assert torch.equal(embedding(again, new.spec.tile_px), embedding(new, new.spec.tile_px))


def test_beph_mini_needs_no_checkpoint_and_leaves_one(tmp_path):
    loaded = load_for_training("beph-mini")  # held to the probe tiles of its bundle
    assert loaded.spec.name == "beph-mini"
    model = as_trainable(loaded)
    assert not {"weight", "bias"} & {name for name, _ in model.named_parameters()}
    new = trained(loaded, nudged(model))
    write_weights(new, tmp_path / "out.safetensors")
    again = load_mini(tmp_path / "out.safetensors")
    assert again.spec.weights_sha256 == new.spec.weights_sha256
    assert torch.equal(embedding(again, 224), embedding(new, 224))


def test_a_bundle_of_something_else_is_no_beph_mini(exported):
    with pytest.raises(WeightsMismatch, match="linear maps"):
        load_mini_bundle(exported[0].path)


def test_beph_without_its_file_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="pass --weights"):
        load_for_training("beph")
