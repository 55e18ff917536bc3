"""Who is compared, and on which tiles."""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders import Bundle
from beph_store.encoders.bundle import PRECISIONS
from beph_store.engine.choosing import choose
from beph_store.engine.embed import Fit
from beph_store.engine.leaderboard.colour import NAME as COLOUR
from beph_store.engine.probe.tiles import LabelledTiles, ProbeTiles
from beph_store.errors import UsageError
from beph_store.runtimes import Stream

#: Folder beside the result where what was embedded is kept.
VECTORS = "vectors"
NEEDS_PIXELS = "needs pixels: ingest --keep-tiles"


class Machine(Protocol):
    """What computes vectors: a runtime, or something with its ends."""

    @property
    def name(self) -> str:
        """Which runtime."""
        ...

    @property
    def device(self) -> str:
        """Where it computes."""
        ...

    @property
    def batch(self) -> int:
        """Tiles a call that suit it."""
        ...

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, D) of tiles (B, H, W, 3)."""
        ...

    def stream(self) -> Stream:
        """Batch after batch."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """How more vectors of an encoder are made: ``open`` it, for tiles of ``tile_px``; ``pixels(row)`` is the image
    (H, W, 3) of a tile as it was before it was fitted; ``identity`` changes with whatever would change a vector.
    """

    open: Callable[[], Machine]
    tile_px: int
    precision: str
    pixels: Callable[[int], NDArray[np.uint8]]
    fit: Fit | None
    identity: str


@dataclass(frozen=True, slots=True, eq=False)
class Entrant:
    """One encoder: ``vectors`` (n, D) float32 of the tiles compared on, or None and ``missing`` says why; ``about`` it
    in plain data; ``source`` None where no more can be made, and ``missing`` says why.
    """

    name: str
    vectors: NDArray[np.float32] | None
    about: Mapping[str, Any]
    source: Source | None
    missing: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The ``tiles`` with their classes and cases, and the ``entrants``, the colour last. ``unit`` is tile or image."""

    tiles: LabelledTiles
    entrants: tuple[Entrant, ...]

    def tiles_of(self, entrant: Entrant) -> ProbeTiles:
        """The tiles with the vectors of one entrant, which has some."""
        assert entrant.vectors is not None
        fields = {f.name: getattr(self.tiles, f.name) for f in dataclasses.fields(LabelledTiles)}
        about = {**self.tiles.about, "encoder": entrant.about["encoder"]}
        return ProbeTiles(**{**fields, "about": about}, vectors=entrant.vectors)

    def place(self, name: str | None) -> int:
        """Place of the entrant of that name, the first for None; UsageError lists them."""
        if name is None:
            return 0
        names = [one.name for one in self.entrants]
        check_baseline(name, names)
        if self.entrants[names.index(name)].vectors is None:
            raise UsageError(
                f"--baseline {name!r} has no vectors here, it {self.entrants[names.index(name)].missing}"
            )
        return names.index(name)


@dataclass(frozen=True, slots=True)
class Asked:
    """An encoder as the user names it: ``FOLDER@int8`` is that bundle in that precision."""

    text: str
    encoder: str
    precision: str | None

    @classmethod
    def read(cls, text: str) -> Asked:
        """Split off a precision; an @ in a path is left alone."""
        name, _, precision = text.rpartition("@")
        return cls(text, name, precision) if name and precision in PRECISIONS else cls(text, text, None)

    @property
    def short(self) -> str:
        """The folder's name, or the encoder's, with its precision."""
        name = Path(self.encoder).name or self.encoder
        return f"{name}@{self.precision}" if self.precision else name


def check_baseline(name: str | None, names: Sequence[str]) -> None:
    """UsageError for a baseline that is none of the names."""
    if name is not None and name not in names:
        raise UsageError(f"--baseline {name!r}: choose from {', '.join(names)}")


def names_of(asked: Sequence[Asked]) -> list[str]:
    """A name each: short where that tells them apart. UsageError for one that is named twice."""
    short = [one.short for one in asked]
    names = [one.short if short.count(one.short) == 1 else one.text for one in asked]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageError(f"--encoder {min(twice)} is there twice: name it once")
    if COLOUR in names:
        raise UsageError(f"--encoder {COLOUR}: the colours are always compared, leave it out")
    return names


def folder_of(out: Path, name: str) -> Path:
    """Where the vectors of an entrant are kept."""
    plain = re.sub(r"[^A-Za-z0-9._@-]+", "-", name).strip(".-") or "encoder"
    return out / VECTORS / plain


def opener(bundle: Bundle, runtime: str, precision: str | None) -> Callable[[], Machine]:
    """Opens a bundle in the machine's best runtime that passes the parity gate."""
    return lambda: choose(bundle, runtime=runtime, precision=precision).runtime


def load(file: Path, key: str) -> dict[str, NDArray[np.float32]] | None:
    """Arrays kept under that key; None where there are others, or none that can be read."""
    try:
        with np.load(file, allow_pickle=False) as data:
            if str(data["key"]) != key:
                return None
            return {name: data[name] for name in data.files if name != "key"}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def keep(file: Path, key: str, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Keep arrays under a key, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with aside.open("wb") as target:
        np.savez(target, key=np.array(key), **arrays)  # type: ignore[arg-type]
    aside.replace(file)
