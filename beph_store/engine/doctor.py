"""What can be used on this machine, and why the rest cannot."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from beph_store.encoders import load_bundle
from beph_store.errors import BephStoreError
from beph_store.runtimes import list_runtimes, visible_gpus, why_no_gpu


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``needed`` when nothing works without it; ``detail`` its version, or the cure."""

    kind: str
    name: str
    ok: bool
    detail: str
    needed: bool = False


def examine() -> list[Finding]:
    """Look at everything; never raises, loads no torch."""
    return [*_machine(), *_packages(), *_readers(), *_runtimes(), _default_encoder()]


def _machine() -> list[Finding]:
    return [
        Finding(
            "machine",
            "python",
            True,
            f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ),
        Finding("machine", "cores", True, str(os.cpu_count())),
        *_gpus(),
    ]


def _gpus() -> list[Finding]:
    if reason := why_no_gpu():
        there = " (nvidia-smi is there)" if shutil.which("nvidia-smi") else ""
        return [Finding("machine", "NVIDIA GPU", False, reason + there)]
    return [
        Finding(
            "machine",
            f"NVIDIA GPU {gpu.number}",
            True,
            f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, compute capability "
            + ".".join(map(str, gpu.capability)),
        )
        for gpu in visible_gpus()
    ]


def _packages() -> list[Finding]:
    needed = ("pylance", "pyarrow", "polars", "zarr", "numpy")
    optional = {"torch": "train", "timm": "train", "lancedb": "", "scikit-learn": "train"}
    found = [_package(name, needed=True, cure="reinstall beph-store") for name in needed]
    return found + [
        _package(
            name, needed=False, cure=f"pip install 'beph-store[{extra}]'" if extra else "pip install lancedb"
        )
        for name, extra in optional.items()
    ]


def _package(name: str, *, needed: bool, cure: str) -> Finding:
    try:
        return Finding("package", name, True, version(name), needed)
    except PackageNotFoundError:
        return Finding("package", name, False, f"not installed: {cure}", needed)


def _readers() -> list[Finding]:
    checks: list[tuple[str, Callable[[], str]]] = [
        ("OpenSlide", _openslide),
        ("tifffile + imagecodecs (JPEG tiles read directly)", _tifffile),
        ("pydicom", lambda: version("pydicom")),
        ("Pillow (plain images)", lambda: version("pillow")),
    ]
    findings = []
    for name, look in checks:
        try:
            findings.append(Finding("reader", name, True, look(), name == "OpenSlide"))
        except Exception as error:  # noqa: BLE001 - a doctor reports, whatever the illness
            findings.append(
                Finding("reader", name, False, f"{type(error).__name__}: {error}", name == "OpenSlide")
            )
    return findings


def _openslide() -> str:
    import openslide

    return f"library {openslide.__library_version__}, openslide-python {openslide.__version__}"


def _tifffile() -> str:
    import imagecodecs

    if not imagecodecs.JPEG8.available:
        raise RuntimeError("imagecodecs was built without JPEG")
    return f"{version('tifffile')}, {version('imagecodecs')}"


def _runtimes() -> list[Finding]:
    return [Finding("runtime", r.name, r.reason is None, r.reason or r.detail) for r in list_runtimes()]


def _default_encoder() -> Finding:
    try:
        bundle = load_bundle("beph-mini")
    except BephStoreError as error:
        return Finding("encoder", "beph-mini", False, str(error), True)
    reasons = {r.name: r.reason for r in list_runtimes()}
    if None not in reasons.values():
        return Finding("encoder", "beph-mini", False, f"no runtime: {reasons['onnxruntime']}", True)
    return Finding(
        "encoder",
        "beph-mini",
        True,
        f"bundled, {bundle.spec.dim} numbers a tile at {bundle.spec.mpp:g} µm/px",
        True,
    )
