"""Which implementation of an operation runs: the first of its row that takes the arrays given.

``BEPH_STORE_KERNELS`` names another; it holds for the rows that have it, and not for the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store_kernels import fast, reference
from beph_store_kernels.reference import UInt8

#: NumPy arrays, or tensors: torch is imported by those who pass them, so it is not named here.
Array = Any
#: These take tensors, the others NumPy arrays.
TENSORS = ("torch", "triton")


def _later(module: str, name: str) -> Callable[..., Any]:
    """A function of a module that imports torch, which only its callers need."""

    def call(*arguments: Any, **named: Any) -> Any:
        return getattr(import_module(f"beph_store_kernels.{module}"), name)(*arguments, **named)

    return call


def _on_tensors(op: str) -> dict[str, Callable[..., Any]]:
    return {"torch": _later("torch_ops", op), "triton": _later("triton_ops", op)}


#: One ordered row an operation: the default first, of those for NumPy and of those for tensors.
TABLE: dict[str, dict[str, Callable[..., Any]]] = {
    "resize_area": {"numpy": fast.resize_area, "reference": reference.resize_area},
    "resize_area_batch": {
        "numpy": fast.resize_area_batch,
        "reference": reference.resize_area_batch,
        **_on_tensors("resize_area_batch"),
    },
    "reduce_area": {"numpy": fast.reduce_area, "reference": reference.reduce_area},
    "tissue_fraction": {"numpy": fast.tissue_fraction, "reference": reference.tissue_fraction},
    "patchify": {"reference": reference.patchify, **_on_tensors("patchify")},
    "attention_pool": {"reference": reference.attention_pool, **_on_tensors("attention_pool")},
    "top_k_dot": {"reference": reference.top_k_dot, **_on_tensors("top_k_dot")},
}


@cache
def implementation(op: str, tensors: bool = False) -> Callable[..., Any]:
    """The function that runs for ``op``, on NumPy arrays or tensors.

    Raises ValueError where the environment names an unknown one, or Triton's where there is no Triton.
    """
    row = {name: run for name, run in TABLE[op].items() if (name in TENSORS) == tensors}
    wanted = os.environ.get("BEPH_STORE_KERNELS")
    if wanted and not any(wanted in other for other in TABLE.values()):
        raise ValueError(f"BEPH_STORE_KERNELS={wanted}: {op} has {', '.join(TABLE[op])}")
    if wanted not in row:
        return next(iter(row.values()))
    if wanted == "triton" and find_spec("triton") is None:
        raise ValueError(
            "BEPH_STORE_KERNELS=triton: triton is not installed, torch brings it on Linux; unset it"
        )
    return row[wanted]


def resize_area(image: UInt8, size: tuple[int, int]) -> UInt8:
    """(H, W, C) uint8 at ``size`` (width, height), by exact area averaging; see `reference`."""
    out: UInt8 = implementation("resize_area")(image, size)
    return out


def resize_area_batch(images: Array, size: tuple[int, int]) -> Array:
    """(B, H, W, C) uint8 at ``size`` (width, height), NumPy or a tensor; see `reference`."""
    return _run("resize_area_batch", images)(images, size)


def reduce_area(image: UInt8, factor: int) -> UInt8:
    """(H, W, C) uint8 shrunk by a whole ``factor``, ragged edges included; see `reference`."""
    out: UInt8 = implementation("reduce_area")(image, factor)
    return out


def tissue_fraction(mask: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Share of ``mask`` set in each (left, top, right, bottom) of ``boxes``, in mask px; see `reference`."""
    out: NDArray[np.float32] = implementation("tissue_fraction")(mask, boxes)
    return out


def patchify(
    tiles: Array, patch: int, mean: Sequence[float], std: Sequence[float], *, half: bool = False
) -> Array:
    """Tiles (B, H, W, 3) uint8 → normalised patches (B, N, 3·P·P), NumPy or a tensor; see `reference`."""
    return _run("patchify", tiles)(tiles, patch, mean, std, half=half)


def attention_pool(scores: Array, values: Array, offsets: Array) -> Array:
    """Ragged bags pooled by attention, (B, A, D); tensors have gradients; see `reference`."""
    return _run("attention_pool", values)(scores, values, offsets)


def top_k_dot(
    queries: Array,
    rows: Array,
    k: int,
    mask: Array | None = None,
    scale: Array | None = None,
    *,
    device: str | None = None,
) -> tuple[Array, Array]:
    """The k best of ``rows`` by dot product, values and row numbers (Q, k) each; see `reference`.

    With a ``device``, "cuda" say, NumPy arrays are computed there and NumPy arrays come back; needs torch.
    """
    if device is None:
        found = _run("top_k_dot", rows)(queries, rows, k, mask, scale)
    else:
        run = implementation("top_k_dot", tensors=True)
        found = _later("torch_ops", "top_k_host")(run, queries, rows, k, mask, scale, device)
    values, index = found
    return values, index


def _run(op: str, array: Array) -> Callable[..., Any]:
    return implementation(op, tensors=not isinstance(array, np.ndarray))
