"""Checkpoints in BEPH's layout: ``{'state_dict': {'backbone.…': tensor}, 'author': str}``.

The architecture is read off the shapes, so that small models of the family load by the same path. Each
tensor of the file is used, or known to be needless, or refused by name: nothing is loaded loosely.

Two layouts exist. The published backbone has one relative-position table for all blocks
(``rel_pos_bias.…``); a fine-tuned file has a table in each block, a trained final norm
(``backbone.ln2``, not to be mixed up with a block's own ``ln2``) and a classifier.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from beph_store.encoders.table import EncoderEntry, Variant, encoder_entry, normalisation
from beph_store.encoders.torch_side.loaded import (
    Loaded,
    MeanOfPatches,
    mismatch,
    read_tensors,
    tensors_sha256,
)
from beph_store.errors import UsageError, WeightsMismatch
from beph_store.records import EncoderSpec

PREFIX = "backbone."
TABLE = "relative_position_bias_table"
INDEX = "relative_position_index"
SHARED = f"rel_pos_bias.{TABLE}"
# Tensors of the file, by name without the prefix, that an embedding does not need.
_NEEDLESS = re.compile(r"mask_token|head\.fc\.(weight|bias)")
_INDICES = re.compile(rf"(rel_pos_bias|layers\.\d+\.attn)\.{INDEX}")
# timm's name -> the file's.
_RENAMES = (
    ("patch_embed.proj.", "patch_embed.projection."),
    (".norm1.", ".ln1."),
    (".norm2.", ".ln2."),
    (".mlp.fc1.", ".ffn.layers.0.0."),
    (".mlp.fc2.", ".ffn.layers.1."),
    ("fc_norm.", "ln2."),
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """``tile_px`` the side of the input; ``patch`` of a token; the rest as in any ViT."""

    dim: int
    depth: int
    heads: int
    mlp: int
    patch: int
    tile_px: int


def load_beph(
    path: str | Path, name: str = "beph", *, variant: str | None = None, normalised_by: str | None = None
) -> Loaded:
    """Load a checkpoint as the encoder ``name`` of the table.

    ``variant`` None is the entry's first; ``normalised_by`` 'histology' or 'imagenet' overrides the
    variant's own. Raises WeightsMismatch listing every tensor that is missing, unexpected or of the wrong
    shape, and UsageError for a variant that the file's layout does not have.
    """
    path = Path(path)
    entry = encoder_entry(name)
    chosen = entry.variant(variant)
    tensors = read_layout(path)
    arch = infer_architecture(tensors, path)
    trunk = make_trunk(arch)
    _check_indices(tensors, trunk, path)
    state = _map(tensors, trunk, arch, path)
    if chosen.zero_tables:
        _zero_tables(state, shared=SHARED in tensors)
    _check_values(state, path)
    trunk.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc_norm.")}, strict=True)
    model = MeanOfPatches(trunk, state.get("fc_norm.weight"), state.get("fc_norm.bias")).eval()
    used = normalised_by or chosen.normalisation
    spec = _spec(entry, chosen, arch, used, tensors_sha256(state))
    return Loaded(model, spec, tuple(sorted(k for k in tensors if _NEEDLESS.fullmatch(k))))


def infer_architecture(tensors: dict[str, Tensor], path: Path) -> Architecture:
    """Read the architecture off the shapes of a file's tensors (names without the prefix)."""
    table = tensors.get(SHARED, tensors.get(f"layers.0.attn.{TABLE}"))
    first = tensors.get("layers.0.ffn.layers.0.0.bias")
    patch = tensors.get("patch_embed.projection.weight")
    blocks = [int(m[1]) for k in tensors if (m := re.match(r"layers\.(\d+)\.", k))]
    if table is None or first is None or patch is None or table.ndim != 2 or patch.ndim != 4:
        raise WeightsMismatch(
            f"{path.name} is not in BEPH's layout: it lacks a relative-position table, a first block or a patch "
            f"projection under the prefix {PREFIX!r}",
            path=path,
        )
    grid = (math.isqrt(max(0, table.shape[0] - 3)) + 1) // 2
    if (2 * grid - 1) ** 2 + 3 != table.shape[0]:
        raise WeightsMismatch(
            f"a relative-position table of {table.shape[0]} rows fits no square grid", path=path
        )
    return Architecture(
        dim=patch.shape[0],
        depth=max(blocks) + 1,
        heads=table.shape[1],
        mlp=first.shape[0],
        patch=patch.shape[-1],
        tile_px=grid * patch.shape[-1],
    )


def make_trunk(arch: Architecture) -> nn.Module:
    """The BEiT v2 of that architecture with random weights, without head and pooling."""
    trunk: nn.Module = timm.create_model(
        "beitv2_base_patch16_224",
        pretrained=False,
        num_classes=0,
        img_size=arch.tile_px,
        patch_size=arch.patch,
        embed_dim=arch.dim,
        depth=arch.depth,
        num_heads=arch.heads,
        mlp_ratio=arch.mlp / arch.dim,
    )
    trunk.fc_norm = nn.Identity()
    return trunk.eval()


def read_layout(path: Path) -> dict[str, Tensor]:
    """Every tensor of the file, by name without ``backbone.``; only the classifier may come without it."""
    tensors = read_tensors(path)
    plain = {k.removeprefix(PREFIX): v for k, v in tensors.items()}
    strangers = [k for k in tensors if not k.startswith(PREFIX) and not k.startswith("head.fc.")]
    if strangers or len(plain) != len(tensors):
        raise mismatch(path, [], sorted(strangers), [])
    return plain


def _map(tensors: dict[str, Tensor], trunk: nn.Module, arch: Architecture, path: Path) -> dict[str, Tensor]:
    """The state dict in timm's names; every tensor of the file accounted for."""
    wanted = {k: tuple(v.shape) for k, v in trunk.state_dict().items() if not k.endswith(INDEX)}
    if any(k.startswith("ln2.") for k in tensors):
        wanted |= {"fc_norm.weight": (arch.dim,), "fc_norm.bias": (arch.dim,)}
    source = {k: file_name(k, shared=SHARED in tensors) for k in wanted}
    missing = sorted({f"{PREFIX}{s}" for s in source.values() if s not in tensors})
    known = set(source.values())
    unexpected = sorted(
        f"{PREFIX}{k}"
        for k in tensors
        if k not in known and not _NEEDLESS.fullmatch(k) and not _INDICES.fullmatch(k)
    )
    wrong = sorted(
        f"{PREFIX}{s} {tuple(tensors[s].shape)} instead of {wanted[k]}"
        for k, s in source.items()
        if s in tensors and tuple(tensors[s].shape) != wanted[k]
    )
    if missing or unexpected or wrong:
        raise mismatch(path, missing, unexpected, list(dict.fromkeys(wrong)))
    return {k: tensors[s].to(torch.float32).clone() for k, s in source.items()}


def file_name(name: str, *, shared: bool = False) -> str:
    """The file's name of timm's ``name``; ``shared`` where every block's table is the file's one table."""
    if shared and name.endswith(f".attn.{TABLE}"):
        return SHARED
    if name.startswith("blocks."):
        name = "layers." + name.removeprefix("blocks.")
    for ours, theirs in _RENAMES:
        name = name.replace(ours, theirs)
    return name


def _check_indices(tensors: dict[str, Tensor], trunk: nn.Module, path: Path) -> None:
    """The file's own index into the table must be timm's: another order would scramble positions silently."""
    own = trunk.blocks[0].attn.relative_position_index  # type: ignore[index, union-attr]
    for name, index in tensors.items():
        if _INDICES.fullmatch(name) and (index.shape != own.shape or not torch.equal(index.long(), own)):
            raise WeightsMismatch(
                f"{path.name}: {PREFIX}{name} orders the positions in another way", path=path
            )


def _zero_tables(state: dict[str, Tensor], *, shared: bool) -> None:
    if not shared:
        raise UsageError(
            "the variant 'as-published' means the backbone file with its shared position table; this file has a "
            "table in each block, which the authors' script does load: use 'expanded'"
        )
    for name in state:
        if name.endswith(TABLE):
            state[name] = torch.zeros_like(state[name])


def _check_values(state: dict[str, Tensor], path: Path) -> None:
    bad = sorted(k for k, v in state.items() if not torch.isfinite(v).all())
    if bad:
        raise WeightsMismatch(f"{path.name} holds values that are not finite, in {bad[0]}", path=path)


def _spec(entry: EncoderEntry, variant: Variant, arch: Architecture, used: str, sha256: str) -> EncoderSpec:
    statistics = normalisation(used)
    return EncoderSpec(
        name=entry.name,
        variant=variant.name,
        weights_sha256=sha256,
        tile_px=arch.tile_px,
        mpp=entry.mpp,
        dim=arch.dim,
        pooling="layer-norm of mean patch token",
        mean=statistics.mean,
        std=statistics.std,
        precision="fp32",
        licence=entry.licence,
    )
