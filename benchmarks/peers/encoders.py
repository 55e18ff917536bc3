"""The two encoders of the comparison as torch modules that every environment with torch and timm can build.

``vit_tiny`` is timm's ViT-Ti/16 with drawn weights: what a CPU makes of an encoder. ``pooled`` is nearly free: the mean
of each 16-px square and one linear map; with it the time is the pipeline's own, as it is beside a fast GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN = STD = (0.5, 0.5, 0.5)
DIM = 192
VIT = "vit_tiny_patch16_224"
NAMES = ("vit_tiny", "pooled")


class Pooled(nn.Module):
    """(B, 3, 224, 224) normalised → (B, 192)."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3 * 14 * 14, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors of the tiles."""
        out: Tensor = self.proj(functional.avg_pool2d(x, 16).flatten(1))
        return out


def make(name: str) -> nn.Module:
    """The architecture, in eval mode."""
    if name == "pooled":
        return Pooled().eval()
    import timm

    return timm.create_model(VIT, pretrained=False, num_classes=0).eval()


def load(name: str, weights: str) -> nn.Module:
    """With the weights of a torch file."""
    model = make(name)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval()


def normalise(tiles: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) → normalised float32 (B, 3, H, W), a whole batch at once."""
    return (tiles.permute(0, 3, 1, 2).to(torch.float32) / 255 - 0.5) / 0.5
