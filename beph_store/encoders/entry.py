"""What a row of the table of encoders says: what it is, how it is computed, where its weights are published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from beph_store.errors import UsageError

Triple = tuple[float, float, float]
#: How tokens become one vector; ``model`` leaves it to the model.
Pooling = Literal["cls", "mean", "cls+mean", "model"]

#: What an ``EncoderSpec`` says of each.
POOLINGS: Mapping[Pooling, str] = MappingProxyType(
    {
        "cls": "class token",
        "mean": "mean patch token",
        "cls+mean": "class token and mean patch token, joined",
        "model": "model's own",
    }
)


@dataclass(frozen=True, slots=True)
class Normalisation:
    """(x - mean) / std per RGB channel, on the 0–255 scale."""

    mean: Triple
    std: Triple


def scaled(mean: Triple, std: Triple) -> Normalisation:
    """From statistics on the 0–1 scale, as most model cards give them."""
    return Normalisation(_times255(mean), _times255(std))


def _times255(values: Triple) -> Triple:
    red, green, blue = (round(255 * value, 6) for value in values)
    return red, green, blue


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
        "h-optimus": scaled((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
        "hibou": scaled((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)),
    }
)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the same weights. ``zero_tables``: leave out the relative-position bias; ``dim`` numbers a tile;
    ``pooling`` of an encoder that timm builds.
    """

    name: str
    normalisation: str
    zero_tables: bool
    what: str
    dim: int = 0
    pooling: Pooling = "model"


@dataclass(frozen=True, slots=True)
class Network:
    """How timm builds it: ``architecture`` its name there, ``arguments`` as the model card gives them (layers by their
    class's name), ``parameters`` how many the result has. ``grid``: side of the grid of positions in the published
    file, where the tile's is another; ``stem``: 'conv' for CTransPath's convolutions in place of a patch embedding.
    """

    architecture: str
    arguments: tuple[tuple[str, Any], ...]
    parameters: int
    grid: int | None = None
    stem: Literal["", "conv"] = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the authors publish the weights, and where a person reads the terms (``page``).

    ``kind`` 'hub': ``place`` is a repository of the Hugging Face hub, ``files`` the names under which the weights may
    lie there, the first one found is taken. 'url': ``place`` is the address of the file. ``gated``: an account must
    accept the terms first. ``digest`` as published, ``md5:…``, or empty.
    """

    kind: Literal["hub", "url"]
    place: str
    files: tuple[str, ...]
    page: str
    gated: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """One row of the table.

    ``mpp`` µm/px it was trained at; ``licence`` of the weights; ``bundle`` the folder that ships with it, or None;
    ``tile_px`` side of its tiles; ``natural`` where it was trained on photographs, so that ``mpp`` is a choice;
    ``unconfirmed`` names the facts of the row that the authors' own words did not confirm.
    """

    name: str
    what: str
    mpp: float
    licence: str
    variants: tuple[Variant, ...]
    bundle: Path | None = None
    tile_px: int = 224
    network: Network | None = None
    source: Source | None = None
    paper: str = ""
    natural: bool = False
    unconfirmed: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Numbers a tile of the first variant."""
        return self.variants[0].dim

    def variant(self, name: str | None) -> Variant:
        """The variant of that name, the first for None; UsageError lists the names."""
        if name is None:
            return self.variants[0]
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = ", ".join(v.name for v in self.variants)
        raise UsageError(f"{self.name} has no variant {name!r}: choose from {names}")

    def facts(self) -> dict[str, Any]:
        """The row as JSON data."""
        source = self.source
        return {
            "name": self.name,
            "what": self.what,
            "tile_px": self.tile_px,
            "mpp": self.mpp,
            "dim": self.dim,
            "pooling": self.variants[0].pooling,
            "licence": self.licence,
            "gated": bool(source and source.gated),
            "variants": [variant.name for variant in self.variants],
            "page": source.page if source else None,
            "paper": self.paper or None,
            "unconfirmed": list(self.unconfirmed),
        }


def normalisation(name: str) -> Normalisation:
    """The named statistics; UsageError lists the names."""
    if name in NORMALISATIONS:
        return NORMALISATIONS[name]
    raise UsageError(f"no normalisation {name!r}: choose from {', '.join(NORMALISATIONS)}")
