"""How fast this device multiplies matrices: the limit that an encoder's rate is held against."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

#: Side of the square matrices: large enough to run at full rate, small enough to take milliseconds.
_SIDE_CPU, _SIDE_CUDA = 1536, 8192
_SECONDS = 1.0


def matrix_rate(precision: str, *, cuda: bool = False, threads: int | None = None) -> float | None:
    """FLOP/s of a square matrix product in that precision, the best of one second's runs; None where it cannot be told.

    With torch where it is installed; without it NumPy's fp32 on the CPU alone. int8 is held against nothing here.
    """
    if precision not in ("fp32", "fp16", "bf16"):
        return None
    try:
        import torch
    except ImportError:
        return None if cuda or precision != "fp32" else _best(_numpy(_SIDE_CPU), _SIDE_CPU)
    if not cuda:
        if precision == "fp16":
            return None  # no CPU kernel worth the name
        before = torch.get_num_threads()  # the whole process's, and others compute in it afterwards
        torch.set_num_threads(threads or _cores())
        try:
            return _best(_torch(precision, _SIDE_CPU, "cpu"), _SIDE_CPU)
        finally:
            torch.set_num_threads(before)
    if not torch.cuda.is_available():
        return None
    return _best(_torch(precision, _SIDE_CUDA, "cuda"), _SIDE_CUDA)


def _numpy(side: int) -> Callable[[], object]:
    a, b = (np.random.default_rng(i).standard_normal((side, side), np.float32) for i in range(2))
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def _torch(precision: str, side: int, device: str) -> Callable[[], object]:
    import torch as t

    dtype = {"fp32": t.float32, "fp16": t.float16, "bf16": t.bfloat16}[precision]
    a, b = (t.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = t.empty_like(a)

    def run() -> None:
        t.matmul(a, b, out=out)
        if device == "cuda":
            t.cuda.synchronize()

    return run


def _best(run: Callable[[], object], side: int) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return float(2 * side**3 / best)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
