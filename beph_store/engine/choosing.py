"""Which runtime computes: the first of the table that reproduces the encoder's reference on this machine.

A fast engine that no longer sees what the encoder sees is worse than a slow one, and raw cosine does not tell. So a
runtime other than the one the bundle was checked with passes the parity gate here, on the probe tiles, before the
first tile of a slide; the verdict is kept for this graph, this version and this device.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beph_store.encoders import Bundle, ParityReport, compare, kind_of, probe_tiles, require
from beph_store.encoders.bundle import file_sha256
from beph_store.engine.report import Computing
from beph_store.errors import BephStoreError, BundleInvalid, ParityFailed, RuntimeUnavailable
from beph_store.runtimes import Runtime, RuntimeEntry, RuntimeOptions, cache_folder, entries, open_runtime

#: What ``--precision auto`` may choose from, besides what a bundle lacks. int8 is a choice to make by name.
_AUTO = ("fp16", "bf16", "fp32")
#: The runtime that the figures in a bundle are of.
_EXPORTED_WITH = "onnxruntime"


@dataclass(frozen=True, slots=True)
class Choice:
    """``runtime`` that was opened; ``parity`` its figures on the probe; ``passed_over`` the others, each with why."""

    runtime: Runtime
    parity: dict[str, Any]
    passed_over: tuple[tuple[str, str], ...]

    @property
    def computing(self) -> Computing:
        """The same, without the runtime itself."""
        opened = self.runtime
        return Computing(opened.name, opened.spec.precision, opened.device, self.parity, self.passed_over)


def choose(
    bundle: Bundle,
    *,
    runtime: str = "auto",
    precision: str | None = None,
    options: RuntimeOptions | None = None,
) -> Choice:
    """Open ``bundle`` in the named runtime, or in the first that works and passes the gate.

    ``precision`` None is fp32; 'auto' takes the first of each runtime's own order, so that a machine with bf16 uses
    it. Raises UsageError for unknown names, RuntimeUnavailable and ParityFailed where a named runtime cannot be used.
    """
    rows = entries(runtime)
    passed_over: list[tuple[str, str]] = []
    for entry in rows:
        for wanted in _precisions(entry, bundle, precision):
            try:
                opened, parity = _open(entry, bundle, wanted, options)
            except (RuntimeUnavailable, ParityFailed) as error:
                if len(rows) == 1 and precision != "auto":
                    raise
                passed_over.append((f"{entry.name} {wanted}", str(error)))
            else:
                return Choice(opened, parity, tuple(passed_over))
    reasons = "; ".join(f"{name}: {why}" for name, why in passed_over)
    raise RuntimeUnavailable(f"no runtime can be used here; {reasons}")


def gate(runtime: Runtime, bundle: Bundle) -> ParityReport:
    """Encode the probe tiles and compare with the fp32 torch reference of the bundle."""
    tiles = probe_tiles(runtime.spec.tile_px)
    parts = [runtime.encode(tiles[i : i + runtime.batch]) for i in range(0, len(tiles), runtime.batch)]
    return compare(bundle.reference(), np.concatenate(parts), kind_of(runtime.spec.precision))


def _precisions(entry: RuntimeEntry, bundle: Bundle, precision: str | None) -> tuple[str, ...]:
    if precision != "auto":
        bundle.onnx_path(precision)  # says what is wrong with it
        return (precision or "fp32",)
    return tuple(p for p in entry.precisions if p in _AUTO and bundle.has(p)) or ("fp32",)


def _open(
    entry: RuntimeEntry, bundle: Bundle, precision: str, options: RuntimeOptions | None
) -> tuple[Runtime, dict[str, Any]]:
    graph = bundle.onnx_path(precision)
    opened = open_runtime(entry, graph, bundle.spec_for(precision), options)
    # Whole-number products differ from one processor to the next: int8 is judged where it runs.
    if entry.name == _EXPORTED_WITH and precision in bundle.parity and precision != "int8":
        _try(opened, bundle)
        return opened, bundle.parity
    kept = _verdict_file(entry, graph, opened)
    figures = _read(kept)
    if figures is None:
        with _graph_errors(opened, bundle):
            report = gate(opened, bundle)
        figures = report.to_json()
        kept.write_text(json.dumps(figures), encoding="utf-8")
    if not figures["passed"]:
        opened.close()
        what = f"{bundle.spec.name} in {entry.name}, {precision},"
        require(ParityReport(**{k: v for k, v in figures.items() if k != "passed"}), what)
    return opened, {**bundle.parity, f"{entry.name} {precision}": figures}


def _try(opened: Runtime, bundle: Bundle) -> None:
    """One tile: a record that lies about its graph is told before the first slide, in one line."""
    spec = opened.spec
    with _graph_errors(opened, bundle):
        found = opened.encode(probe_tiles(spec.tile_px, 1))
    if found.shape != (1, spec.dim) or not np.isfinite(found).all():
        opened.close()
        raise BundleInvalid(
            f"the graph of {bundle.path} gives {found.shape[1:]} numbers a tile, or no finite ones, its record says "
            f"{spec.dim}: export it again",
            path=bundle.path,
        )


@contextmanager
def _graph_errors(opened: Runtime, bundle: Bundle) -> Iterator[None]:
    """Each runtime has errors of its own for a graph that takes something else than its record says."""
    try:
        yield
    except BephStoreError:
        opened.close()
        raise
    except Exception as error:
        opened.close()
        side = opened.spec.tile_px
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise BundleInvalid(
            f"the graph of {bundle.path} does not take tiles (n, {side}, {side}, 3) of uint8, as its "
            f"record says: {why}",
            path=bundle.path,
        ) from error


def _verdict_file(entry: RuntimeEntry, graph: Path, opened: Runtime) -> Path:
    named = [file_sha256(graph), entry.name, entry.version(), opened.spec.precision, opened.device]
    named += [platform.machine(), platform.processor()]
    return cache_folder("parity") / f"{hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]}.json"


def _read(file: Path) -> dict[str, Any] | None:
    """A verdict kept by an earlier run, None where there is none that can be read."""
    try:
        figures = json.loads(file.read_bytes())
        ParityReport(**{k: v for k, v in figures.items() if k != "passed"})
        return dict(figures) if isinstance(figures["passed"], bool) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
