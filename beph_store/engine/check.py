"""The parity gate on this machine: does a runtime reproduce the reference that the bundle carries?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beph_store.encoders import ParityReport, compare, kind_of, load_bundle, probe_tiles
from beph_store.runtimes import select_runtime


def check(
    encoder: str | Path, *, runtime: str = "auto", precision: str | None = None
) -> tuple[ParityReport, str]:
    """Encode the probe tiles and compare with the fp32 torch reference; returns the report and the runtime's name.

    The report says whether it passed. Raises EncoderError and RuntimeUnavailable.
    """
    bundle = load_bundle(encoder)
    spec = bundle.spec_for(precision)
    run = select_runtime(runtime, bundle.onnx_path(precision), spec)
    reference = bundle.reference()
    tiles = probe_tiles(spec.tile_px)
    parts = [run.encode(tiles[i : i + run.batch]) for i in range(0, len(tiles), run.batch)]
    return compare(reference, np.concatenate(parts), kind_of(spec.precision)), run.name
