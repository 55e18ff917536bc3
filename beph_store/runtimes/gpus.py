"""The NVIDIA GPUs of this machine, asked of the driver itself: no torch, no CUDA toolkit.

``CUDA_VISIBLE_DEVICES`` counts: the driver hides what it leaves out and numbers the rest from 0.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True, slots=True)
class Gpu:
    """``number`` as CUDA counts; ``capability`` (major, minor), (9, 0) for an H100; ``memory_bytes`` in all."""

    number: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int

    def __str__(self) -> str:
        return f"GPU {self.number}, {self.name}"


def visible_gpus() -> tuple[Gpu, ...]:
    """Those that this process may use; none without a driver."""
    return _look()[0]


def why_none() -> str | None:
    """Why there is no GPU to use, or None when there is one."""
    return _look()[1]


def count() -> int:
    """How many GPUs this process may use."""
    return len(visible_gpus())


def gpu(number: int | None) -> Gpu:
    """The GPU of that number, the first for None. Raises LookupError, in words."""
    found = visible_gpus()
    if (number or 0) >= len(found):
        raise LookupError(f"there is no GPU {number or 0}: this process sees {len(found)}, counted from 0")
    return found[number or 0]


@cache
def _look() -> tuple[tuple[Gpu, ...], str | None]:
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return (), f"no NVIDIA driver: {name} cannot be opened"
    return ask(driver)


def ask(driver: Any) -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs that a CUDA driver library tells of, and why there are none."""
    if code := driver.cuInit(0):
        return (), f"the NVIDIA driver does not start: cuInit says {code}; nvidia-smi may tell more"
    total = ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(total))
    found = tuple(_describe(driver, number) for number in range(total.value))
    return found, None if found else "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)"


def _describe(driver: Any, number: int) -> Gpu:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = [ctypes.c_int(), ctypes.c_int()]
    for value, attribute in zip(capability, _CAPABILITY, strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    major, minor = (value.value for value in capability)
    return Gpu(number, name.value.decode(errors="replace"), (major, minor), memory.value)
