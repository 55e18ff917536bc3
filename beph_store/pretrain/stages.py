"""The two stages of BEiT v2: a tokenizer learns codes from a teacher, a trunk learns to tell the codes under a mask."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from beph_store.pretrain.data import Batch
from beph_store.pretrain.mim import MaskedModel
from beph_store.pretrain.tokenizer import Tokenizer


class Pixels(nn.Module):
    """uint8 (B, 3, H, W) to normalised float32; ``mean`` and ``std`` on the 0–255 scale, as encoders say them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised."""
        out: Tensor = (pixels.float() - self.mean) / self.std
        return out


class Teacher(Protocol):
    """Tokens (B, cells, dim) float32 of tiles (B, 3, H, W) uint8 on any device, without a gradient."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """See the class."""
        ...


class TokenizerStage:
    """Stage one. ``codebook_use`` is the share of codes told in the last ``window`` steps."""

    name = "tokenizer"

    def __init__(self, model: Tokenizer, teacher: Teacher, pixels: Pixels, window: int = 50) -> None:
        self.model = model
        self._teacher = teacher
        self._pixels = pixels
        self._window = window

    def loss(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """See ``Stage.loss``."""
        found: dict[str, Tensor] = net(self._pixels(batch.pixels), self._teacher(batch.pixels))
        return found

    def after(self, found: dict[str, Tensor]) -> dict[str, float]:
        """The codes follow what was told by them."""
        self.model.codebook.follow(found["z"], found["index"].flatten())
        return {"codebook_use": self.model.codebook.use(self._window)}


class MaskedStage:
    """Stage two. The tokenizer stands still; a ``teacher`` takes part where the model distils as well."""

    name = "masked"

    def __init__(
        self, model: MaskedModel, tokenizer: Tokenizer, pixels: Pixels, teacher: Teacher | None = None
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer.eval().requires_grad_(False)
        self._pixels = pixels
        self._teacher = teacher

    def loss(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """See ``Stage.loss``."""
        pixels = self._pixels(batch.pixels)
        taught = None if self._teacher is None else self._teacher(batch.pixels)
        found: dict[str, Tensor] = net(pixels, batch.mask, self._tokenizer.tell(pixels), taught)
        return found

    def after(self, found: dict[str, Tensor]) -> dict[str, float]:
        """Nothing follows."""
        return {}
