"""The encoders known by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from beph_store.errors import UnknownEncoder, UsageError

Triple = tuple[float, float, float]

#: Prefix of the name of any timm model: ``timm:vit_small_patch16_224``.
TIMM = "timm:"
ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, slots=True)
class Normalisation:
    """(x - mean) / std per RGB channel, on the 0–255 scale."""

    mean: Triple
    std: Triple


#: ``symmetric`` takes 0–255 to -1–1.
#: ``histology`` is what BEPH was trained with; ``imagenet`` what its released extraction script applies.
NORMALISATIONS: Mapping[str, Normalisation] = MappingProxyType(
    {
        "histology": Normalisation(
            (189.78929696867084, 128.24523960459152, 175.1775062798947),
            (38.39398676131772, 45.25197621706431, 32.21307843285958),
        ),
        "symmetric": Normalisation((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        "imagenet": Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    }
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the same weights. ``zero_tables``: leave out the relative-position bias."""

    name: str
    normalisation: str
    zero_tables: bool
    what: str


EXPANDED = Variant(
    "expanded", "histology", False, "as the weights were trained: the shared position table in every block"
)
AS_PUBLISHED = Variant(
    "as-published", "imagenet", True, "as the authors' extraction script ran: no position table at all"
)


HYBRID = Variant("hybrid", "symmetric", False, "convolutional stem, four transformer blocks")


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """One row of the table. ``mpp`` µm/px it was trained at; ``bundle`` the folder that ships with it, or None."""

    name: str
    what: str
    mpp: float
    licence: str
    variants: tuple[Variant, ...]
    bundle: Path | None = None

    def variant(self, name: str | None) -> Variant:
        """The variant of that name, the first for None; UsageError lists the names."""
        if name is None:
            return self.variants[0]
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = ", ".join(v.name for v in self.variants)
        raise UsageError(f"{self.name} has no variant {name!r}: choose from {names}")


ENCODERS: Mapping[str, EncoderEntry] = MappingProxyType(
    {
        "beph-mini": EncoderEntry(
            "beph-mini",
            "small hybrid ViT of BEPH's family, 512 numbers a tile; bundled, for trying things out",
            0.5,
            "Apache-2.0",
            (HYBRID,),
            ASSETS / "beph_mini",
        ),
        "beph": EncoderEntry(
            "beph",
            "BEPH: BEiT v2 ViT-B/16, 768 numbers a tile; needs BEPH_backbone.pth",
            0.25,
            "not stated by the authors for the weights (their code is GPL-3.0)",
            (EXPANDED, AS_PUBLISHED),
        ),
    }
)


def encoder_entry(name: str) -> EncoderEntry:
    """The row of that name. UnknownEncoder lists all names, the nearest first."""
    if name in ENCODERS:
        return ENCODERS[name]
    raise UnknownEncoder(unknown(name))


def unknown(name: str) -> str:
    """What to tell somebody whose encoder is not there."""
    near = difflib.get_close_matches(name, ENCODERS, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}? " if near else ""
    names = ", ".join(ENCODERS)
    return f"no encoder {name!r}: {guess}known are {names}, {TIMM}MODEL, and folders of exported bundles"


def normalisation(name: str) -> Normalisation:
    """The named statistics; UsageError lists the names."""
    if name in NORMALISATIONS:
        return NORMALISATIONS[name]
    raise UsageError(f"no normalisation {name!r}: choose from {', '.join(NORMALISATIONS)}")
