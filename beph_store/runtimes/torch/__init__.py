"""torch: on an NVIDIA GPU compiled and captured, on a CPU plainly. Loads no torch before it is opened."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from beph_store.records import EncoderSpec
from beph_store.runtimes import gpus
from beph_store.runtimes.protocol import Runtime, RuntimeEntry, RuntimeOptions

#: Raised when the graph is built otherwise, so that verdicts of the parity gate are made again.
REVISION = 1


def version_of(distribution: str) -> str | None:
    """The installed version, None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def cpu_available() -> str | None:
    """Why torch cannot be used here, or None."""
    missing = [name for name in ("torch", "onnx") if version_of(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'beph-store[torch]'"
    return None


def cuda_available() -> str | None:
    """Why torch cannot be used on a GPU here, or None; a build without CUDA is found on opening."""
    if reason := gpus.why_none():
        return reason
    if (version_of("torch") or "").endswith("+cpu"):
        return "torch is a build for the CPU: install one for CUDA"
    return cpu_available()


def open_cpu(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> Runtime:
    """Build the graph on the CPU. Raises RuntimeUnavailable."""
    from beph_store.runtimes.torch import opening

    return opening.open_cpu(graph, spec, options)


def open_cuda(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> Runtime:
    """Build the graph on one GPU, compile it and capture it. Raises RuntimeUnavailable."""
    from beph_store.runtimes.torch import opening

    return opening.open_cuda(graph, spec, options)


def decided_by() -> str:
    """What decides the figures: torch's version and how the graph is built."""
    return f"torch {version_of('torch')}, graph {REVISION}"


TORCH_CUDA = RuntimeEntry(
    "torch-cuda",
    "torch on an NVIDIA GPU",
    cuda_available,
    open_cuda,
    ("bf16", "fp16", "fp32"),
    decided_by,
    gpus.count,
)
TORCH = RuntimeEntry("torch", "torch on the CPU", cpu_available, open_cpu, ("bf16", "fp32"), decided_by)
