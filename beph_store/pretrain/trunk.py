"""What this room asks of a trunk: timm's ``Beit``, or anything built like it.

``patch_embed`` gives (B, cells, dim) of normalised pixels and has ``grid_size``; ``cls_token`` (1, 1, dim); ``blocks``
take ``shared_rel_pos_bias``; ``rel_pos_bias`` is one table for all blocks or None; ``pos_embed`` absolute positions or
None.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def tokens_of(trunk: nn.Module, pixels: Tensor) -> Tensor:
    """(B, 1 + cells, dim) after the last block, class token first."""
    return walk(trunk, patches_of(trunk, pixels))[-1]


def patches_of(trunk: nn.Module, pixels: Tensor) -> Tensor:
    """(B, cells, dim) before the first block, positions not yet added."""
    embed: Any = trunk.patch_embed
    found: Tensor = embed(pixels)
    return found


def walk(trunk: nn.Module, patches: Tensor, keep: tuple[int, ...] = ()) -> list[Tensor]:
    """Outputs (B, 1 + cells, dim) of the blocks numbered ``keep`` (0 the first), and of the last."""
    net: Any = trunk
    x = torch.cat((net.cls_token.expand(len(patches), -1, -1).to(patches.dtype), patches), 1)
    if net.pos_embed is not None:
        x = x + net.pos_embed
    bias = shared_bias(trunk)
    kept = []
    for number, block in enumerate(net.blocks):
        x = block(x, shared_rel_pos_bias=bias)
        if number in keep:
            kept.append(x)
    return [*kept, net.norm(x)]


def shared_bias(trunk: nn.Module) -> Tensor | None:
    """The bias (1, heads, N, N) that all blocks share, or None."""
    net: Any = trunk
    found: Tensor | None = net.rel_pos_bias() if net.rel_pos_bias is not None else None
    return found


def heads_of(trunk: nn.Module) -> int:
    """Attention heads of its blocks."""
    net: Any = trunk
    return int(net.blocks[0].attn.num_heads)


def unfuse(model: nn.Module) -> None:
    """Compute attention step by step: on the CPU a trained bias has no fused backward."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
