"""float16, as vectors are stored, from float32 and back, in a tenth of NumPy's time where numkong knows the processor.

Both give the same bits: the nearest float16, of two equally near the even one, infinity beyond 65504.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


@cache
def fast_numkong() -> Any:
    """numkong, or None where it is not installed or has only plain C for this processor, which NumPy outruns."""
    try:
        numkong = import_module("numkong")
    except ImportError:
        return None
    fast = any(on for name, on in numkong.get_capabilities().items() if name != "serial")
    return numkong if fast else None


def narrowed(wide: NDArray[Any], out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
    """The same shape in float16, into ``out`` (C-contiguous) if given; what is too large becomes infinite, unsaid."""
    return _cast(wide, np.dtype(np.float32), np.dtype(np.float16), out)


def widened(half: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The same shape and values in float32, into ``out`` (C-contiguous) if given; never a view of ``half``."""
    return _cast(half, np.dtype(np.float16), np.dtype(np.float32), out)


def _cast(
    values: NDArray[Any], known: np.dtype[Any], into: np.dtype[Any], out: NDArray[Any] | None
) -> NDArray[Any]:
    out = np.empty(values.shape, into) if out is None else out
    numkong = fast_numkong()
    if numkong is not None and values.dtype == known and values.flags.c_contiguous and values.size:
        numkong.astype(values, into.name, out=out)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = values
    return out
