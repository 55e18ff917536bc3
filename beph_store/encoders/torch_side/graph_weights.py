"""The weights of a model back from the graph that it was exported to: a bundle is then a checkpoint too.

The exporter keeps most tensors under their names. Others it changes: linear maps are transposed and nameless, a
BatchNorm is folded into the convolution before it, q and v biases are joined, a position table is nameless or, if it is
small, spread over all pairs of tokens. These are told by the order in which the model has and the graph computes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from beph_store.encoders.torch_side.loaded import mismatch
from beph_store.errors import WeightsMismatch

Array = NDArray[np.float32]
_TABLE = "relative_position_bias_table"


@dataclass(frozen=True, slots=True)
class _Product:
    """One linear map of the graph: ``weight`` (in, out) and the bias that is added to it, or None."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True, slots=True)
class _Graph:
    """Constants by their names, and the nodes in order."""

    constants: dict[str, Array]
    nodes: Sequence[Any]

    def named(self, name: str) -> Array | None:
        """The constant of that name, with whatever prefix the exported wrapper gave it."""
        for full, array in self.constants.items():
            if full == name or full.endswith(f".{name}"):
                return array
        return None

    def products(self) -> Iterator[_Product]:
        """The products with a constant matrix, in order."""
        bias_of: dict[str, Array] = {}
        for node in self.nodes:
            if node.op_type == "Add":
                for name, other in (node.input, reversed(node.input)):
                    if other in self.constants:
                        bias_of[name] = self.constants[other]
        for node in self.nodes:
            if node.op_type == "MatMul" and node.input[1] in self.constants:
                yield _Product(self.constants[node.input[1]], bias_of.get(node.output[0]))

    def tables(self, index: NDArray[np.int64], shape: tuple[int, ...]) -> list[Array]:
        """Position tables of that ``shape`` (rows, heads) in order: looked up in, or spread out by their ``index``."""
        heads, tokens = shape[1], index.shape[0]
        found = []
        for node in self.nodes:
            if node.op_type not in ("Gather", "GatherND", "Attention", "Add"):
                continue
            for name in node.input:
                array = self.constants.get(name)
                if array is None:
                    continue
                if array.shape == shape and node.op_type.startswith("Gather"):
                    found.append(array)
                elif array.shape[-3:] == (heads, tokens, tokens):
                    table = np.zeros(shape, np.float32)
                    table[index.ravel()] = array.reshape(heads, -1).T
                    found.append(table)
        return found

    def convolution_bias(self, weight: Array) -> Array | None:
        """What the convolution with that very weight adds."""
        for node in self.nodes:
            if node.op_type == "Conv" and self.constants.get(node.input[1]) is weight:
                return self.constants.get(node.input[2]) if len(node.input) > 2 else None
        return None


def weights_from_graph(path: Path, model: nn.Module, unused: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict of ``model`` with the values that the fp32 graph at ``path`` computes with.

    A folded BatchNorm comes back as one that only adds. ``unused`` names tensors that no graph holds, which keep the
    model's own values. Raises WeightsMismatch where any other is not found: the graph is of another architecture.
    """
    graph = _read(path)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {**_by_name(graph, state), **_folded(graph, model, state)}
    found |= _linear(graph, model, path)
    tables = [name for name in state if name.endswith(_TABLE)]
    if tables:
        owner: Any = model.get_submodule(tables[0].rpartition(".")[0])
        index = owner.relative_position_index.numpy()
        found |= dict(zip(tables, graph.tables(index, tuple(state[tables[0]].shape)), strict=False))
    missing = sorted(set(state) - set(found) - set(unused) - {n for n in state if _is_count(n)})
    wrong = [
        f"{name} {found[name].shape}"
        for name in state
        if name in found and found[name].shape != tuple(state[name].shape)
    ]
    if missing or wrong:
        raise mismatch(path, missing, [], wrong)
    return state | {name: torch.from_numpy(np.array(array)) for name, array in found.items()}


def _is_count(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _read(path: Path) -> _Graph:
    model = onnx.load(path)
    constants: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype in (np.float32, np.float16):
            constants[tensor.name] = array.astype(np.float32)
    for node in model.graph.node:  # weights stored as fp16 are cast in the graph
        if node.op_type == "Cast" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    return _Graph(constants, list(model.graph.node))


def _by_name(graph: _Graph, state: dict[str, Tensor]) -> dict[str, Array]:
    pairs = ((name, graph.named(name)) for name in state)
    return {name: array for name, array in pairs if array is not None}


def _folded(graph: _Graph, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Array]:
    """BatchNorms whose scale is in the weights of the convolution before them: mean 0, variance 1 with eps."""
    found: dict[str, Array] = {}
    before = ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            before = name
        elif isinstance(module, _BatchNorm) and f"{name}.running_var" in state:
            weight = graph.named(f"{before}.weight")
            bias = None if weight is None else graph.convolution_bias(weight)
            if bias is None or graph.named(f"{name}.running_var") is not None:
                continue
            ones = np.ones(len(bias), np.float32)
            found[f"{name}.weight"], found[f"{name}.bias"] = ones, bias
            found[f"{name}.running_mean"] = np.zeros_like(bias)
            found[f"{name}.running_var"] = ones - np.float32(module.eps)
    return found


def _linear(graph: _Graph, model: nn.Module, path: Path) -> dict[str, Array]:
    """Linear maps in order; the joined bias of q, k and v goes back to its parts."""
    found: dict[str, Array] = {}
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    products = list(graph.products())
    if len(products) != len(modules):
        raise WeightsMismatch(
            f"{path.name} has {len(products)} linear maps, the architecture {len(modules)}: it is of another one",
            path=path,
        )
    for (name, module), product in zip(modules, products, strict=True):
        found[f"{name}.weight"] = product.weight.T
        if module.bias is not None and product.bias is not None:
            found[f"{name}.bias"] = product.bias
        owner = model.get_submodule(name.rpartition(".")[0])
        if getattr(owner, "q_bias", None) is not None and product.bias is not None and name.endswith("qkv"):
            prefix, size = name.rpartition(".")[0], len(product.bias) // 3
            found[f"{prefix}.q_bias"], found[f"{prefix}.v_bias"] = product.bias[:size], product.bias[-size:]
    return found
