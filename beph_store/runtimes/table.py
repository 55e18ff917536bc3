"""The runtimes in the order in which ``auto`` tries them: the fastest first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beph_store.errors import RuntimeUnavailable, UsageError
from beph_store.records import EncoderSpec
from beph_store.runtimes import onnxruntime
from beph_store.runtimes.protocol import Runtime, RuntimeEntry, RuntimeOptions

RUNTIMES: tuple[RuntimeEntry, ...] = (*onnxruntime.ENTRIES,)


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """A runtime on this machine: ``reason`` why it cannot be used, None when it can; ``detail`` what it is."""

    name: str
    reason: str | None
    detail: str


def list_runtimes() -> list[RuntimeState]:
    """Every runtime of the table, in order."""
    return [RuntimeState(entry.name, entry.is_available(), entry.what) for entry in RUNTIMES]


def select_runtime(
    name: str, graph: str | Path, spec: EncoderSpec, options: RuntimeOptions | None = None
) -> Runtime:
    """Open an ONNX graph in the named runtime, or with 'auto' in the first that works.

    Raises UsageError for an unknown name, RuntimeUnavailable with the reason and the cure.
    """
    options = options or RuntimeOptions()
    if name != "auto":
        return _open(_entry(name), Path(graph), spec, options)
    reasons = []
    for entry in RUNTIMES:
        try:
            return _open(entry, Path(graph), spec, options)
        except RuntimeUnavailable as error:
            reasons.append(f"{entry.name}: {error}")
    raise RuntimeUnavailable(f"no runtime can be used here; {'; '.join(reasons)}")


def _entry(name: str) -> RuntimeEntry:
    for entry in RUNTIMES:
        if entry.name == name:
            return entry
    raise UsageError(f"no runtime {name!r}: choose from auto, {', '.join(e.name for e in RUNTIMES)}")


def _open(entry: RuntimeEntry, graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> Runtime:
    if reason := entry.is_available():
        raise RuntimeUnavailable(reason)
    return entry.open(graph, spec, options)
