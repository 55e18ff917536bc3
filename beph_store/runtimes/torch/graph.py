"""An encoder's ONNX graph as a torch module: a bundle holds no code, so the graph is all there is to build from.

The batch is fixed when the graph is read. Then shape arithmetic, position tables and expanded tokens are all constants,
and what is left is a straight line of torch calls: what torch.compile and CUDA graphs want.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn

from beph_store.errors import RuntimeUnavailable
from beph_store.runtimes.torch.node import Node
from beph_store.runtimes.torch.operators import OPERATORS, PRODUCTS, STATIC


def rebuild(path: Path, batch: int, low: torch.dtype = torch.float32) -> fx.GraphModule:
    """The graph of the file for ``batch`` tiles: (batch, H, W, 3) uint8 in, (batch, D) float32 out.

    Products are computed in ``low``, everything else in float32; their weights are cast once, here. Raises
    RuntimeUnavailable, naming operators that are not known.
    """
    try:
        model = onnx.load(path)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeUnavailable(f"torch cannot load {path.name}: {first}", path=path) from error
    return rebuild_model(model, batch, low, name=path.name)


def rebuild_model(
    model: onnx.ModelProto, batch: int, low: torch.dtype = torch.float32, *, name: str = "the graph"
) -> fx.GraphModule:
    """See ``rebuild``. Any graph with one input, of any fixed shape after the batch, and one output of floats."""
    _refuse_unknown(model, name)
    constants = {t.name: _tensor(t) for t in model.graph.initializer}
    (tiles,) = [i.name for i in model.graph.input if i.name not in constants]
    output = model.graph.output[0].name
    nodes = _fold(model.graph, constants, batch, low)
    nodes = _with_linears(nodes, constants, output)
    traced = fx.symbolic_trace(_Straight(nodes, constants, tiles, output))
    traced.eval().requires_grad_(False)
    return traced


def _refuse_unknown(model: onnx.ModelProto, name: str) -> None:
    names = {f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in model.graph.node}
    if unknown := sorted(names - set(OPERATORS)):
        raise RuntimeUnavailable(
            f"the torch runtime does not know {', '.join(unknown)}, which {name} uses: choose another with --runtime"
        )


def _fold(graph: onnx.GraphProto, constants: dict[str, Tensor], batch: int, low: torch.dtype) -> list[Node]:
    """The nodes that depend on the tiles; what the others give is added to ``constants``."""
    shapes = {i.name: _fixed_shape(i, batch) for i in graph.input}
    left = []
    for node in (_node(n, low) for n in graph.node):
        if node.op == "Shape" and node.inputs[0] in shapes:
            known = torch.empty(shapes[node.inputs[0]], device="meta")
            constants[node.outputs[0]] = OPERATORS["Shape"](node, known)
        elif all(name in constants for name in node.inputs if name):
            exact = replace(node, low=torch.float32)
            result = OPERATORS[node.op](exact, *(constants[n] if n else None for n in node.inputs))
            constants.update(_by_name(node, result))
        elif node.op == "Shape":
            raise node.refuse("the shape of anything but the tiles")
        else:
            left.append(node)
    return left


def _with_linears(nodes: list[Node], constants: dict[str, Tensor], output: str) -> list[Node]:
    """A product with a constant matrix and the addition of a constant vector made one: in one kernel the bias is added
    before the sum is rounded.
    """
    users: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.inputs:
            users.setdefault(name, []).append(place)
    found: list[Node | None] = list(nodes)
    for place, node in enumerate(nodes):
        weight = constants.get(node.inputs[1]) if node.op == "MatMul" else None
        if weight is None or weight.ndim != 2:
            continue
        name = f"{node.inputs[1]} transposed"
        constants.setdefault(name, weight.t())
        inputs, outputs = [node.inputs[0], name], node.outputs
        after = users.get(outputs[0], [])
        if len(after) == 1 and outputs[0] != output:
            bias = _bias(nodes[after[0]], outputs[0], constants)
            if bias is not None and constants[bias].shape == weight.shape[1:]:
                inputs, outputs = [*inputs, bias], nodes[after[0]].outputs
                found[after[0]] = None
        found[place] = Node("Linear", tuple(inputs), outputs, {}, node.low)
    return [node for node in found if node is not None]


def _bias(node: Node, product: str, constants: dict[str, Tensor]) -> str | None:
    """The constant that the node adds to the product, if that is what it does."""
    if node.op != "Add":
        return None
    other = node.inputs[1] if node.inputs[0] == product else node.inputs[0]
    return other if other in constants else None


class _Straight(nn.Module):
    """Runs the nodes one after the other; constants are buffers, those of products in the low dtype."""

    def __init__(self, nodes: list[Node], constants: dict[str, Tensor], tiles: str, output: str) -> None:
        super().__init__()
        self._nodes = nodes
        self._input = tiles
        self._output = output
        self._plain: dict[str, Tensor] = {}
        self._places: dict[tuple[str, torch.dtype | None], str] = {}
        for node in nodes:
            for place, name in enumerate(node.inputs):
                self._take(node, place, name, constants)

    def _take(self, node: Node, place: int, name: str, constants: dict[str, Tensor]) -> None:
        value = constants.get(name)
        how = place in STATIC.get(node.op, ())
        if value is None:
            if how and name:
                raise node.refuse("a shape or an index that depends on the tiles")
        elif how or (node.op == "Gather" and place == 1 and not value.ndim):
            self._plain[name] = value
        elif (name, _low(node)) not in self._places:
            self._places[name, _low(node)] = f"constant_{len(self._places)}"
            self.register_buffer(self._places[name, _low(node)], _as_used(value, node))

    def forward(self, tiles: Any) -> Any:
        values = {self._input: tiles}
        for node in self._nodes:
            arguments = [self._value(node, place, name, values) for place, name in enumerate(node.inputs)]
            values.update(_by_name(node, OPERATORS[node.op](node, *arguments)))
        return values[self._output].to(torch.float32).contiguous()

    def _value(self, node: Node, place: int, name: str, values: dict[str, Any]) -> Any:
        if not name:
            return None
        if name in values:
            return values[name]
        buffer = self._places.get((name, _low(node)))
        if buffer is None or place in STATIC.get(node.op, ()):
            return self._plain[name]
        return getattr(self, buffer)


def _low(node: Node) -> torch.dtype | None:
    return node.low if node.op in PRODUCTS else None


def _as_used(value: Tensor, node: Node) -> Tensor:
    if node.op in PRODUCTS and value.is_floating_point():
        value = value.to(node.low)
    if node.op == "Conv" and value.ndim == 4:  # the tiles come channels last; so should the filters
        return value.contiguous(memory_format=torch.channels_last)
    return value.contiguous()


def _by_name(node: Node, result: Any) -> dict[str, Any]:
    if len(node.outputs) == 1:
        return {node.outputs[0]: result[0] if isinstance(result, (tuple, list)) else result}
    return {name: result[place] for place, name in enumerate(node.outputs)}


def _node(proto: onnx.NodeProto, low: torch.dtype) -> Node:
    attributes = {a.name: _attribute(a) for a in proto.attribute}
    return Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, low)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return _tensor(value) if isinstance(value, onnx.TensorProto) else value


def _tensor(proto: onnx.TensorProto) -> Tensor:
    """Floats of every width as float32, integers as they are."""
    value = torch.from_numpy(numpy_helper.to_array(proto).copy())
    return value.to(torch.float32) if value.is_floating_point() else value


def _fixed_shape(value: onnx.ValueInfoProto, batch: int) -> list[int]:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else batch for d in dims]
