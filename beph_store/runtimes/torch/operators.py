"""ONNX operators in torch, those that our exporter writes and a few that other timm models bring.

A function gets the node and its inputs, None for one left out. Shapes, axes and the like are known when the graph is
read, so they arrive as plain tensors and never as traced values: see ``STATIC``. Products (``PRODUCTS``) compute in the
node's ``low`` dtype; normalisations, softmax and means always in float32, as torch's autocast does; the rest follows
torch's promotion, which keeps the residual stream, a sum with float32, in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from beph_store.runtimes.torch import shapes
from beph_store.runtimes.torch.node import Node, Operator, ints

_FLOATS = (1, 10, 11, 16)  # onnx.TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16
_INTEGERS = {2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool}


# ---- products: in the low dtype ------------------------------------------------------------------------------


def _linear(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    """Not ONNX's: a product with a constant (out, in) matrix and the bias added to it."""
    return functional.linear(x.to(node.low), weight, bias)


def _matmul(node: Node, a: Any, b: Any) -> Any:
    return torch.matmul(a.to(node.low), b.to(node.low))


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    a, b = a.to(node.low), b.to(node.low)
    a = a.t() if node.get("transA", 0) else a
    b = b.t() if node.get("transB", 0) else b
    product = torch.matmul(a, b) * node.get("alpha", 1.0)
    return product if c is None else product + c.to(node.low) * node.get("beta", 1.0)


def _conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    dims = weight.ndim - 2
    x, padding = _padded(node, x.to(node.low), dims, 0.0)
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    ones = [1] * dims
    return conv(
        x,
        weight,
        bias,
        node.get("strides", ones),
        padding,
        node.get("dilations", ones),
        node.get("group", 1),
    )


def _attention(node: Node, q: Any, k: Any, v: Any, mask: Any = None, *past: Any) -> Any:
    if any(p is not None for p in past) or len(node.outputs) > 1:
        raise node.refuse("a past")
    if node.get("softcap", 0.0) or node.get("q_num_heads", 0):
        raise node.refuse("softcap or heads in one axis")
    low = node.low
    if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool):
        mask = mask.to(low)
    causal = bool(node.get("is_causal", 0))
    return functional.scaled_dot_product_attention(
        q.to(low), k.to(low), v.to(low), mask, 0.0, causal, scale=node.get("scale", None)
    )


# ---- normalisation, pooling, softmax: in float32 -------------------------------------------------------------


def _layer_norm(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    if node.get("axis", -1) not in (-1, -weight.ndim):
        raise node.refuse(f"axis {node.get('axis', -1)}")
    return functional.layer_norm(x.float(), weight.shape, weight, bias, node.get("epsilon", 1e-5))


def _rms_norm(node: Node, x: Any, weight: Any) -> Any:
    if node.get("axis", -1) not in (-1, -weight.ndim):
        raise node.refuse(f"axis {node.get('axis', -1)}")
    return functional.rms_norm(x.float(), weight.shape, weight, node.get("epsilon", 1e-5))


def _batch_norm(node: Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any) -> Any:
    return functional.batch_norm(x.float(), mean, variance, weight, bias, eps=node.get("epsilon", 1e-5))


def _softmax(node: Node, x: Any) -> Any:
    return torch.softmax(x.float(), node.get("axis", -1))


def _reduce(reduce: Callable[..., Any]) -> Operator:
    def operator(node: Node, x: Any, axes: Any = None) -> Any:
        dims = ints(axes) or ints(node.get("axes", None))
        if not dims and node.get("noop_with_empty_axes", 0):
            return x
        wide = x.to(torch.float32) if not isinstance(x, Tensor) or x.is_floating_point() else x
        return reduce(wide, dims or None, bool(node.get("keepdims", 1)))

    return operator


def _global_average(node: Node, x: Any) -> Any:
    return functional.adaptive_avg_pool2d(x.float(), 1)


def _average_pool(node: Node, x: Any) -> Any:
    kernel = node.get("kernel_shape", None)
    pads = node.get("pads", [0] * 4)
    if len(kernel) != 2 or pads[:2] != pads[2:] or node.get("auto_pad", "NOTSET") != "NOTSET":
        raise node.refuse("other than two axes padded evenly")
    return functional.avg_pool2d(
        x.float(),
        kernel,
        node.get("strides", [1, 1]),
        pads[:2],
        bool(node.get("ceil_mode", 0)),
        bool(node.get("count_include_pad", 0)),
    )


def _max_pool(node: Node, x: Any) -> Any:
    kernel = node.get("kernel_shape", None)
    if len(kernel) != 2 or len(node.outputs) > 1:
        raise node.refuse("indices, or other than two axes")
    x, padding = _padded(node, x, 2, -math.inf)
    ceil = bool(node.get("ceil_mode", 0))
    return functional.max_pool2d(
        x, kernel, node.get("strides", [1, 1]), padding, node.get("dilations", [1, 1]), ceil
    )


def _padded(node: Node, x: Any, dims: int, value: float) -> tuple[Any, list[int]]:
    """The input, padded if the two sides differ, and the padding left to do."""
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.refuse(f"auto_pad {node.get('auto_pad', '')}")
    pads = list(node.get("pads", [0] * 2 * dims))
    before, after = pads[:dims], pads[dims:]
    if before == after:
        return x, before
    pairs = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    return functional.pad(x, pairs, value=value), [0] * dims


# ---- element by element --------------------------------------------------------------------------------------


def _cast(node: Node, x: Any) -> Any:
    """Every float becomes float32: an fp16 graph is read as the fp32 one, and products alone are narrowed."""
    to = node.get("to", 0)
    if to not in _FLOATS and to not in _INTEGERS:
        raise node.refuse(f"type {to}")
    return x.to(torch.float32 if to in _FLOATS else _INTEGERS[to])


def _div(_: Node, a: Any, b: Any) -> Any:
    whole = isinstance(a, Tensor) and not a.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _clip(_: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    return torch.clamp(x, *(None if v is None else v.item() for v in (low, high)))


def _gelu(node: Node, x: Any) -> Any:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def _hard_sigmoid(node: Node, x: Any) -> Any:
    return torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1)


def _leaky_relu(node: Node, x: Any) -> Any:
    return functional.leaky_relu(x, node.get("alpha", 0.01))


def _plain(function: Callable[..., Any]) -> Operator:
    def operator(_: Node, *inputs: Any) -> Any:
        return function(*inputs)

    return operator


def _many(function: Callable[[Any, Any], Any]) -> Operator:
    def operator(_: Node, *inputs: Any) -> Any:
        return functools.reduce(function, inputs)

    return operator


#: Operators whose weights are kept in the low dtype.
PRODUCTS = frozenset({"Linear", "MatMul", "Gemm", "Conv", "Attention"})
#: Inputs that say how, not what, by place; they must be known when the graph is read.
STATIC: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
OPERATORS: Mapping[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "Attention": _attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": shapes.concat,
    "Constant": shapes.constant,
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": _conv,
    "Div": _div,
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "GatherND": shapes.gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(torch.clone),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "Linear": _linear,
    "MatMul": _matmul,
    "Max": _many(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _many(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Pad": shapes.pad,
    "Pow": _plain(torch.pow),
    "RMSNormalization": _rms_norm,
    "Range": shapes.steps,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": shapes.reshape,
    "Shape": shapes.shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": shapes.part,
    "Softmax": _softmax,
    "Split": shapes.split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": shapes.squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
    "Where": _plain(torch.where),
}
