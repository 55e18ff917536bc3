"""The encoders known by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from beph_store.encoders.catalogue import CATALOGUE, drive
from beph_store.encoders.entry import (
    NORMALISATIONS,
    EncoderEntry,
    Normalisation,
    Source,
    Triple,
    Variant,
    normalisation,
)
from beph_store.errors import UnknownEncoder

__all__ = [
    "AS_PUBLISHED",
    "ASSETS",
    "ENCODERS",
    "EXPANDED",
    "HYBRID",
    "NORMALISATIONS",
    "TIMM",
    "EncoderEntry",
    "Normalisation",
    "Triple",
    "Variant",
    "encoder_entry",
    "normalisation",
    "unknown",
]

#: Prefix of the name of any timm model: ``timm:vit_small_patch16_224``.
TIMM = "timm:"
ASSETS = Path(__file__).parent / "assets"


EXPANDED = Variant(
    "expanded",
    "histology",
    False,
    "as the weights were trained: the shared position table in every block",
    768,
    "mean",
)
AS_PUBLISHED = Variant(
    "as-published",
    "imagenet",
    True,
    "as the authors' extraction script ran: no position table at all",
    768,
    "mean",
)


HYBRID = Variant("hybrid", "symmetric", False, "convolutional stem, four transformer blocks", 512)

ENCODERS: Mapping[str, EncoderEntry] = MappingProxyType(
    {
        "beph-mini": EncoderEntry(
            "beph-mini",
            "small hybrid ViT, for trying things out",
            0.5,
            "Apache-2.0",
            (HYBRID,),
            ASSETS / "beph_mini",
        ),
        "beph": EncoderEntry(
            "beph",
            "BEiT v2 ViT-B/16, 11 million tiles of TCGA",
            0.25,
            "not stated by the authors for the weights (their code is GPL-3.0)",
            (EXPANDED, AS_PUBLISHED),
            source=Source(
                "url",
                drive("19Fu3dw3G4i2gPXijzrxfaQ2D_xcqNdNz"),
                ("BEPH_backbone.pth",),
                "https://github.com/Zhcyoung/BEPH",
            ),
            paper="doi:10.1038/s41467-025-57587-y",
        ),
        **{entry.name: entry for entry in CATALOGUE},
    }
)


def encoder_entry(name: str) -> EncoderEntry:
    """The row of that name. UnknownEncoder tells the nearest name, or all of them where none is near."""
    if name in ENCODERS:
        return ENCODERS[name]
    raise UnknownEncoder(unknown(name))


def unknown(name: str) -> str:
    """What to tell somebody whose encoder is not there."""
    near = difflib.get_close_matches(name, ENCODERS, n=1, cutoff=0.5)
    known = f"did you mean {near[0]}?" if near else f"known are {', '.join(ENCODERS)}."
    return (
        f"no encoder {name!r}: {known} A folder of an exported bundle and {TIMM}MODEL are taken too; "
        "`beph-store encoder list` has them all"
    )
