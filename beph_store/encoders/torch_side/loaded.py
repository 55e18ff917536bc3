"""What the loaders hand to the export: a model, what it is, and what was left out of the file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from beph_store.encoders.torch_side.confined import tensors_of
from beph_store.errors import WeightsMismatch
from beph_store.records import EncoderSpec

LN_EPS = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """``model`` takes normalised float (B, 3, H, W) and returns float32 embeddings (B, dim), in eval mode;
    ``dropped`` the names of the file's tensors that an embedding does not need, such as a classifier.
    """

    model: nn.Module
    spec: EncoderSpec
    dropped: tuple[str, ...]


class Embedder(nn.Module):
    """The deployed graph: uint8 RGB tiles (B, H, W, 3) in, float32 embeddings (B, dim) out.

    Cast, then Transpose, then normalisation in float32 (TensorRT refuses to transpose uint8, and a
    mean near 190 has too few digits in fp16); ``model`` then runs in its own precision.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.model = model
        self.dtype = next(model.parameters()).dtype
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Embeddings of the tiles."""
        x = (tiles.to(torch.float32).permute(0, 3, 1, 2) - self.mean) / self.std
        embedding: Tensor = self.model(x.to(self.dtype))
        return embedding.to(torch.float32)


class MeanOfPatches(nn.Module):
    """A BEiT's embedding: LayerNorm of the mean of its patch tokens, class token left out, both in float32."""

    def __init__(self, trunk: nn.Module, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim) float32 of normalised (B, 3, H, W)."""
        tokens: Tensor = self.trunk.forward_features(x)  # type: ignore[operator]
        mean = tokens[:, 1:].to(torch.float32).mean(1)
        return functional.layer_norm(mean, [mean.shape[1]], self.weight, self.bias, LN_EPS)  # type: ignore[arg-type]

    def half(self) -> MeanOfPatches:
        """Half the trunk only: the pooling stays in float32."""
        self.trunk.half()
        return self


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a .safetensors or torch file, by name, without executing any pickle.

    A ``state_dict``, ``model`` or ``teacher`` entry of a torch file is looked into. Raises WeightsMismatch.
    """
    if not path.is_file():
        raise WeightsMismatch(f"no weights file at {path}", path=path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            raise WeightsMismatch(f"{path} is not a safetensors file: {error}", path=path) from error
    return tensors_of(path, ("state_dict", "model", "teacher"))


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, hex, over name, dtype, shape and little-endian bytes of each tensor in the order of names.

    Names the weights a graph really computes with, whatever file they came in.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def mismatch(path: Path, missing: list[str], unexpected: list[str], wrong: list[str]) -> WeightsMismatch:
    """One line that names what does not fit, at most eight of each kind."""
    parts = []
    for kind, names in (("missing", missing), ("unexpected", unexpected), ("wrong", wrong)):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            parts.append(f"{len(names)} {kind}: {', '.join(names[:8])}{more}")
    return WeightsMismatch(f"{path.name} does not fit tensor by tensor; {'; '.join(parts)}", path=path)
