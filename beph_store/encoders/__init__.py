"""Encoders: the table of names, exported bundles, the probe and the parity gate.

Nothing here loads torch. ``beph_store.encoders.torch_side`` reads checkpoints and exports bundles.
"""

from beph_store.encoders.bundle import Bundle, load_bundle
from beph_store.encoders.parity import ParityReport, compare, kind_of, require
from beph_store.encoders.probe import probe_tiles
from beph_store.encoders.table import (
    ENCODERS,
    NORMALISATIONS,
    EncoderEntry,
    Normalisation,
    Variant,
    encoder_entry,
)
from beph_store.encoders.weights import where

__all__ = [
    "ENCODERS",
    "NORMALISATIONS",
    "Bundle",
    "EncoderEntry",
    "Normalisation",
    "ParityReport",
    "Variant",
    "compare",
    "encoder_entry",
    "kind_of",
    "load_bundle",
    "probe_tiles",
    "require",
    "where",
]
