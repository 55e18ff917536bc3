"""Encoders to be trained further, and what comes of it: weights that the loaders read back, and a new spec."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from beph_store.encoders.torch_side import mini
from beph_store.encoders.torch_side.beph import INDEX, PREFIX, file_name
from beph_store.encoders.torch_side.export import ExportOptions, load_encoder
from beph_store.encoders.torch_side.loaded import Loaded, MeanOfPatches, tensors_sha256
from beph_store.encoders.torch_side.networks import Pooled

#: Appended to the name of an encoder whose weights were trained on.
SUFFIX = "-finetuned"
_AFFINE = ("weight", "bias")


def load_for_training(name: str, weights: str | Path | None = None) -> Loaded:
    """The encoder ``name`` in float32; beph-mini needs no file, as its own bundle gives its weights back.

    BEPH comes as it was trained: with its position tables in every block. Raises as ``load_encoder``.
    """
    if name == mini.NAME and weights is None:
        return mini.load_mini_bundle()
    return load_encoder(name, weights, ExportOptions())


def as_trainable(loaded: Loaded) -> nn.Module:
    """A copy whose state dict is all that is trained.

    BEPH's norm of the mean token is trained as well, as its authors do; beph-mini has none to train.
    """
    model = copy.deepcopy(loaded.model)
    if isinstance(model, MeanOfPatches):
        dim = loaded.spec.dim
        for name, plain in zip(_AFFINE, (torch.ones(dim), torch.zeros(dim)), strict=True):
            given: Tensor | None = getattr(model, name)
            delattr(model, name)  # a buffer so far
            model.register_parameter(name, nn.Parameter(plain if given is None else given.clone()))
    return model


def trained(loaded: Loaded, state: Mapping[str, Tensor], *, mpp: float | None = None) -> Loaded:
    """The encoder with the ``state`` of its trainable copy: a feature space of its own, under a name of its own.

    ``mpp`` of what it was trained on, µm/px; None keeps the encoder's.
    """
    model = as_trainable(loaded)
    model.load_state_dict(state)
    if isinstance(model, MeanOfPatches):
        affine = [None if (t := getattr(model, name)) is None else t.detach().clone() for name in _AFFINE]
        model = MeanOfPatches(model.trunk, *affine)
    spec = dataclasses.replace(
        loaded.spec,
        name=loaded.spec.name.removesuffix(SUFFIX) + SUFFIX,
        weights_sha256=tensors_sha256(_named(model)),
        mpp=mpp or loaded.spec.mpp,
    )
    return Loaded(model.eval(), spec, ())


def write_weights(loaded: Loaded, path: Path) -> None:
    """A .safetensors file that ``load_encoder`` takes for the encoder it came from: BEPH's in its fine-tuned layout."""
    tensors = _named(loaded.model)
    if isinstance(loaded.model, MeanOfPatches):
        tensors = {f"{PREFIX}{file_name(name)}": tensor for name, tensor in tensors.items()}
    aside = path.with_name(f".{path.name}")
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, aside)
    aside.replace(path)


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Tensors under the names that the loaders hash: a trunk's own, and ``fc_norm`` for the norm of the mean token."""
    if isinstance(model, Pooled):
        return dict(model.trunk.state_dict())
    if not isinstance(model, (MeanOfPatches, mini.MeanAndSpread)):
        return dict(model.state_dict())
    tensors = {name: t for name, t in model.trunk.state_dict().items() if not name.endswith(INDEX)}
    if isinstance(model, mini.MeanAndSpread):
        return tensors
    own = {f"fc_norm.{name}": getattr(model, name) for name in _AFFINE}
    return tensors | {name: tensor for name, tensor in own.items() if tensor is not None}
