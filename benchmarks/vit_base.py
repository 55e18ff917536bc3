"""A ViT-B/16 in BEPH's shape with drawn weights, exported as any encoder: for rates where the real weights are not.

Rates depend on the shape alone. The weights are scaled so that every block does something (timm starts BEiT's blocks
near the identity, which any precision reproduces), but the figures of the parity gate are of *these* weights: they show
that a runtime computes the graph, not how well it keeps BEPH's geometry.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from beph_store.encoders import Bundle, load_bundle
from beph_store.encoders.torch_side.export import ExportOptions, export_bundle

MODEL = "beitv2_base_patch16_224"


def make_bundle(folder: str | Path, *, model: str = MODEL, seed: int = 0) -> Bundle:
    """The bundle at ``folder / model``, exported unless it is there: fp32 and fp16."""
    out = Path(folder) / model
    if (out / "encoder.json").is_file():
        return load_bundle(out)
    torch.manual_seed(seed)
    drawn = timm.create_model(model, num_classes=0)
    for name, tensor in drawn.state_dict().items():
        if ".gamma_" in name:
            tensor.uniform_(0.2, 0.8)
        elif name.endswith("qkv.weight"):
            tensor.mul_(2.5)
        elif name.endswith("relative_position_bias_table"):
            tensor.normal_(std=0.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = out.parent / f"{model}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in drawn.state_dict().items()}, weights)
    try:
        return export_bundle(f"timm:{model}", out, weights=weights, options=ExportOptions(force=True))[0]
    finally:
        weights.unlink()
