"""Which implementation of an operation runs: the first of its row, or what ``BEPH_STORE_KERNELS`` names."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store_kernels import fast, reference
from beph_store_kernels.reference import UInt8

#: One ordered row an operation: the default first.
TABLE: dict[str, dict[str, Callable[..., Any]]] = {
    "resize_area": {"numpy": fast.resize_area, "reference": reference.resize_area},
    "reduce_area": {"numpy": fast.reduce_area, "reference": reference.reduce_area},
    "tissue_fraction": {"numpy": fast.tissue_fraction, "reference": reference.tissue_fraction},
}


@cache
def implementation(op: str) -> Callable[..., Any]:
    """The function that runs for ``op``. Raises ValueError where the environment names an unknown one."""
    row = TABLE[op]
    wanted = os.environ.get("BEPH_STORE_KERNELS") or next(iter(row))
    if wanted not in row:
        raise ValueError(f"BEPH_STORE_KERNELS={wanted}: {op} has {', '.join(row)}")
    return row[wanted]


def resize_area(image: UInt8, size: tuple[int, int]) -> UInt8:
    """(H, W, C) uint8 at ``size`` (width, height), by exact area averaging; see `reference`."""
    out: UInt8 = implementation("resize_area")(image, size)
    return out


def reduce_area(image: UInt8, factor: int) -> UInt8:
    """(H, W, C) uint8 shrunk by a whole ``factor``, ragged edges included; see `reference`."""
    out: UInt8 = implementation("reduce_area")(image, factor)
    return out


def tissue_fraction(mask: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Share of ``mask`` set in each (left, top, right, bottom) of ``boxes``, in mask px; see `reference`."""
    out: NDArray[np.float32] = implementation("tissue_fraction")(mask, boxes)
    return out
