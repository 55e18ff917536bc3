"""What every kernel's launch needs."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import triton
from torch import Tensor

#: The kernels run in Triton's interpreter, on the CPU.
INTERPRETED: bool = triton.knobs.runtime.interpret


def configs(*choices: tuple[dict[str, int], int]) -> list[triton.Config]:
    """(block sizes, warps) to choose from by timing; the interpreter times nothing and takes the first."""
    made = [triton.Config(blocks, num_warps=warps) for blocks, warps in choices]
    return made[:1] if INTERPRETED else made


def on_device(*tensors: Tensor | None) -> AbstractContextManager[object]:
    """The device of the tensors, all on one, as torch's current one, to which Triton launches.

    Raises ValueError where the kernels cannot run on it.
    """
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) != 1:
        raise ValueError(
            f"the tensors lie on {', '.join(sorted(map(str, devices)))}: move them to one device"
        )
    (device,) = devices
    if device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"Triton kernels run on CUDA tensors, these are on {device}: unset BEPH_STORE_KERNELS"
        )
    return torch.cuda.device_of(next(tensor for tensor in tensors if tensor is not None))


def steps(count: int) -> int:
    """Halvings after which one of ``count`` is left."""
    return (count - 1).bit_length()


def power_of_two(count: int, within: Sequence[int]) -> int:
    """The least power of two that is not below ``count``, kept within (lowest, highest)."""
    return min(max(1 << steps(max(count, 1)), within[0]), within[1])
