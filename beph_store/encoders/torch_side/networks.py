"""Networks of published encoders, built by timm from what their row says, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import timm
import torch
from timm.layers import SwiGLUPacked
from torch import Tensor, nn

from beph_store.encoders.entry import Network, Pooling
from beph_store.errors import UsageError

#: Layers that a row, or `--set`, may name.
LAYERS: Mapping[str, Any] = MappingProxyType(
    {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU, "GELU": nn.GELU, "ReLU": nn.ReLU}
)


class ConvStem(nn.Module):
    """CTransPath's first layers: two convolutions of stride 2 and one of 1 x 1 where a Swin cuts its patches."""

    def __init__(self, dim: int, tile_px: int) -> None:
        super().__init__()
        narrow, wide = dim // 8, dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(3, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, dim, 1),
        )
        self.norm = nn.LayerNorm(dim)
        self.grid_size = (tile_px // 4, tile_px // 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H / 4, W / 4, dim) of normalised pixels (B, 3, H, W)."""
        normed: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return normed


class Pooled(nn.Module):
    """A transformer's embedding (B, dim) or (B, 2 dim) float32: the mean of its normed patch tokens, alone ('mean') or
    after the class token ('cls+mean'); registers are left out.
    """

    def __init__(self, trunk: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.trunk = trunk
        self.joined = pooling == "cls+mean"
        self.num_prefix_tokens = int(getattr(trunk, "num_prefix_tokens", 0))
        self.num_features = int(getattr(trunk, "num_features", 0))
        if self.joined and self.num_prefix_tokens == 0:
            raise UsageError("this model has no class token: take --pooling mean")

    def forward_features(self, x: Tensor) -> Tensor:
        """The tokens (B, tokens, dim) of normalised pixels."""
        tokens: Tensor = self.trunk.forward_features(x)  # type: ignore[operator]
        return tokens

    def forward(self, x: Tensor) -> Tensor:
        """Of normalised (B, 3, H, W)."""
        tokens = self.forward_features(x)
        mean = tokens[:, self.num_prefix_tokens :].to(torch.float32).mean(1)
        return torch.cat([tokens[:, 0].to(torch.float32), mean], 1) if self.joined else mean

    def half(self) -> Pooled:
        """Half the trunk only: the pooling stays in float32."""
        self.trunk.half()
        return self


def build(network: Network, tile_px: int) -> nn.Module:
    """The network of a row with random weights, without classifier. UsageError where timm does not take it."""
    arguments = {
        name: LAYERS.get(value, value) if isinstance(value, str) else value
        for name, value in network.arguments
    }
    try:
        model: nn.Module = timm.create_model(
            network.architecture, pretrained=False, num_classes=0, **arguments
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"timm does not build {network.architecture} with {dict(network.arguments)}: {error}"
        ) from error
    if network.stem == "conv":
        swin: Any = model
        model.patch_embed = ConvStem(int(swin.embed_dim), tile_px)
    return model.eval()


def pooled(model: nn.Module, pooling: Pooling) -> nn.Module:
    """The model with that way from tokens to one vector.

    timm's ViTs give the class token by themselves. UsageError for tokens of a model that has none.
    """
    own = getattr(model, "global_pool", None)
    if pooling == "model" or (pooling == "cls" and own == "token"):
        return model
    if not hasattr(model, "num_prefix_tokens"):
        raise UsageError(f"pooling {pooling!r} is for vision transformers: take --pooling model")
    if pooling == "cls":
        raise UsageError(f"timm pools this model by {own!r}, not by a class token: take another --pooling")
    return Pooled(model, pooling).eval()
