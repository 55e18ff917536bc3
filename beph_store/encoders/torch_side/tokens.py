"""Tokens instead of a vector: what a teacher says of each cell of a tile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from beph_store.encoders.torch_side.loaded import LN_EPS, Loaded, MeanOfPatches
from beph_store.encoders.torch_side.mini import MeanAndSpread
from beph_store.errors import UsageError

#: Standardised tokens are clipped here: some channels have heavy tails.
CLIP = 5.0


class TokenTeacher(nn.Module):
    """Tokens (B, grid x grid, dim) float32 of tiles (B, 3, H, W) uint8, standardised by channel; no gradient.

    Of a transformer, its patch tokens after the last block; of a convolutional network, its last map. A map of another
    size is brought to ``grid`` by bilinear interpolation. Raises UsageError for a model that has neither.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, loaded: Loaded, grid: int, sample: Tensor) -> None:
        """``sample`` (N, 3, H, W) uint8: the tiles whose tokens set centre and scale."""
        super().__init__()
        self.model = loaded.model.eval().requires_grad_(False)
        self.name = loaded.spec.name
        self.grid = grid
        self.register_buffer("mean", torch.tensor(loaded.spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(loaded.spec.std).view(1, 3, 1, 1))
        with torch.inference_mode():
            seen = torch.cat([self._tokens(part) for part in torch.split(sample, 8)]).flatten(0, 1).clone()
        self.register_buffer("centre", seen.mean(0))
        self.register_buffer("scale", 1 / (seen.std(0) + 1e-6))
        self.dim = int(seen.shape[1])

    def train(self, mode: bool = True) -> TokenTeacher:
        """A teacher does not learn."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return ((self._tokens(pixels) - self.centre) * self.scale).clamp(-CLIP, CLIP)

    def _tokens(self, pixels: Tensor) -> Tensor:
        x = (pixels.float() - self.mean) / self.std
        net: Any = self.model
        if isinstance(net, (MeanOfPatches, MeanAndSpread)):
            trunk: Any = net.trunk
            found = trunk.forward_features(x)[:, 1:].float()
            found = functional.layer_norm(found, [found.shape[-1]], eps=LN_EPS)
        else:
            found = net.forward_features(x).float()
            if found.ndim == 3:
                found = found[:, int(getattr(net, "num_prefix_tokens", 0)) :]
            elif found.ndim == 4:
                last = found.shape[1] == net.num_features and found.shape[-1] != net.num_features
                found = found.flatten(2).transpose(1, 2) if last else found.flatten(1, 2)
        return self._fit(found)

    def _fit(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 3:
            raise UsageError(
                f"{self.name} gives no tokens, so it cannot teach: take a ViT or a CNN of timm, or BEPH"
            )
        side = round(tokens.shape[1] ** 0.5)
        if side * side != tokens.shape[1]:
            raise UsageError(
                f"{self.name} gives {tokens.shape[1]} tokens, which fill no square: take another teacher"
            )
        if side == self.grid:
            return tokens
        square = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        fitted = functional.interpolate(square, (self.grid, self.grid), mode="bilinear", align_corners=False)
        return fitted.flatten(2).transpose(1, 2)
