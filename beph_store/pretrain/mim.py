"""Masked-image modelling of BEiT v2: say which codes lie under the mask.

Peng et al. 2022, section 3.2, and 3.3 for the second loss: a class token that has seen the whole depth, beside patches
of a middle block, must tell the codes too, so that it gathers what the tile is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.models.beit import Block
from torch import Tensor, nn
from torch.nn import functional

from beph_store.pretrain.trunk import heads_of, patches_of, shared_bias, walk


@dataclass(frozen=True, slots=True)
class MimSpec:
    """``codes`` to choose from; ``middle`` the block (0 the first) whose patches the ``gather`` extra blocks see (BEPH:
    the ninth of twelve, two); ``layer_scale`` of theirs. ``distil``: weight of a third loss, not BEiT's: to tell the
    teacher's own tokens too (``taught`` numbers each), seen or not, and their mean (as in MVP, Wei et al. 2022).
    """

    codes: int = 8192
    middle: int = 8
    gather: int = 2
    layer_scale: float = 0.1
    distil: float = 0.0
    taught: int = 0


def middle_of(depth: int) -> int:
    """BEPH's proportion for a trunk of another depth: three quarters of it below the extra blocks."""
    return max(0, round(0.75 * depth) - 1)


class MaskedModel(nn.Module):
    """A trunk under training, with what is thrown away after it."""

    def __init__(self, trunk: nn.Module, spec: MimSpec) -> None:
        super().__init__()
        dim, heads = int(trunk.embed_dim), heads_of(trunk)  # type: ignore[arg-type]
        self.spec = spec
        self.trunk = trunk
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        known = getattr(trunk, "mask_token", None)  # of a checkpoint that goes on
        if isinstance(known, Tensor):
            self.mask_token.data.copy_(known)
        else:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.gather = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, init_values=spec.layer_scale) for _ in range(spec.gather)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, spec.codes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.teach = nn.Linear(dim, spec.taught) if spec.distil else None
        self.teach_all = nn.Linear(2 * dim, spec.taught) if spec.distil else None

    def forward(
        self, pixels: Tensor, mask: Tensor, codes: Tensor, taught: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Cross-entropies ``masked`` and ``gathered``, ``distil``, and the share ``right`` of masked codes told.

        ``pixels`` normalised (B, 3, H, W), ``mask`` (B, cells) bool, ``codes`` (B, cells) int64, ``taught`` the
        teacher's tokens (B, cells, taught).
        """
        patches = patches_of(self.trunk, pixels)
        patches = torch.where(mask[..., None], self.mask_token.to(patches.dtype), patches)
        middle, last = walk(self.trunk, patches, (self.spec.middle,))
        wanted = codes[mask]
        logits = self._tell(last, mask)
        masked = functional.cross_entropy(logits.float(), wanted)
        losses = {"masked": masked, "right": (logits.detach().argmax(1) == wanted).float().mean()}
        total = masked
        if self.spec.gather:
            x, bias = torch.cat((last[:, :1], middle[:, 1:]), 1), shared_bias(self.trunk)
            for block in self.gather:
                x = block(x, shared_rel_pos_bias=bias)
            losses["gathered"] = functional.cross_entropy(self._tell(x, mask).float(), wanted)
            total = masked + losses["gathered"]
        if taught is not None and self.spec.distil:
            losses["distil"] = self._distil(last[:, 1:], taught)
            total = total + self.spec.distil * losses["distil"]
        return {"loss": total, **losses}

    def _distil(self, tokens: Tensor, taught: Tensor) -> Tensor:
        """1 - cosine, for each cell and for the whole tile, whose mean and spread are what it is embedded by."""
        one: Any = self.teach
        whole: Any = self.teach_all
        cells = functional.cosine_similarity(one(self.norm(tokens)).float(), taught, dim=-1)
        pooled = whole(pool(tokens.float()).to(tokens.dtype)).float()
        tile = functional.cosine_similarity(pooled, taught.mean(1), dim=-1)
        return 2 - cells.mean() - tile.mean()

    def _tell(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits (masked patches of the batch, codes)."""
        head: Any = self.head
        found: Tensor = head(self.norm(tokens[:, 1:][mask]))
        return found


def pool(tokens: Tensor) -> Tensor:
    """(B, 2 dim) of (B, cells, dim): mean and standard deviation over the cells, each normalised."""
    dim = [tokens.shape[-1]]
    mean, spread = tokens.mean(1), tokens.std(1)
    return torch.cat((functional.layer_norm(mean, dim), functional.layer_norm(spread, dim)), 1)
