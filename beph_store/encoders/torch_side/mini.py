"""beph-mini: BEPH's transformer in small, on tokens from a convolutional stem.

A hybrid vision transformer (Dosovitskiy et al. 2021, section 3.1): instead of from raw 16-px patches, its 14 x 14
tokens come from the first five stages of EfficientNet-Lite0, whose ImageNet weights stay frozen. From there on it
is a BEiT v2 as BEPH is: relative positions in one shared table, layer scale, mean of the patch tokens, LayerNorm. A
transformer alone needs millions of tiles to learn what the stem brings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from beph_store.encoders import parity
from beph_store.encoders.bundle import load_bundle
from beph_store.encoders.probe import probe_tiles
from beph_store.encoders.table import encoder_entry, normalisation
from beph_store.encoders.torch_side.graph_weights import weights_from_graph
from beph_store.encoders.torch_side.loaded import (
    Embedder,
    Loaded,
    MeanOfPatches,
    mismatch,
    read_tensors,
    tensors_sha256,
)
from beph_store.records import EncoderSpec

NAME = "beph-mini"
TILE_PX = 224
DIM, DEPTH, HEADS = 192, 6, 3
#: Stages of EfficientNet-Lite0 in the stem, and their channels; together they have stride 16.
STAGES, CHANNELS = 5, 112
_BATCH = 16


class Stem(nn.Module):
    """EfficientNet-Lite0 down to stride 16, then a linear map: it stands where a ViT embeds its patches."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks[:STAGES]
        self.register_buffer("mean", torch.zeros(CHANNELS))
        self.register_buffer("scale", torch.ones(CHANNELS))
        self.proj = nn.Linear(CHANNELS, dim)

    def features(self, x: Tensor) -> Tensor:
        """(B, 112, 14, 14) of normalised pixels (B, 3, 224, 224)."""
        x = self.bn1(self.conv_stem(x))
        for block in self.blocks:
            x = block(x)
        return x

    def tokens(self, features: Tensor) -> Tensor:
        """(B, 196, dim) of features in the order (B, 14, 14, 112)."""
        tokens: Tensor = self.proj((features.flatten(1, 2) - self.mean) * self.scale)
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """(B, 196, dim) of normalised pixels."""
        return self.tokens(self.features(x).permute(0, 2, 3, 1))


def make_mini(seed: int = 0) -> nn.Module:
    """The architecture with seeded random weights, the stem's too; in eval mode."""
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
    trunk: nn.Module = model.eval()
    return trunk


def load_mini(path: str | Path) -> Loaded:
    """beph-mini with the weights of a file that `benchmarks/train_beph_mini.py` wrote. Raises WeightsMismatch."""
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
    entry = encoder_entry(NAME)
    stats = normalisation(entry.variants[0].normalisation)
    spec = EncoderSpec(
        name=NAME,
        variant=entry.variants[0].name,
        weights_sha256=tensors_sha256(tensors),
        tile_px=TILE_PX,
        mpp=entry.mpp,
        dim=DIM,
        pooling="mean of patch tokens, LayerNorm",
        mean=stats.mean,
        std=stats.std,
        precision="fp32",
        licence=entry.licence,
    )
    return Loaded(MeanOfPatches(trunk).eval(), spec, ())


def load_mini_bundle(path: str | Path = NAME) -> Loaded:
    """beph-mini with the weights of an exported bundle, by default the one that ships: no checkpoint is needed.

    The probe tiles must come out as the bundle says. Raises as ``load_bundle``, WeightsMismatch where the graph is of
    another architecture, ParityFailed where it computes something else.
    """
    bundle = load_bundle(path)
    trunk = make_mini()
    # A BEiT has a norm for its own pooling, which is done outside of it here.
    unused = [name for name in trunk.state_dict() if name.startswith("fc_norm.")]
    trunk.load_state_dict(weights_from_graph(bundle.onnx_path(), trunk, unused))
    model = MeanOfPatches(trunk).eval()
    tiles = torch.from_numpy(probe_tiles(bundle.spec.tile_px))
    embed = Embedder(model, bundle.spec).eval()
    with torch.inference_mode():
        vectors = torch.cat([embed(part) for part in torch.split(tiles, _BATCH)]).numpy()
    report = parity.compare(bundle.reference(), vectors, parity.kind_of("fp32"))
    parity.require(report, f"the model of {bundle.path}")
    return Loaded(model, bundle.spec, ())
