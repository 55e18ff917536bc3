"""The network: an encoder, a linear head on its embedding, and what is set on an encoder before it is trained."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from beph_store.heads.finetuning import TileTask

_PATHS = ("drop_path", "drop_path1", "drop_path2")
_HEAD_STD = 0.02


class TileNetwork(nn.Module):
    """uint8 tiles (B, H, W, 3) in, float32 logits (B, K) out. ``encoder`` maps normalised (B, 3, H, W) to (B, dim)."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, task: TileTask) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(task.dim, task.classes)
        nn.init.trunc_normal_(self.head.weight, std=_HEAD_STD)
        nn.init.zeros_(self.head.bias)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(task, name), dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits of the tiles."""
        pixels = (tiles.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std
        embedding: Tensor = self.encoder(pixels)
        with torch.autocast(tiles.device.type, enabled=False):
            logits: Tensor = self.head(embedding.to(torch.float32))
        return logits

    def train(self, mode: bool = True) -> TileNetwork:
        """As ever, but a BatchNorm keeps the statistics that it came with: batches here are small and alike."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


def prepare(encoder: nn.Module, drop_path: float, *, fused: bool) -> None:
    """Give the residual branches their chance to be dropped, rising from 0 to ``drop_path`` with depth.

    ``fused`` False computes attention step by step: a trained position bias has no fused backward on the CPU.
    """
    blocks = [module for module in _deepest(encoder).modules() if _branches(module)]
    for number, block in enumerate(blocks):
        rate = drop_path * number / max(1, len(blocks) - 1)
        for name in _branches(block):
            setattr(block, name, DropPath(rate) if rate > 0 else nn.Identity())
    attention: Any
    for attention in encoder.modules():
        if hasattr(attention, "fused_attn"):
            attention.fused_attn = attention.fused_attn and fused


def _deepest(encoder: nn.Module) -> nn.Module:
    """The transformer blocks where there are some, so that a convolutional stem before them stays whole."""
    for module in encoder.modules():
        blocks: Any = getattr(module, "blocks", None)
        if isinstance(blocks, nn.Module):
            return blocks
    return encoder


def _branches(module: nn.Module) -> list[str]:
    found = []
    for name in _PATHS:
        there = name in module._modules or name in vars(module)
        if there and isinstance(getattr(module, name), nn.Identity | DropPath | None):
            found.append(name)
    return found
