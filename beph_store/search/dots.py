"""Cosines of a few queries with blocks of float16 vectors, fast, with a bound on their error.

The bound is what makes fast arithmetic safe: `exact` keeps every row that could still belong to the best k and
scores those again in float64, so the ranking does not depend on the kernel, the threads or the machine.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.halves import fast_numkong

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]

#: Half a unit in the last place of float32; a sum of n products is off by at most about n of these.
_U32 = 2.0**-24
#: From this many queries on, a packed matrix product beats one pass a query: 52 against 48 ms for 3 over 200,000 rows.
_PACK_FROM = 3


class Kernel(Protocol):
    """``error`` (Q,) float32 bounds |returned − true cosine|; ``rows`` is the block length that it likes."""

    error: Float32
    rows: int

    def __call__(self, block: Float16) -> Float32:
        """Cosines (Q, B) of a C-contiguous ``block`` (B, D); NaN, or anything, for rows without a direction."""
        ...


def kernel(queries: Float32) -> Kernel:
    """The fastest kernel that is here, for unit ``queries`` (Q, D). NumPy's gives the same ranking, more slowly."""
    return NumPyKernel(queries) if fast_numkong() is None else NumKongKernel(queries)


class NumPyKernel:
    """Blocks widened to float32 by integer arithmetic, then one matrix product."""

    #: 1.5 MB at 768 columns: a block and its wide copy stay in a core's cache.
    rows = 512

    def __init__(self, queries: Float32) -> None:
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._wide: NDArray[np.int32] | None = None
        self.error = np.full(len(queries), 2 * queries.shape[1] * _U32, np.float32)

    def __call__(self, block: Float16) -> Float32:
        """Cosines (Q, B)."""
        if self._wide is None or len(self._wide) < len(block):
            self._wide = np.empty(block.shape, np.int32)
        wide = widen(block, self._wide[: len(block)])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            cosines: Float32 = self._queries @ wide.T
            cosines /= np.sqrt(np.einsum("ij,ij->i", wide, wide))
        return cosines


class NumKongKernel:
    """numkong reads float16 as it lies in memory and adds up in float32.

    It wants queries in float16 too. They are scaled by a power of two first, so that a query that is itself
    a stored vector stays exact; what any other loses in rounding is part of the bound.
    """

    def __init__(self, queries: Float32) -> None:
        wide = np.asarray(queries, np.float64)
        scale = np.exp2(10 - np.ceil(np.log2(np.abs(wide).max(axis=1, keepdims=True))))
        narrow = np.ascontiguousarray(wide * scale, np.float16)
        lost = np.linalg.norm(narrow - wide * scale, axis=1) / np.linalg.norm(wide * scale, axis=1)
        self.error = (1.01 * lost + 2 * queries.shape[1] * _U32).astype(np.float32)
        self._numkong = fast_numkong()
        self._packed = self._numkong.dots_pack(narrow, dtype="float16") if len(narrow) >= _PACK_FROM else None
        self._queries = narrow
        self.rows = 16384 if self._packed is None else 4096

    def __call__(self, block: Float16) -> Float32:
        """Cosines (Q, B)."""
        if self._packed is not None:
            return 1 - np.asarray(self._numkong.angulars_packed(block, self._packed), np.float32).T
        # Into float64, its default: asking for float32 takes another path, 25 times as slow (7.8.6).
        return 1 - np.asarray(self._numkong.cdist(self._queries, block, metric="angular")).astype(np.float32)


def widen(block: Float16, out: NDArray[np.int32]) -> Float32:
    """``block`` (B, D) as float32, in the memory of ``out`` (B, D); several times as fast as NumPy's own cast.

    The bits of a float16 moved to their place in a float32 are the value times 2^-112, subnormals included.
    Infinities and NaN come out as large finite numbers.
    """
    np.copyto(out, block.view(np.int16))
    np.left_shift(out, 13, out=out)
    # The cast spread the sign over the upper half: keep its first bit, clear the three above the exponent.
    np.bitwise_and(out, np.int32(-0x70000001), out=out)
    wide = out.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide
