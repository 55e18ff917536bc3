"""The encoders' drawn weights, once: as a torch file, as TorchScript and as one of our bundles."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers import encoders
from safetensors.torch import save_file
from timm.models import register_model
from torch import nn

from beph_store.encoders import load_bundle
from beph_store.encoders.torch_side.export import ExportOptions, export_bundle


@dataclass(frozen=True)
class Files:
    """The same weights three times."""

    weights: Path
    script: Path
    bundle: Path


class _Pooled(encoders.Pooled):
    """As a timm model, so that our export takes it as it takes any other."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (3, 224, 224),
            "mean": encoders.MEAN,
            "std": encoders.STD,
            "classifier": "",
            "license": "Apache-2.0",
        }


@register_model
def peers_pooled(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """``timm:peers_pooled``."""
    return _Pooled()


def draw(folder: Path, name: str, seed: int = 0) -> Files:
    """Weights of encoder ``name`` under ``folder``, drawn unless they are there."""
    home = folder / name
    files = Files(home / "weights.pt", home / "script.pt", home / "bundle")
    if files.bundle.is_dir():
        return files
    home.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = encoders.make(name)
    for key, tensor in model.state_dict().items():
        if ".blocks." in f".{key}" and key.endswith("weight") and tensor.ndim == 2:
            tensor.mul_(2.5)  # as drawn, a block hardly changes what goes in, and any precision would do
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    torch.save(state, files.weights)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and what wsinfer takes
        torch.jit.trace(model, torch.zeros(2, 3, 224, 224), check_trace=False).save(str(files.script))
    plain = home / "weights.safetensors"
    save_file(state, plain)
    timm_name = "peers_pooled" if name == "pooled" else encoders.VIT
    options = ExportOptions(fp16_twin=False, force=True)
    export_bundle(f"timm:{timm_name}", files.bundle, weights=plain, options=options)
    load_bundle(files.bundle)
    return files
