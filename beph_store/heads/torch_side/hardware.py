"""Where heads run and in which precision."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from beph_store.errors import RuntimeUnavailable
from beph_store.heads.options import HeadOptions


def device_of(options: HeadOptions) -> torch.device:
    """The device asked for; ``auto`` is a GPU where torch sees one. RuntimeUnavailable where it is not there."""
    found = torch.cuda.is_available()
    if options.device == "cuda" and not found:
        raise RuntimeUnavailable("no CUDA device is visible to torch: use device cpu")
    return torch.device("cuda" if found and options.device != "cpu" else "cpu")


def dtype_of(options: HeadOptions, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; ``auto`` is bfloat16 only where the hardware multiplies it natively."""
    native = (
        torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    )
    wanted = {"auto": native, "bf16": True, "fp32": False}[options.precision]
    return torch.bfloat16 if wanted else torch.float32


@cache
def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16 or AMX); without, it is slower than float32."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux: float32 is never wrong
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})
