"""Any timm model as an encoder: ``timm:vit_small_patch16_224``, with its own normalisation and pooling."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from beph_store.encoders.table import TIMM, normalisation
from beph_store.encoders.torch_side.layouts import fit
from beph_store.encoders.torch_side.loaded import Loaded, read_tensors, tensors_sha256
from beph_store.errors import EncoderError, UnknownEncoder, UsageError
from beph_store.records import EncoderSpec

#: µm/px taken for a model that was not trained on slides; --mpp sets another.
MPP = 0.5


def load_timm(
    name: str,
    weights: str | Path | None = None,
    *,
    mpp: float | None = None,
    normalised_by: str | None = None,
) -> Loaded:
    """Load ``timm:MODEL`` with a local ``weights`` file in timm's key layout, or from the Hugging Face hub.

    Every tensor must fit; the classifier's may be there or not. ``mpp`` µm/px of the tiles it will be given.
    Raises UnknownEncoder, WeightsMismatch, and EncoderError when the hub cannot be reached.
    """
    model_name = name.removeprefix(TIMM)
    require_architecture(model_name)
    dropped: tuple[str, ...] = ()
    if weights is None:
        model = from_hub(model_name)
    else:
        model, dropped = _from_file(model_name, Path(weights))
    config = timm.data.resolve_model_data_config(model)
    return Loaded(model.eval(), _spec(name, model, config, mpp, normalised_by), dropped)


def require_architecture(model_name: str) -> None:
    """UnknownEncoder, with the nearest names, where timm has no such model."""
    if model_name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(model_name, timm.list_models(), n=3)
        raise UnknownEncoder(
            f"timm {timm.__version__} has no model {model_name!r}: near are {', '.join(near)}"
        )


def from_hub(model_name: str) -> nn.Module:
    """The weights of a model that timm names, without its classifier; EncoderError where they cannot be fetched."""
    try:
        model: nn.Module = timm.create_model(model_name, pretrained=True, num_classes=0)
    except Exception as error:
        raise EncoderError(
            f"the weights of {model_name} could not be fetched from the Hugging Face hub ({type(error).__name__}): "
            "offline? Fetch the model's file on another machine and pass it with --weights"
        ) from error
    return model


def _from_file(model_name: str, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    model: nn.Module = timm.create_model(model_name, pretrained=False, num_classes=0)
    return model, fit(model, read_tensors(path), path)


@torch.inference_mode()
def _spec(
    name: str, model: nn.Module, config: dict[str, Any], mpp: float | None, normalised_by: str | None
) -> EncoderSpec:
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise UsageError(f"{name} takes {channels} × {height} × {width}, not square RGB tiles")
    embedding = model.eval()(torch.zeros(1, 3, height, width))
    if embedding.ndim != 2:
        raise UsageError(
            f"{name} does not pool its features to one vector a tile: it gives {tuple(embedding.shape)}"
        )
    mean, std = (tuple(255.0 * float(v) for v in config[k]) for k in ("mean", "std"))
    if normalised_by is not None:
        statistics = normalisation(normalised_by)
        mean, std = statistics.mean, statistics.std
    return EncoderSpec(
        name=name,
        variant=normalised_by or "default",
        weights_sha256=tensors_sha256(model.state_dict()),
        tile_px=height,
        mpp=mpp or MPP,
        dim=embedding.shape[1],
        pooling=str(getattr(model, "global_pool", "") or "model's own"),
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
        precision="fp32",
        licence=str(model.pretrained_cfg.get("license") or "not stated"),  # type: ignore[union-attr, operator]
    )
