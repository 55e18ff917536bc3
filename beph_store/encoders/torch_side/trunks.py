"""Trunks to be trained, and the checkpoints that they leave: in BEPH's own layout, which tools for BEPH read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from beph_store.encoders.table import normalisation
from beph_store.encoders.torch_side import mini
from beph_store.encoders.torch_side.beph import (
    INDEX,
    PREFIX,
    SHARED,
    TABLE,
    file_name,
    infer_architecture,
    load_beph,
    read_layout,
)
from beph_store.encoders.torch_side.loaded import Loaded, MeanOfPatches, mismatch, read_tensors
from beph_store.encoders.torch_side.timm_models import from_hub
from beph_store.errors import UsageError


@dataclass(frozen=True, slots=True)
class Size:
    """Of a BEiT v2: ``dim`` of its tokens, ``depth`` in blocks, ``heads``, ``tile_px`` the side of its input, ``mlp`` x
    dim its MLP.
    """

    dim: int
    depth: int
    heads: int
    tile_px: int = 224
    mlp: float = 4.0


#: ``base`` is BEPH's; ``tiny`` and ``small`` are DeiT's widths (Touvron et al. 2021) at BEPH's depth.
SIZES: Mapping[str, Size] = MappingProxyType(
    {"tiny": Size(192, 12, 3), "small": Size(384, 12, 6), "base": Size(768, 12, 12)}
)
#: Trained on ImageNet with BEiT v2's own objective; the only size of which timm has the weights.
TIMM_BASE = "beitv2_base_patch16_224.in1k_ft_in1k"


def make_trunk(size: Size, *, absolute: bool = False) -> nn.Module:
    """A BEiT v2 with random weights: one shared table of relative positions, or ``absolute`` positions instead."""
    trunk: nn.Module = timm.create_model(
        "beitv2_base_patch16_224",
        pretrained=False,
        num_classes=0,
        img_size=size.tile_px,
        embed_dim=size.dim,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp,
        init_values=0.1,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=not absolute,
        use_abs_pos_emb=absolute,
    )
    return _without_pooling(trunk)


def trunk_from_beph(path: str | Path) -> tuple[nn.Module, Size]:
    """The trunk of a checkpoint in BEPH's layout as it was pre-trained: with its one shared table.

    A mask token of the file comes as the trunk's ``mask_token`` buffer.

    Raises WeightsMismatch as ``load_beph``, and UsageError for a fine-tuned file, which has a table in each block.
    """
    path = Path(path)
    tensors = read_layout(path)
    arch = infer_architecture(tensors, path)
    if SHARED not in tensors:
        raise UsageError(
            f"{path.name} has a position table in each block, so it was fine-tuned: pre-training goes on from the "
            "pre-trained file (BEPH_backbone.pth)",
            path=path,
        )
    load_beph(path)  # every tensor accounted for, or a clear word
    size = Size(arch.dim, arch.depth, arch.heads, arch.tile_px, arch.mlp / arch.dim)
    if arch.patch != 16:
        raise UsageError(f"{path.name} has patches of {arch.patch} px: 16 are trained here", path=path)
    trunk = make_trunk(size)
    state = {ours: tensors[file_name(ours)] for ours in trunk.state_dict() if not ours.endswith(INDEX)}
    trunk.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    if "mask_token" in tensors:
        trunk.register_buffer("mask_token", tensors["mask_token"].float(), persistent=False)
    return trunk, size


def trunk_from_timm(weights: str | Path | None = None) -> tuple[nn.Module, Size]:
    """A BEiT v2 base of ImageNet, from a local file in timm's layout or from the Hugging Face hub.

    Its blocks have a table each; the shared one begins as their mean. Raises EncoderError where the hub cannot be
    reached, WeightsMismatch for a file that is something else.
    """
    size = SIZES["base"]
    source = from_hub(TIMM_BASE).state_dict() if weights is None else read_tensors(Path(weights))
    tables = [source[k] for k in sorted(source) if k.endswith(f"attn.{TABLE}")]
    trunk = make_trunk(size)
    own = {k: v for k, v in trunk.state_dict().items() if not k.endswith(INDEX)}
    found = {k: source[k] for k in own if k in source}
    if tables:
        found[SHARED] = torch.stack([t.float() for t in tables]).mean(0)
    missing = sorted(set(own) - set(found))
    wrong = sorted(k for k, v in found.items() if v.shape != own[k].shape)
    if missing or wrong:
        raise mismatch(Path(weights or TIMM_BASE), missing, [], wrong)
    trunk.load_state_dict(found, strict=False)
    return trunk, size


def checkpoint(trunk: nn.Module, mask_token: Tensor) -> dict[str, Any]:
    """What `torch.save` takes: BEPH's layout for a BEiT v2; for the hybrid, of which BEPH has no names, timm's."""
    state = {k: v.detach().cpu().contiguous() for k, v in trunk.state_dict().items()}
    if is_hybrid(trunk):
        return {"state_dict": state, "author": "beph-store"}
    named = {f"{PREFIX}{file_name(k)}": v for k, v in state.items()}
    named[f"{PREFIX}mask_token"] = mask_token.detach().cpu().contiguous()
    return {"state_dict": named, "author": "beph-store"}


def save(trunk: nn.Module, mask_token: Tensor, path: Path) -> None:
    """Write the checkpoint aside, then rename."""
    aside = path.with_name(f".{path.name}.part")
    torch.save(checkpoint(trunk, mask_token), aside)
    aside.replace(path)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A ``trunk`` to train, an ``encoder`` for the tokenizer, and the ``tile_px``, ``mean`` and ``std`` of both."""

    trunk: nn.Module
    encoder: nn.Module
    tile_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.tile_px // 16


def prepare(size: str | None, init: str, weights: Path | None, seed: int) -> Prepared:
    """A BEiT v2 as ``init`` says ('none', 'beph', 'timm'); the tokenizer's encoder has its shape, absolute positions
    and random weights. Raises as the loaders.
    """
    torch.manual_seed(seed)
    if init == "beph":
        trunk, shape = trunk_from_beph(weights or Path())
    elif init == "timm":
        trunk, shape = trunk_from_timm(weights)
    else:
        shape = SIZES[size or "base"]
        trunk = make_trunk(shape)
    stats = normalisation("imagenet" if init == "timm" else "histology")
    return Prepared(trunk, make_trunk(shape, absolute=True), shape.tile_px, stats.mean, stats.std)


def prepare_hybrid(init: str, teacher: Loaded, pixels: Tensor, seed: int) -> Prepared:
    """beph-mini's hybrid: 'beph-mini' goes on from the one that ships, 'none' takes the teacher's first stages as stem.

    ``pixels`` (N, 3, 224, 224) uint8, a sample of the tiles. The tokenizer's encoder begins as the trunk does.
    """
    torch.manual_seed(seed)
    stats = normalisation(mini.NORMALISATION)
    if init == mini.NAME:
        trunk = _shipped_trunk()
    else:
        trunk = mini.make_mini(seed)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (stats.mean, stats.std))
        mini.adopt_stem(trunk, teacher.model, (pixels.float() - mean) / std)
    return Prepared(trunk, copy.deepcopy(trunk), mini.TILE_PX, stats.mean, stats.std)


def _shipped_trunk() -> nn.Module:
    """The trunk of the bundle that ships, its stem frozen, to train further."""
    model: Any = mini.load_mini_bundle().model
    mini.freeze_stem(model.trunk)
    trunk: nn.Module = model.trunk
    return trunk


def embedder(prepared: Prepared, batch: int = 16) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Vectors (N, dim) float32 of tiles (N, H, W, 3) uint8 by the trunk as it is at that moment."""
    trunk = prepared.trunk
    pooled = mini.MeanAndSpread(trunk) if is_hybrid(trunk) else MeanOfPatches(trunk)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (prepared.mean, prepared.std))

    def embed(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        device = next(trunk.parameters()).device
        parts = []
        with torch.inference_mode():
            for part in torch.split(torch.from_numpy(tiles), batch):
                x = (part.permute(0, 3, 1, 2).float() - mean) / std
                parts.append(pooled(x.to(device)).cpu())
        return torch.cat(parts).numpy()

    return embed


@dataclass(frozen=True, slots=True)
class Naming:
    """How the encoder of a trained trunk is called: its ``name``, its ``mpp`` in µm/px and its ``licence``."""

    name: str
    mpp: float
    licence: str


def load_trained(path: str | Path, naming: Naming, *, normalised_by: str = "histology") -> Loaded:
    """The encoder of a checkpoint that pre-training left, under a name of its own. Raises WeightsMismatch."""
    if mini.STEM in read_tensors(Path(path)):
        loaded = mini.load_mini(path)
    else:
        loaded = load_beph(path, normalised_by=normalised_by)
    spec = replace(loaded.spec, name=naming.name, mpp=naming.mpp, licence=naming.licence)
    return Loaded(loaded.model, spec, loaded.dropped)


def is_hybrid(trunk: nn.Module) -> bool:
    """Whether it is beph-mini's."""
    return isinstance(trunk.patch_embed, mini.Stem)


def _without_pooling(trunk: nn.Module) -> nn.Module:
    """It pools elsewhere, and a norm that nothing uses would get no gradient."""
    trunk.fc_norm = nn.Identity()
    return trunk
