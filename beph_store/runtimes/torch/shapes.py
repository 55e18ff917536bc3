"""ONNX operators that move and cut: shapes, axes and indices. See ``operators``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from beph_store.runtimes.torch.node import Node, ints


def _along(axis: int, index: Any) -> tuple[Any, ...]:
    """What to put into brackets to apply ``index`` to one axis, counted from either end."""
    if axis >= 0:
        return (*(slice(None),) * axis, index)
    return (..., index, *(slice(None),) * (-axis - 1))


def shape(node: Node, x: Tensor) -> Tensor:
    """Its sizes, from ``start`` to ``end``."""
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end", None)], dtype=torch.int64)


def constant(node: Node) -> Any:
    """What the node itself holds."""
    if not isinstance(value := node.get("value", None), Tensor):
        raise node.refuse("anything but a tensor")
    return value


def constant_of_shape(node: Node, shape: Tensor) -> Any:
    """One value everywhere."""
    value = node.get("value", torch.zeros(1))
    return value.expand(ints(shape)) if ints(shape) else value.reshape(())


def steps(_: Node, start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Numbers in even steps."""
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def reshape(node: Node, x: Any, shape: Tensor) -> Any:
    """A size of 0 keeps what was there, unless ``allowzero``."""
    keep = not node.get("allowzero", 0)
    return x.reshape([x.size(i) if keep and size == 0 else size for i, size in enumerate(ints(shape))])


def flatten(node: Node, x: Any) -> Any:
    """All axes after the first as one."""
    if node.get("axis", 1) != 1:
        raise node.refuse(f"axis {node.get('axis', 1)}")
    return torch.flatten(x, 1)


def transpose(node: Node, x: Any) -> Any:
    """Axes in another order."""
    if node.get("perm", None) is None:
        raise node.refuse("no perm")
    return x.permute(node.get("perm", None))


def expand(_: Node, x: Any, shape: Tensor) -> Any:
    """Axes of size 1 repeated, without a copy."""
    return x.expand([-1 if size == 1 else size for size in ints(shape)])


def squeeze(_: Node, x: Any, axes: Any = None) -> Any:
    """Without the axes of size 1 named, or without any."""
    return torch.squeeze(x) if axes is None else torch.squeeze(x, tuple(ints(axes)))


def unsqueeze(node: Node, x: Any, axes: Tensor) -> Any:
    """With axes of size 1 put in."""
    wanted = ints(axes)
    if len(wanted) > 1 and min(wanted) < 0 <= max(wanted):
        raise node.refuse("axes counted from both ends")
    for axis in sorted(wanted, reverse=wanted[0] < 0):
        x = x.unsqueeze(axis)
    return x


def part(node: Node, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """Part of each axis named."""
    begin, end = ints(starts), ints(ends)
    along = ints(axes) if axes is not None else list(range(len(begin)))
    step = ints(steps) if steps is not None else [1] * len(begin)
    if min(step) < 1:
        raise node.refuse("a step backwards")
    for axis, *bounds in zip(along, begin, end, step, strict=True):
        x = x[_along(axis, slice(*bounds))]
    return x


def gather(node: Node, x: Any, index: Any) -> Any:
    """Places along one axis."""
    one = isinstance(index, Tensor) and index.ndim == 0
    return x[_along(node.get("axis", 0), int(index) if one else index)]


def gather_nd(node: Node, x: Any, index: Tensor) -> Any:
    """Places in the leading axes."""
    if node.get("batch_dims", 0) or not isinstance(x, Tensor):
        raise node.refuse("batch_dims, or data that depend on the tiles")
    return x[tuple(index.unbind(-1))]


def concat(node: Node, *parts: Any) -> Any:
    """Parts one after the other; the widest float wins."""
    return torch.cat(parts, node.get("axis", 0))


def split(node: Node, x: Any, sizes: Any = None) -> Any:
    """Parts of the sizes named, or as many as there are outputs."""
    axis = node.get("axis", 0)
    if sizes is None:
        return torch.chunk(x, node.get("num_outputs", len(node.outputs)), axis)
    return torch.split(x, ints(sizes), axis)


def pad(node: Node, x: Any, pads: Tensor, value: Any = None, axes: Any = None) -> Any:
    """A border of a value, or of what lies within."""
    mode = node.get("mode", "constant")
    if axes is not None or mode not in ("constant", "reflect", "edge"):
        raise node.refuse("axes, or a mode other than constant, reflect, edge")
    sides = ints(pads)
    half = len(sides) // 2
    pairs = [p for i in reversed(range(half)) for p in (sides[i], sides[half + i])]
    if mode == "constant":
        return functional.pad(x, pairs, value=0.0 if value is None else value.item())
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]  # torch reflects the last axes only, and wants no word of the others
    return functional.pad(x, pairs, mode="replicate" if mode == "edge" else mode)
