"""beph-mini: BEPH's transformer in small, on tokens from a convolutional stem.

A hybrid vision transformer (Dosovitskiy et al. 2021, section 3.1): instead of from raw 16-px patches, its 14 x 14
tokens come from the first five stages of EfficientNet-Lite0, whose ImageNet weights stay frozen. From there on it
is a BEiT v2 as BEPH is: relative positions in one shared table, layer scale, LayerNorm. A transformer alone
needs millions of tiles to learn what the stem brings.

Two things differ from BEPH, both because they tell tissues apart that its way does not: a token sees three scales of
the stem (strides 8 and 16), and a tile is the mean *and the spread* of its tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from beph_store.encoders import parity
from beph_store.encoders.bundle import load_bundle
from beph_store.encoders.probe import probe_tiles
from beph_store.encoders.table import encoder_entry, normalisation
from beph_store.encoders.torch_side.graph_weights import weights_from_graph
from beph_store.encoders.torch_side.loaded import (
    LN_EPS,
    Embedder,
    Loaded,
    mismatch,
    read_tensors,
    tensors_sha256,
)
from beph_store.records import EncoderSpec

NAME = "beph-mini"
NORMALISATION = "symmetric"
TILE_PX = 224
DIM, DEPTH, HEADS = 256, 4, 4
#: Stages of EfficientNet-Lite0 in the stem, those that a token is made of, and the sum of their channels.
STAGES, SEEN, CHANNELS = 5, (2, 3, 4), 40 + 80 + 112
#: Tiles that go through torch at once.
_BATCH = 8
#: A tensor that only a hybrid has.
STEM = "patch_embed.conv_stem.weight"


class Stem(nn.Module):
    """EfficientNet-Lite0 down to stride 16, then a linear map: it stands where a ViT embeds its patches."""

    mean: Tensor
    scale: Tensor
    #: Cells of the result, as timm's patch embedding says them.
    grid_size = (TILE_PX // 16, TILE_PX // 16)

    def __init__(self, dim: int) -> None:
        super().__init__()
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks[:STAGES]
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("scale", torch.ones(CHANNELS))
        self.proj = nn.Linear(CHANNELS, dim)

    def train(self, mode: bool = True) -> Stem:
        """The convolutions and their statistics stand still in training too."""
        return super().train(False)

    def features(self, x: Tensor) -> Tensor:
        """(B, 232, 14, 14) of normalised pixels (B, 3, 224, 224)."""
        seen = []
        x = self.bn1(self.conv_stem(x))
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in SEEN:
                seen.append(functional.avg_pool2d(x, 2) if x.shape[-1] > self.grid_size[0] else x)
        return torch.cat(seen, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 196, dim) of normalised pixels."""
        cells = self.features(x).flatten(2).transpose(1, 2)
        tokens: Tensor = self.proj((cells - self.mean) * self.scale)
        return tokens


class MeanAndSpread(nn.Module):
    """An embedding (B, 2 dim) float32: mean and standard deviation of the patch tokens, a LayerNorm each."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        """Of normalised (B, 3, H, W)."""
        tokens: Tensor = self.trunk.forward_features(x)[:, 1:].to(torch.float32)  # type: ignore[operator]
        mean = tokens.mean(1)
        spread = (tokens - mean[:, None]).square().mean(1).sqrt()
        dim = [tokens.shape[-1]]
        halves = [functional.layer_norm(half, dim, eps=LN_EPS) for half in (mean, spread)]
        return torch.cat(halves, 1)

    def half(self) -> MeanAndSpread:
        """Half the trunk only: the pooling stays in float32."""
        self.trunk.half()
        return self


def make_mini(seed: int = 0) -> nn.Module:
    """The trunk with seeded random weights, the stem's too; in eval mode."""
    torch.manual_seed(seed)
    model: Any = timm.create_model(
        "beitv2_base_patch16_224",
        pretrained=False,
        num_classes=0,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        init_values=0.1,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
    )
    model.patch_embed = Stem(DIM)
    model.fc_norm = nn.Identity()  # it pools elsewhere
    trunk: nn.Module = model.eval()
    return trunk


@torch.no_grad()
def adopt_stem(trunk: nn.Module, net: nn.Module, pixels: Tensor) -> None:
    """Give the stem the first stages of an EfficientNet-Lite0, and freeze them.

    ``pixels`` normalised (N, 3, 224, 224): a sample from which the statistics of their output are taken, so that every
    channel counts alike; the linear map after them begins as a rotation, so that nothing is lost in it.
    """
    stem: Any = trunk.patch_embed
    own: Any = net
    stem.conv_stem.load_state_dict(own.conv_stem.state_dict())
    stem.bn1.load_state_dict(own.bn1.state_dict())
    stem.blocks.load_state_dict(own.blocks[:STAGES].state_dict())
    freeze_stem(trunk)
    seen = torch.cat([stem.features(part) for part in torch.split(pixels, 16)]).transpose(0, 1).flatten(1)
    stem.mean.copy_(seen.mean(1))
    stem.scale.copy_(1 / (seen.std(1) + 1e-3))
    nn.init.orthogonal_(stem.proj.weight)
    nn.init.zeros_(stem.proj.bias)


def freeze_stem(trunk: nn.Module) -> None:
    """The convolutions learn nothing here; the linear map after them does."""
    stem: Any = trunk.patch_embed
    for part in (stem.conv_stem, stem.bn1, stem.blocks):
        part.requires_grad_(False)
    stem.eval()


def load_mini(path: str | Path) -> Loaded:
    """beph-mini with the weights of a checkpoint that `pretrain --size mini` left. Raises WeightsMismatch."""
    path = Path(path)
    tensors = read_tensors(path)
    trunk = make_mini()
    own = trunk.state_dict()
    missing, unexpected = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    wrong = [
        f"{k} {tuple(tensors[k].shape)}" for k in own if k in tensors and tensors[k].shape != own[k].shape
    ]
    if missing or unexpected or wrong:
        raise mismatch(path, missing, unexpected, wrong)
    trunk.load_state_dict(tensors)
    entry, stats = encoder_entry(NAME), normalisation(NORMALISATION)
    spec = EncoderSpec(
        name=NAME,
        variant=entry.variants[0].name,
        weights_sha256=tensors_sha256(tensors),
        tile_px=TILE_PX,
        mpp=entry.mpp,
        dim=2 * DIM,
        pooling="mean and spread of patch tokens, a LayerNorm each",
        mean=stats.mean,
        std=stats.std,
        precision="fp32",
        licence=entry.licence,
    )
    return Loaded(MeanAndSpread(trunk).eval(), spec, ())


def load_mini_bundle(path: str | Path = NAME) -> Loaded:
    """beph-mini with the weights of an exported bundle, by default the one that ships: no checkpoint is needed.

    The probe tiles must come out as the bundle says. Raises as ``load_bundle``, WeightsMismatch where the graph is of
    another architecture, ParityFailed where it computes something else.
    """
    bundle = load_bundle(path)
    trunk = make_mini()
    trunk.load_state_dict(weights_from_graph(bundle.onnx_path(), trunk))
    model = MeanAndSpread(trunk).eval()
    tiles = torch.from_numpy(probe_tiles(bundle.spec.tile_px))
    embed = Embedder(model, bundle.spec).eval()
    with torch.inference_mode():
        vectors = torch.cat([embed(part) for part in torch.split(tiles, _BATCH)]).numpy()
    report = parity.compare(bundle.reference(), vectors, parity.kind_of("fp32"))
    parity.require(report, f"the model of {bundle.path}")
    return Loaded(model, bundle.spec, ())
