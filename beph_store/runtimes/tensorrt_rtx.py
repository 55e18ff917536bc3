"""TensorRT for RTX, a provider that plugs into plain ONNX Runtime (1.24 or newer).

Its package brings the builder and the libraries, so it needs no onnxruntime-gpu and nothing from NVIDIA's own index.
The engine is built when a session starts; built kernels are kept for the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from beph_store.errors import RuntimeUnavailable
from beph_store.records import EncoderSpec
from beph_store.runtimes import gpus, onnxruntime
from beph_store.runtimes.cache import cache_folder
from beph_store.runtimes.onnxruntime_gpu import BATCH, open_gpu
from beph_store.runtimes.overlap import Streamed
from beph_store.runtimes.protocol import RuntimeEntry, RuntimeOptions

PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
_DISTRIBUTIONS = ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime-ep-nv-tensorrt-rtx-cu12")


def available() -> str | None:
    """Why it cannot be used here, or None; a GPU that it does not support is found on opening."""
    if find_spec(PACKAGE) is None:
        return "TensorRT for RTX is not installed: pip install 'beph-store[cpu,tensorrt-rtx]'"
    # Without a driver its library fails to load: "libcuda.so.1: cannot open shared object file".
    return onnxruntime.cpu_available() or gpus.why_none()


def open_rtx(graph: Path, spec: EncoderSpec, options: RuntimeOptions) -> Streamed:
    """Build an engine on one GPU. Raises RuntimeUnavailable, also when ONNX Runtime would use another provider."""
    batch = options.batch or BATCH

    def start(wanted: Mapping[str, str]) -> Any:
        return _session(graph, batch, spec.tile_px, options.device or 0, wanted)

    return open_gpu("tensorrt-rtx", start, spec, options)


@cache
def _register() -> str:
    """Make the provider known to ONNX Runtime, once a process; returns its name."""
    import importlib

    import onnxruntime as ort

    plugin = importlib.import_module(PACKAGE)
    name = str(plugin.get_ep_name())
    if not hasattr(ort, "register_execution_provider_library"):
        raise RuntimeUnavailable(
            f"onnxruntime {ort.__version__} takes no plug-in providers: install 1.24 or newer"
        )
    ort.register_execution_provider_library(name, plugin.get_library_path())
    return name


def _session(graph: Path, batch: int, side: int, number: int, wanted: Mapping[str, str]) -> Any:
    import onnxruntime as ort

    try:
        name = _register()
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        if number >= len(devices):
            raise RuntimeUnavailable(
                f"TensorRT for RTX supports {len(devices)} of this machine's GPUs, not GPU {number}"
            )
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.add_provider_for_devices([devices[number]], {**_profile(graph, batch, side), **wanted})
        session = ort.InferenceSession(str(graph), settings)
    except RuntimeUnavailable:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RuntimeUnavailable(
            f"TensorRT for RTX does not take {graph.name}: {first}", path=graph
        ) from error
    if name not in session.get_providers():
        raise RuntimeUnavailable(
            f"ONNX Runtime passed TensorRT for RTX over: {', '.join(session.get_providers())}"
        )
    return session


def _profile(graph: Path, batch: int, side: int) -> dict[str, str]:
    """Provider options: whole batches only, built kernels kept beside other engines."""
    shape = f"tiles:{batch}x{side}x{side}x3"
    return {
        "nv_profile_min_shapes": shape,
        "nv_profile_opt_shapes": shape,
        "nv_profile_max_shapes": shape,
        "nv_runtime_cache_path": str(cache_folder("tensorrt-rtx", graph.parent.name)),
    }


def decided_by() -> str:
    """The plug-in's version and ONNX Runtime's."""
    for distribution in _DISTRIBUTIONS:
        try:
            return f"{version(distribution)}, {onnxruntime.decided_by()}"
        except PackageNotFoundError:
            continue
    return ""


ENTRY = RuntimeEntry(
    "tensorrt-rtx",
    "TensorRT for RTX on an NVIDIA GPU, through ONNX Runtime",
    available,
    open_rtx,
    ("fp16", "fp32"),
    decided_by,
    gpus.count,
)
