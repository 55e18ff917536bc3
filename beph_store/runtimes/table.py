"""The runtimes in the order in which ``auto`` tries them: the fastest first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from beph_store.errors import RuntimeUnavailable, UsageError
from beph_store.records import EncoderSpec
from beph_store.runtimes import onnxruntime, openvino, tensorrt, tensorrt_rtx, torch
from beph_store.runtimes.fleet import Fleet
from beph_store.runtimes.protocol import Runtime, RuntimeEntry, RuntimeOptions

RUNTIMES: tuple[RuntimeEntry, ...] = (
    tensorrt.ENTRY,
    tensorrt_rtx.ENTRY,
    torch.TORCH_CUDA,
    *onnxruntime.ENTRIES[:-1],
    openvino.ENTRY,
    onnxruntime.ENTRIES[-1],
    torch.TORCH,
)


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """A runtime on this machine: ``reason`` why it cannot be used, None when it can; ``detail`` what it is."""

    name: str
    reason: str | None
    detail: str


def list_runtimes() -> list[RuntimeState]:
    """Every runtime of the table, in order."""
    return [
        RuntimeState(entry.name, entry.is_available(), f"{entry.what}: {', '.join(entry.precisions)}")
        for entry in RUNTIMES
    ]


def entries(name: str) -> tuple[RuntimeEntry, ...]:
    """The rows that a name stands for: all of them for 'auto'. UsageError for an unknown name."""
    found = tuple(entry for entry in RUNTIMES if name in ("auto", entry.name))
    if not found:
        raise UsageError(f"no runtime {name!r}: choose from auto, {', '.join(e.name for e in RUNTIMES)}")
    return found


def open_runtime(
    entry: RuntimeEntry, graph: Path, spec: EncoderSpec, options: RuntimeOptions | None = None
) -> Runtime:
    """One runtime, on every device that it may use unless the options name one. RuntimeUnavailable with the cure."""
    options = options or RuntimeOptions()
    if spec.precision not in entry.precisions:
        raise RuntimeUnavailable(
            f"{entry.name} does not compute in {spec.precision}, only in {', '.join(entry.precisions)}"
        )
    if reason := entry.is_available():
        raise RuntimeUnavailable(reason)
    count = entry.devices() if options.device is None else 1
    if count < 2:
        return entry.open(graph, spec, options)
    return Fleet([entry.open(graph, spec, replace(options, device=number)) for number in range(count)])


def select_runtime(
    name: str, graph: str | Path, spec: EncoderSpec, options: RuntimeOptions | None = None
) -> Runtime:
    """Open an ONNX graph in the named runtime, or with 'auto' in the first that works in the spec's precision.

    No gate: ``engine.choosing`` has one. Raises UsageError for an unknown name, RuntimeUnavailable with the reason
    and the cure.
    """
    rows = entries(name)
    if name != "auto":
        return open_runtime(rows[0], Path(graph), spec, options)
    reasons = []
    for entry in rows:
        try:
            return open_runtime(entry, Path(graph), spec, options)
        except RuntimeUnavailable as error:
            reasons.append(f"{entry.name}: {error}")
    raise RuntimeUnavailable(f"no runtime can be used here; {'; '.join(reasons)}")
