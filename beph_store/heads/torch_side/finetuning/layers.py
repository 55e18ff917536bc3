"""Which parameters learn how fast: layer by layer, and without decay where it would do harm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from timm.models import group_parameters
from torch import nn

from beph_store.heads.finetuning import FinetuneOptions

#: Parameters that are pulled to zero by no weight decay, besides all vectors (norms, biases, layer scale).
_NO_DECAY = re.compile(r"(^|\.)(cls_token|reg_token|mask_token|pos_embed)$|relative_position_bias_table$")
#: A norm of the pooled embedding learns like the classifier above it.
_POOLED = "fc_norm."


@dataclass(frozen=True, slots=True)
class Layers:
    """The layer ``of`` each parameter of an encoder by name, 0 the lowest, and that of the ``head`` on top of it."""

    of: dict[str, int]
    head: int


def layers_of(encoder: nn.Module) -> Layers:
    """What a timm model says is a layer of its; a norm of the embedding is as high as the head.

    Of anything else each child with parameters, in order, is a layer.
    """
    names = [name for name, _ in encoder.named_parameters()]
    for at, trunk in encoder.named_modules():
        matcher: Any = getattr(trunk, "group_matcher", None)
        if callable(matcher):
            inner: dict[str, int] = group_parameters(trunk, matcher(coarse=False), reverse=True)
            inner = {name: layer for name, layer in inner.items() if not name.startswith(_POOLED)}
            top = max(inner.values()) + 1
            prefix = f"{at}." if at else ""
            return Layers({name: inner.get(name.removeprefix(prefix), top) for name in names}, top)
    parts = list(dict.fromkeys(name.split(".")[0] for name in names))
    return Layers({name: parts.index(name.split(".")[0]) for name in names}, len(parts))


def parameter_groups(encoder: nn.Module, head: nn.Module, options: FinetuneOptions) -> list[dict[str, Any]]:
    """Groups for an optimiser, each with ``params``, ``weight_decay`` and ``scale``, its share of the learning rate.

    The head has scale 1. The first ``options.frozen`` layers of the encoder get no gradients and are in no group.
    """
    layers = layers_of(encoder)
    named = [(name, parameter, layers.of[name]) for name, parameter in encoder.named_parameters()]
    for _, parameter, layer in named:
        parameter.requires_grad_(layer >= options.frozen)
    named += [(f"head.{name}", parameter, layers.head) for name, parameter in head.named_parameters()]
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter, layer in named:
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 and not _NO_DECAY.search(name)
        decay, scale = options.weight_decay if decayed else 0.0, options.layer_decay ** (layers.head - layer)
        group = groups.setdefault((layer, decayed), {"params": [], "weight_decay": decay, "scale": scale})
        group["params"].append(parameter)
    return list(groups.values())
