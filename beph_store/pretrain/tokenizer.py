"""VQ-KD, the tokenizer of BEiT v2: patches become codes from which a decoder can tell a teacher's features.

Peng et al. 2022, "BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers", section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.models.beit import Block
from torch import Tensor, nn
from torch.nn import functional

from beph_store.pretrain.codebook import Codebook
from beph_store.pretrain.trunk import heads_of, tokens_of


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """``codes`` of ``code_dim`` numbers; ``decoder`` blocks; ``commitment`` the weight of its loss (the paper: 1)."""

    codes: int = 8192
    code_dim: int = 32
    decoder: int = 3
    decay: float = 0.99
    commitment: float = 1.0


class Tokenizer(nn.Module):
    """Encoder → code → decoder → the teacher's tokens.

    ``encoder`` is a trunk as `pretrain/trunk.py` describes it, of (B, cells, dim); the teacher's tokens are
    (B, cells, teacher_dim).
    """

    def __init__(self, encoder: nn.Module, teacher_dim: int, spec: TokenizerSpec) -> None:
        super().__init__()
        dim, heads = int(encoder.embed_dim), heads_of(encoder)  # type: ignore[arg-type]
        self.spec = spec
        self.encoder = encoder
        self.squeeze = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, spec.code_dim))
        self.codebook = Codebook(spec.codes, spec.code_dim, decay=spec.decay)
        self.widen = nn.Linear(spec.code_dim, dim)
        # Positions come from the encoder's shape: the decoder learns its own.
        self.positions = nn.Parameter(torch.zeros(1, _cells(encoder), dim))
        blocks = [Block(dim, heads, qkv_bias=True, init_values=0.1) for _ in range(spec.decoder)]
        self.decoder = nn.ModuleList(blocks)
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, teacher_dim))

    def forward(self, pixels: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Losses ``distil`` (1 - cosine, mean over tokens) and ``commit`` of normalised pixels (B, 3, H, W).

        Also ``index`` (B, cells) int64, the codes told, and ``z``, what they were told from, for ``follow``.
        """
        z = self.place(pixels)
        flat = z.flatten(0, 1)
        index = self.codebook.nearest(flat.detach().float())
        code = self.codebook.codes[index].view_as(z).to(z.dtype)
        commit = functional.mse_loss(z, code.detach())
        seen = self._decode(z + (code - z).detach())  # straight through
        distil = 1 - functional.cosine_similarity(seen.float(), teacher.float(), dim=-1).mean()
        return {
            "loss": distil + self.spec.commitment * commit,
            "distil": distil,
            "commit": commit,
            "index": index.view(z.shape[:2]),
            "z": flat.detach().float(),
        }

    def place(self, pixels: Tensor) -> Tensor:
        """(B, cells, code_dim) of length 1."""
        squeezed: Tensor = self.squeeze(tokens_of(self.encoder, pixels)[:, 1:])
        return functional.normalize(squeezed, dim=-1)

    @torch.no_grad()
    def tell(self, pixels: Tensor) -> Tensor:
        """Codes (B, cells) int64 of normalised pixels."""
        z = self.place(pixels)
        return self.codebook.nearest(z.flatten(0, 1).float()).view(z.shape[:2])

    def _decode(self, codes: Tensor) -> Tensor:
        x = self.widen(codes) + self.positions
        for block in self.decoder:
            x = block(x)
        out: Tensor = self.head(x)
        return out


def _cells(encoder: nn.Module) -> int:
    net: Any = encoder
    height, width = net.patch_embed.grid_size
    return int(height * width)
