"""The networks: gated attention over tiles, with or without CLAM's instance branch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from beph_store_kernels import attention_pool

#: CLAM-SB as BEPH configured it: widths of the hidden and of the attention layer.
CLAM_HIDDEN, CLAM_GATE = 384, 256
#: ABMIL: the widths of the original for 1024-d features, kept.
ABMIL_HIDDEN, ABMIL_GATE = 512, 256


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """``logits`` (B, O) float32 of the bags; per tile ``features`` (T, H) and attention ``scores`` (T,)."""

    logits: Tensor
    features: Tensor
    scores: Tensor


class Body(nn.Module):
    """Tiles → hidden → gated attention (Ilse et al. 2018) → weighted mean → linear classifier.

    ``instances`` classes get CLAM's instance classifier of two outputs each; 0 means none.
    """

    def __init__(
        self, encode: nn.Module, widths: tuple[int, int], outputs: int, gate_dropout: float, instances: int
    ) -> None:
        super().__init__()
        hidden, gate = widths
        self.encode = encode
        self.tanh_branch = nn.Linear(hidden, gate)
        self.sigmoid_branch = nn.Linear(hidden, gate)
        self.gate_dropout = Dropout(gate_dropout)
        self.attention = nn.Linear(gate, 1)
        self.classifier = nn.Linear(hidden, outputs)
        self.instances = nn.Linear(hidden, 2 * instances) if instances else None
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        if (
            self.instances is not None
        ):  # C separate layers of two outputs, held in one matrix: initialise them as such
            nn.init.normal_(self.instances.weight, std=math.sqrt(2 / (hidden + 2)))

    def tiles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (T, H) and attention scores (T,) of tiles (T, D)."""
        features = self.encode(x)
        tanh = self.gate_dropout(torch.tanh(self.tanh_branch(features)))
        sigmoid = self.gate_dropout(torch.sigmoid(self.sigmoid_branch(features)))
        return features, self.attention(tanh * sigmoid)[:, 0].float()

    def forward(self, x: Tensor, lengths: tuple[int, ...]) -> Output:
        """Bags end to end (T, D) with their lengths."""
        features, scores = self.tiles(x)
        with torch.autocast(x.device.type, enabled=False):
            offsets = torch.tensor((0, *accumulate(lengths)), device=x.device)
            pooled = attention_pool(scores[:, None], features, offsets)
            logits = self.classifier(pooled[:, 0])
        return Output(logits, features, scores)


class Dropout(nn.Module):
    """Dropout by random bytes on the CPU, where torch's own takes longer than the layers around it.

    There the rate is rounded to 1/256 (0.25 is exact). It obeys ``torch.manual_seed``.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x, each entry 0 with the rate, else scaled to keep the mean."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.rate)
        threshold = round(self.rate * 256)
        count = x.numel()
        words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.uint8)[:count].view(x.shape) >= threshold
        return x * keep.to(x.dtype).mul_(256 / (256 - threshold))


def abmil(dim: int, outputs: int, dropout: float, classes: int) -> Body:
    """Gated-attention ABMIL: D → 512 ReLU, gate 256. ``classes`` is not used."""
    encode = nn.Sequential(nn.Linear(dim, ABMIL_HIDDEN), nn.ReLU(), Dropout(dropout))
    return Body(encode, (ABMIL_HIDDEN, ABMIL_GATE), outputs, 0.0, 0)


def clam(dim: int, outputs: int, dropout: float, classes: int) -> Body:
    """CLAM-SB as BEPH configured it: D → 384 (no activation) → 384 ReLU, gate 256 with dropout on both branches."""
    encode = nn.Sequential(
        nn.Linear(dim, CLAM_HIDDEN), nn.Linear(CLAM_HIDDEN, CLAM_HIDDEN), nn.ReLU(), Dropout(dropout)
    )
    return Body(encode, (CLAM_HIDDEN, CLAM_GATE), outputs, dropout, classes)


#: (dim, outputs, dropout, classes with an instance classifier) → network, by head name.
BODIES: Mapping[str, Callable[[int, int, float, int], Body]] = MappingProxyType(
    {"abmil": abmil, "clam": clam}
)
