"""A node of an ONNX graph, and what its operators share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from beph_store.errors import RuntimeUnavailable


@dataclass(frozen=True, slots=True)
class Node:
    """An operator of the graph. ``low`` is the dtype of products."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    low: torch.dtype

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or what ONNX takes when it is left out."""
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> RuntimeUnavailable:
        """An error that says which form of the operator is not known."""
        return RuntimeUnavailable(
            f"the torch runtime does not know ONNX's {self.op} with {what} ({self.outputs[0]}): "
            "choose another with --runtime"
        )


Operator = Callable[..., Any]


def ints(values: Tensor | Sequence[int] | None) -> list[int]:
    """Axes, sizes and the like as numbers; none for None."""
    if values is None:
        return []
    return [int(v) for v in (values.flatten().tolist() if isinstance(values, Tensor) else values)]
