"""Arrays of a store as torch tensors, for whoever trains a network of their own on bags."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def as_tensor(array: NDArray[Any], dtype: str | None = None) -> torch.Tensor:
    """A copy, which may be written to, in the array's type or as ``dtype`` ("float32", "float16", "bfloat16")."""
    made = torch.from_numpy(np.array(array))
    return made if dtype is None else made.to(getattr(torch, dtype))
