"""Does a Triton kernel beat torch and torch.compile of the same operation, and how near is it to the card's limits?

    python benchmarks/bench_kernels.py [--seconds 55]

Every case runs each implementation in turn, with the second-level cache flushed before each run, and reports medians;
rates are of the bytes that must move and the products that must be made, beside a copy and a matrix product measured in
the same process. Without CUDA the Triton kernels and torch.compile are skipped, sizes are small, and NumPy is timed
beside torch, one thread, in CPU seconds of the process. Cases for which no time is left are skipped by name.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from common import command_line, conditions, write

from beph_store.runtimes.peak import matrix_rate
from beph_store_kernels import fast, reference, torch_ops

MEAN, STD = (190.3, 150.0, 180.7), (40.1, 33.3, 21.7)
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
#: A case's share of the time: runs of all its implementations, compiling apart.
CASE_SECONDS = 1.5
RUNS = (3, 50)

Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """An operation of `torch_ops` and `triton_ops` on given arguments; ``plain`` the NumPy ones to run, by name."""

    name: str
    op: str
    arguments: tuple[Any, ...]
    bytes: int
    flop: int = 0
    slope: torch.Tensor | None = None
    plain: tuple[tuple[str, Any], ...] = ()

    def run(self, function: Callable[..., Any]) -> Run:
        """The operation, with its gradients where there is a slope."""
        if self.slope is None:
            return lambda: function(*self.arguments)
        scores, values, offsets = self.arguments
        inputs = [x.detach().requires_grad_() for x in (scores, values)]
        return lambda: torch.autograd.grad(function(*inputs, offsets), inputs, self.slope)


def cases() -> list[Callable[[], Case]]:
    """What is measured, the most wanted first; each is drawn when its turn comes."""
    tiles, rows, images = (16384, 1 << 20, 256) if CUDA else (4096, 20000, 4)
    even, ragged = (tiles,), tuple(np.random.default_rng(0).multinomial(tiles, np.ones(64) / 64).tolist())
    return [
        lambda: pooling("one bag", even, True),
        lambda: pooling("64 bags", ragged, True),
        lambda: pooling("64 bags, forward", ragged, False),
        lambda: top_k(1, rows),
        lambda: top_k(256 if CUDA else 32, rows),
        lambda: resizing(images, 358),
        lambda: patches(images),
        lambda: resizing(images, 448),
    ]


def pooling(name: str, lengths: tuple[int, ...], back: bool) -> Case:
    """512 columns, as ABMIL has; bfloat16 on a GPU, as its heads train."""
    kind = torch.bfloat16 if CUDA else torch.float32
    scores = torch.randn(sum(lengths), 1, device=DEVICE)
    values = torch.randn(sum(lengths), 512, device=DEVICE).to(kind)
    offsets = torch.tensor(np.cumsum([0, *lengths]), device=DEVICE)
    slope = torch.randn(len(lengths), 1, 512, device=DEVICE) if back else None
    plain = () if CUDA else (("reference", lambda: in_numpy(scores, values, offsets, slope)),)
    # Read once forward; read and written once backward.
    passes = 3 if back else 1
    what = f"attention_pool, {name}, {sum(lengths)} × 512 {str(kind).removeprefix('torch.')}"
    moved = passes * (values.nbytes + scores.nbytes)
    return Case(what, "attention_pool", (scores, values, offsets), moved, 0, slope, plain)


def in_numpy(
    scores: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, slope: torch.Tensor | None
) -> None:
    """The reference's pooling, and its gradients where there is a slope."""
    arrays = [x.numpy() for x in (scores, values, offsets)]
    reference.attention_pool(*arrays)
    if slope is not None:
        reference.attention_pool_grad(*arrays, slope.numpy())


def top_k(queries: int, rows: int) -> Case:
    """768 columns, k = 10."""
    q = torch.randn(queries, 768, device=DEVICE).half()
    r = torch.empty(rows, 768, dtype=torch.float16, device=DEVICE).normal_()
    plain = () if CUDA else (("reference", lambda: reference.top_k_dot(q.numpy(), r.numpy(), 10)),)
    name = f"top_k_dot, {queries} queries, {rows} rows of 768, k = 10"
    return Case(name, "top_k_dot", (q, r, 10), r.nbytes, 2 * queries * rows * 768, plain=plain)


def resizing(images: int, side: int) -> Case:
    """Tiles of a slide's scale to the encoder's 224 px."""
    x = torch.randint(0, 256, (images, side, side, 3), dtype=torch.uint8, device=DEVICE)
    plain = () if CUDA else (
        ("numpy", lambda: fast.resize_area_batch(x.numpy(), (224, 224))),
        ("reference", lambda: reference.resize_area_batch(x.numpy(), (224, 224))),
    )  # fmt: skip
    name = f"resize_area_batch, {images} tiles of {side} to 224 px"
    return Case(name, "resize_area_batch", (x, (224, 224)), x.nbytes + images * 224 * 224 * 3, plain=plain)


def patches(images: int) -> Case:
    """224 px in patches of 16, float16."""
    x = torch.randint(0, 256, (images, 224, 224, 3), dtype=torch.uint8, device=DEVICE)
    plain = () if CUDA else (("reference", lambda: reference.patchify(x.numpy(), 16, MEAN, STD, half=True)),)
    return Case(
        f"patchify, {images} tiles to float16", "patchify", (x, 16, MEAN, STD), 3 * x.nbytes, plain=plain
    )


def implementations(case: Case) -> tuple[dict[str, Run], dict[str, str]]:
    """What can run here, built and run once, and why the others cannot."""
    named = {"half": True} if case.op == "patchify" else {}

    def of(function: Callable[..., Any]) -> Callable[..., Any]:
        return (lambda *arguments: function(*arguments, **named)) if named else function

    eager = of(getattr(torch_ops, case.op))
    runs: dict[str, Run] = {"torch": case.run(eager)}
    absent: dict[str, str] = {}
    if not CUDA:
        absent = dict.fromkeys(("torch.compile", "triton"), "no CUDA device is visible to torch")
        runs |= dict(case.plain)
    elif find_spec("triton") is None:
        absent = dict.fromkeys(("torch.compile", "triton"), "triton is not installed")
    else:
        from beph_store_kernels import triton_ops

        torch.compiler.reset()
        runs["torch.compile"] = case.run(torch.compile(eager, dynamic=False))
        runs["triton"] = case.run(of(getattr(triton_ops, case.op)))
    for name in list(runs):
        try:
            runs[name]()
        except Exception as error:  # noqa: BLE001 - one that cannot be built is a line of the result
            absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            del runs[name]
    return runs, absent


def timed(runs: dict[str, Run]) -> dict[str, float]:
    """Median seconds of each, run in turn."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    scratch = torch.empty(1 << 26, dtype=torch.int32, device=DEVICE) if CUDA else None
    end = time.perf_counter() + CASE_SECONDS
    for number in range(RUNS[1]):
        if number >= RUNS[0] and time.perf_counter() > end:
            break
        for name, run in runs.items():
            if scratch is not None:
                scratch.zero_()
            spent[name].append(once(run))
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def once(run: Run) -> float:
    """Seconds of one run, by the GPU's own clock; of the process on a CPU, which others may be using."""
    if not CUDA:
        start = time.process_time()
        run()
        return time.process_time() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def agreement(runs: dict[str, Run]) -> dict[str, float]:
    """Largest difference from torch's result, of each."""
    results = {
        name: flat(run()) for name, run in runs.items() if name in ("torch", "torch.compile", "triton")
    }
    return {
        name: max(float((a.double() - b.double()).abs().max()) for a, b in zip(found, results["torch"], strict=True))
        for name, found in results.items()
        if name != "torch" and "torch" in results
    }  # fmt: skip


def flat(result: Any) -> list[torch.Tensor]:
    """The tensors of a result; of the best rows the values alone, which ties do not change."""
    if not isinstance(result, tuple):
        return [result]
    return [x for x in result if x.dtype != torch.int64]


def measured(case: Case, limits: dict[str, float]) -> dict[str, Any]:
    """Times and rates of a case's implementations."""
    runs, absent = implementations(case)
    row: dict[str, Any] = {"bytes": case.bytes, "flop": case.flop, "skipped": absent}
    for name, seconds in timed(runs).items():
        rate = case.bytes / seconds / 1e9
        row[name] = {"ms": 1e3 * seconds, "gb_per_s": rate, "of_copy": rate / limits["copy_gb_per_s"]}
        if case.flop:
            work = case.flop / seconds / 1e12
            row[name] |= {"tflop_per_s": work, "of_matrix": work / limits["matrix_tflop_per_s"]}
    row["largest_difference_from_torch"] = agreement(runs)
    others = [row[name]["ms"] for name in ("torch", "torch.compile") if name in row]
    if "triton" in row and others:
        row["triton_is_times_as_fast_as_the_better_torch"] = min(others) / row["triton"]["ms"]
    return row


def limits() -> dict[str, float]:
    """A copy's bytes a second, read and written, and a matrix product's rate: fp16 on a GPU, else fp32."""
    x = torch.zeros(1 << (28 if CUDA else 25), dtype=torch.float32, device=DEVICE)
    y = torch.empty_like(x)
    seconds = timed({"copy": lambda: y.copy_(x)})["copy"]
    precision = "fp16" if CUDA else "fp32"
    rate = matrix_rate(precision, cuda=CUDA, threads=torch.get_num_threads()) or float("nan")
    return {"copy_gb_per_s": 2 * x.nbytes / seconds / 1e9, "matrix_tflop_per_s": rate / 1e12}


def main() -> None:
    """Measure every case that there is time for, and write the result."""
    parser = command_line(__doc__, "kernels")
    parser.add_argument("--seconds", type=float, default=55.0)
    asked = parser.parse_args()
    end = time.perf_counter() + asked.seconds
    torch.manual_seed(0)
    if not CUDA:
        torch.set_num_threads(1)
    bounds = limits()
    found: dict[str, Any] = {}
    skipped: list[str] = []
    began = time.perf_counter()
    for make in cases():
        start = time.perf_counter()
        case = make()
        if start + (start - began) / max(len(found), 1) > end:  # as long as those before it took
            skipped.append(case.name)
            continue
        found[case.name] = measured(case, bounds)
        print(f"{case.name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    data = {
        **conditions("torch", "triton"),
        "device": torch.cuda.get_device_name() if CUDA else "CPU, one thread",
        "limits": bounds,
        "cases": found,
        "no_time_left_for": skipped,
    }
    write(asked.name, data)


if __name__ == "__main__":
    main()
