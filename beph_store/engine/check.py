"""The parity gate on this machine: does a runtime reproduce the reference that the bundle carries?"""

from __future__ import annotations

from pathlib import Path

from beph_store.encoders import ParityReport, load_bundle
from beph_store.engine.choosing import gate
from beph_store.runtimes import select_runtime


def check(
    encoder: str | Path, *, runtime: str = "auto", precision: str | None = None
) -> tuple[ParityReport, str]:
    """Encode the probe tiles and compare with the fp32 torch reference; returns the report and the runtime's name.

    The report says whether it passed. Raises EncoderError and RuntimeUnavailable.
    """
    bundle = load_bundle(encoder)
    opened = select_runtime(runtime, bundle.onnx_path(precision), bundle.spec_for(precision))
    return gate(opened, bundle), opened.name
