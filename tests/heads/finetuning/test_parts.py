"""What is trained how fast, the schedule, and what tiles look like in training."""

import math
from contextlib import suppress

import numpy as np
import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from beph_store.errors import UsageError
from beph_store.heads.finetuning import FLOOR, FinetuneOptions, TileEpoch, best_epoch, is_over
from beph_store.heads.torch_side.finetuning.layers import layers_of, parameter_groups
from beph_store.heads.torch_side.finetuning.model import TileNetwork, prepare
from beph_store.heads.torch_side.finetuning.tiles import Augmentation, seeded

from .drawing import MEAN, STD, task


class Pooled(nn.Module):
    """As BEPH's encoder is wrapped: a trunk, and a trained norm of the mean token around it."""

    def __init__(self, depth=4):
        super().__init__()
        self.trunk = timm.create_model(
            "beitv2_base_patch16_224", num_classes=0, img_size=48, embed_dim=32, depth=depth, num_heads=2
        )
        self.trunk.fc_norm = nn.Identity()
        self.weight, self.bias = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))

    def forward(self, x):
        mean = self.trunk.forward_features(x)[:, 1:].mean(1)
        return nn.functional.layer_norm(mean, [32], self.weight, self.bias)


def test_layers_of_a_beit_are_those_of_the_paper_s_configuration():
    layers = layers_of(Pooled())
    assert layers.head == 5
    assert layers.of["trunk.cls_token"] == layers.of["trunk.patch_embed.proj.weight"] == 0
    for block in range(4):
        assert layers.of[f"trunk.blocks.{block}.attn.qkv.weight"] == block + 1
        assert layers.of[f"trunk.blocks.{block}.attn.relative_position_bias_table"] == block + 1
    assert layers.of["weight"] == layers.of["bias"] == 5


def test_each_layer_learns_slower_than_the_one_above_and_vectors_do_not_decay():
    model, head = Pooled(), nn.Linear(32, 3)
    groups = parameter_groups(model, head, FinetuneOptions(layer_decay=0.5, weight_decay=0.1))
    of = {id(p): group for group in groups for p in group["params"]}
    named = {f"encoder.{n}": p for n, p in model.named_parameters()}
    named |= {f"head.{n}": p for n, p in head.named_parameters()}
    assert len(of) == len(named)
    for name, power in (
        ("head.weight", 0),
        ("head.bias", 0),
        ("encoder.weight", 0),
        ("encoder.trunk.blocks.3.mlp.fc1.weight", 1),
        ("encoder.trunk.blocks.0.norm1.weight", 4),
        ("encoder.trunk.patch_embed.proj.weight", 5),
    ):
        assert of[id(named[name])]["scale"] == pytest.approx(0.5**power), name
    decayed = {name for name, p in named.items() if of[id(p)]["weight_decay"] > 0}
    assert all(name.endswith("weight") and named[name].ndim > 1 for name in decayed)
    for name in ("cls_token", "blocks.1.gamma_1", "blocks.1.attn.relative_position_bias_table"):
        assert of[id(named[f"encoder.trunk.{name}"])]["weight_decay"] == 0
    assert {"head.weight", "encoder.trunk.blocks.0.attn.qkv.weight"} <= decayed


def test_frozen_layers_get_no_gradient():
    model, head = Pooled(), nn.Linear(32, 3)
    parameter_groups(model, head, FinetuneOptions(frozen=3))
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.startswith(("trunk.blocks.2.", "trunk.blocks.3.")) or "." not in name for name in free)
    assert free


def test_any_module_has_layers_in_order():
    model = nn.Sequential(nn.Conv2d(3, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 8))
    assert layers_of(model).of == {"0.weight": 0, "0.bias": 0, "3.weight": 1, "3.bias": 1}
    assert layers_of(model).head == 2
    # Blocks of a timm model that is no ViT.
    found = layers_of(timm.create_model("test_resnet", num_classes=0))
    assert found.of["conv1.0.weight"] < found.of["layer1.0.conv1.weight"] < found.of["layer4.0.conv1.weight"]
    assert found.head == max(found.of.values()) + 1


def test_paths_are_dropped_more_with_depth_and_a_stem_stays_whole():
    model = Pooled()
    stem = model.trunk.patch_embed.net = timm.create_model("test_efficientnet", num_classes=0)
    prepare(model, 0.3, fused=False)
    rates = [
        (b.drop_path1.drop_prob, b.drop_path2.drop_prob) if isinstance(b.drop_path1, DropPath) else (0, 0)
        for b in model.trunk.blocks
    ]
    np.testing.assert_allclose(rates, [(0, 0), (0.1, 0.1), (0.2, 0.2), (0.3, 0.3)])
    assert not any(block.attn.fused_attn for block in model.trunk.blocks)
    assert not any(isinstance(module, DropPath) for module in stem.modules())
    prepare(model, 0.0, fused=False)
    assert not any(isinstance(module, DropPath) for module in model.modules())
    resnet = timm.create_model("test_resnet", num_classes=0)
    prepare(resnet, 0.2, fused=True)
    assert resnet.layer4[0].drop_path.drop_prob == pytest.approx(0.2)


def test_a_batch_norm_keeps_its_statistics():
    network = TileNetwork(timm.create_model("test_resnet", num_classes=0), task(dim=96, tile_px=32))
    before = network.encoder.bn1.running_mean.clone()
    network.train()
    assert network.encoder.layer1.training
    network(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert torch.equal(network.encoder.bn1.running_mean, before)


def test_the_network_sees_normalised_pixels():
    class Probe(nn.Module):
        def forward(self, x):
            self.seen = x
            return x.mean((2, 3))

    network = TileNetwork(Probe(), task(dim=3, tile_px=4))
    tile = torch.tensor(MEAN).round().to(torch.uint8).expand(1, 4, 4, 3)
    network(tile)
    expected = (tile.permute(0, 3, 1, 2) - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(
        1, 3, 1, 1
    )
    torch.testing.assert_close(network.encoder.seen, expected)


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    options = FinetuneOptions(epochs=10, warmup=2, lr=1.5e-3, batch=56, accumulate=2)
    assert options.peak == pytest.approx(1.5e-3 / 2**0.5)  # half of 224 tiles a step
    assert [options.rate(at) for at in (0, 1, 2)] == pytest.approx([0, 0.5, 1])
    assert options.rate(6) == pytest.approx(FLOOR + (1 - FLOOR) / 2)
    assert options.rate(10) == pytest.approx(FLOOR)
    assert FinetuneOptions(epochs=30).rate(3) == 1
    assert FinetuneOptions(epochs=5, warmup=0).rate(0.01) == pytest.approx(1, abs=1e-3)
    assert all(math.isfinite(FinetuneOptions(epochs=1, warmup=1).rate(at)) for at in (0, 0.5, 1))


def test_the_end_is_after_all_epochs_or_when_validation_gets_no_better():
    def epochs(*losses):
        return [TileEpoch(i, 1.0, loss, 0, 0, 0, 1, 1, 0) for i, loss in enumerate(losses, 1)]

    options = FinetuneOptions(epochs=5, patience=2)
    assert not is_over([], options)
    assert not is_over(epochs(3, 2, 2.5), options)
    assert is_over(epochs(3, 2, 2.5, 2.1), options)
    assert is_over(epochs(5, 4, 3, 2, 1), options)
    assert best_epoch(epochs(3, 2, 2)) == 2


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"magnitude": 11}, {"erasing": 1.5}, {"lr": 0}, {"warmup": 31}, {"min_crop": 0}]
)
def test_options_that_cannot_be_meant_name_their_flag(wrong):
    with pytest.raises(UsageError, match=f"--{next(iter(wrong)).replace('_', '-')} "):
        FinetuneOptions(**wrong)


def test_a_tile_looks_the_same_for_the_same_seed_and_leaves_the_generators_alone():
    image = np.random.default_rng(0).integers(0, 255, (90, 70, 3)).astype(np.uint8)
    draw = Augmentation(task(tile_px=48), FinetuneOptions())
    torch.manual_seed(5)
    np.random.seed(5)
    first = draw(image, 11)
    after = float(torch.rand(())), float(np.random.rand())
    torch.manual_seed(5)
    np.random.seed(5)
    assert after == (float(torch.rand(())), float(np.random.rand()))
    assert first.shape == (48, 48, 3)
    assert first.dtype == np.uint8
    assert (draw(image, 11) == first).all()
    assert (draw(image, 12) != first).any()


def test_without_augmentation_a_whole_crop_is_the_image_turned():
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    options = FinetuneOptions(operations=0, erasing=0.0, min_crop=1.0)
    draw = Augmentation(task(tile_px=48), options)
    turned = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    seen = set()
    for seed in range(24):
        tile = draw(image, seed)
        match = [i for i, one in enumerate(turned) if (one == tile).all()]
        if match:
            seen.add(match[0])
    assert seen == {0, 1, 2, 3}


def test_erasing_puts_noise_of_the_encoder_s_statistics_in_and_touches_nothing_else():
    image = np.full((48, 48, 3), 10, np.uint8)
    draw = Augmentation(task(tile_px=48), FinetuneOptions(operations=0, erasing=1.0))
    tile = draw(image, 3)
    erased = (tile != 10).any(axis=2)
    assert 0.01 < erased.mean() < 0.4
    np.testing.assert_allclose(tile[erased].mean(axis=0), MEAN, atol=25)
    assert (tile[~erased] == 10).all()


def test_every_operation_works_at_full_strength():
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    draw = Augmentation(task(tile_px=24), FinetuneOptions(magnitude=10, operations=4))
    tiles = np.stack([draw(image, seed) for seed in range(400)])
    assert tiles.std() > 10


def test_seeded_restores_even_after_an_error():
    torch.manual_seed(1)
    wanted = float(torch.rand(()))
    torch.manual_seed(1)
    with suppress(KeyError), seeded(9):
        torch.rand(3)
        raise KeyError
    assert float(torch.rand(())) == wanted
