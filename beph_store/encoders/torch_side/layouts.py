"""Checkpoints in the key layouts of other frameworks, brought to timm's names: each tensor used, needless, or refused.

Known are timm's own, DINOv2's (with registers, SwiGLU, chunked blocks, a teacher beside its heads), the ViT and DINOv2
of transformers, and Swin as timm had it before 0.9. Which one a file has is told by its names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from beph_store.encoders.torch_side.loaded import mismatch
from beph_store.errors import WeightsMismatch

Tensors = dict[str, Tensor]

#: What training frameworks put before every name.
_PREFIXES = ("module.", "backbone.", "trunk.", "model.", "vit.", "dinov2.")
#: Parts of a file that no embedding needs: heads of the training, what stands for masked patches, fixed indices.
_NEEDLESS = re.compile(
    r"(.*\.)?(dino_head|ibot_head)\..*|(embeddings\.)?mask_token|pooler\.dense\.(weight|bias)"
    r"|.*\.(relative_position_index|attn_mask)"
)
# transformers' names -> timm's, in this order.
_TRANSFORMERS: tuple[tuple[str, str], ...] = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
_DINOV2: tuple[tuple[str, str], ...] = (
    (r"^register_tokens$", "reg_token"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)


def fit(
    model: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, resample: bool = False
) -> tuple[str, ...]:
    """Load the file's ``tensors`` into a model of timm; returns the names of those that it does not need.

    ``resample``: positions of another square grid of patches are brought to the model's own, as timm does for tiles of
    another size. Raises WeightsMismatch that names each tensor missing, unexpected, of the wrong shape or not finite.
    """
    own = model.state_dict()
    state, dropped = translate(tensors, model)
    if resample:
        _resample(state, model)
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or unexpected or wrong:
        raise mismatch(path, missing, unexpected, wrong)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsMismatch(f"{path.name} holds values that are not finite, in {name}", path=path)
    model.load_state_dict(state, strict=True)
    return dropped


def translate(tensors: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors in float32 under the names that ``model`` has, and the file's names of those not needed."""
    own = set(model.state_dict())
    named, original = _stripped(tensors)
    needless = {k for k in named if k not in own and (_NEEDLESS.fullmatch(k) or _is_classifier(k, model))}
    state = {k: _full(v) for k, v in named.items() if k not in needless}
    dropped = tuple(sorted(original[k] for k in needless))
    if "embeddings.cls_token" in state:
        state = _joined_qkv(_renamed(state, _TRANSFORMERS, own))
    if "layers.0.downsample.reduction.weight" in state and "layers.0.downsample.reduction.weight" not in own:
        state = _rename(state, lambda k: re.sub(r"^layers\.(\d+)\.downsample", _next_stage, k))
    state = _unchunked(_renamed(state, _DINOV2, own))
    _fold_class_position(state, model)
    return state, dropped


def _stripped(tensors: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, str]]:
    """Tensors without what is before every name, and the original name of each. Heads beside a trunk do not count."""
    original = {k: k for k in tensors}
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            inner = [k for k in original if not _NEEDLESS.fullmatch(k)]
            if inner and all(k.startswith(prefix) for k in inner):
                original = {k.removeprefix(prefix): v for k, v in original.items()}
                changed = True
    return {k: tensors[v] for k, v in original.items()}, original


def _is_classifier(name: str, model: nn.Module) -> bool:
    config: Any = getattr(model, "pretrained_cfg", None)
    named = (config.get("classifier") if config else None) or ()
    heads = (named,) if isinstance(named, str) else tuple(named)
    return name.rpartition(".")[0] in {*heads, *(head.removesuffix(".fc") for head in heads)}


def _full(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _renamed(state: Tensors, rules: tuple[tuple[str, str], ...], own: set[str]) -> Tensors:
    def name(key: str) -> str:
        if key in own:
            return key
        for pattern, by in rules:
            key = re.sub(pattern, by, key)
        return key

    return _rename(state, name)


def _rename(state: Tensors, name: Callable[[str], str]) -> Tensors:
    return {name(key): tensor for key, tensor in state.items()}


def _next_stage(found: re.Match[str]) -> str:
    """Old Swins shrink at the end of a stage, timm at the beginning of the next."""
    return f"layers.{int(found[1]) + 1}.downsample"


def _joined_qkv(state: Tensors) -> Tensors:
    """Query, key and value of each block as the one matrix that timm has."""
    joined: Tensors = {}
    for key, tensor in state.items():
        found = re.fullmatch(r"(.*\.attn)\.(query|key|value)\.(weight|bias)", key)
        if found is None:
            joined[key] = tensor
        elif found[2] == "query":
            parts = [state.get(f"{found[1]}.{part}.{found[3]}") for part in ("query", "key", "value")]
            if all(part is not None for part in parts):
                joined[f"{found[1]}.qkv.{found[3]}"] = torch.cat([part for part in parts if part is not None])
    return joined


def _unchunked(state: Tensors) -> Tensors:
    """DINOv2's training cuts its blocks into chunks: ``blocks.CHUNK.NUMBER.…``; the numbers run on."""
    blocks = [key for key in state if key.startswith("blocks.")]
    if not blocks or not all(re.match(r"blocks\.\d+\.\d+\.", key) for key in blocks):
        return state
    return _rename(state, lambda key: re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key))


def _fold_class_position(state: Tensors, model: nn.Module) -> None:
    """The class token's position goes into the token where the model has positions for its patches alone."""
    position = state.get("pos_embed")
    if position is None or not getattr(model, "no_embed_class", False) or "cls_token" not in state:
        return
    if _side(position.shape[1]) is None and _side(position.shape[1] - 1) is not None:
        state["cls_token"] = state["cls_token"] + position[:, :1]
        state["pos_embed"] = position[:, 1:]


def _resample(state: Tensors, model: nn.Module) -> None:
    own: Any = getattr(model, "pos_embed", None)
    position = state.get("pos_embed")
    if own is None or position is None or own.shape == position.shape:
        return
    patch: Any = model.patch_embed
    new = [int(side) for side in patch.grid_size]
    prefix = int(own.shape[1]) - new[0] * new[1]
    old = _side(position.shape[1] - prefix)
    if old:
        state["pos_embed"] = resample_abs_pos_embed(
            position, new_size=new, old_size=[old, old], num_prefix_tokens=prefix
        )


def _side(count: int) -> int | None:
    side = math.isqrt(max(0, count))
    return side if side * side == count else None
