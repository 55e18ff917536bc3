"""What the user asks of a protocol, checked against what it is before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beph_store.engine.protocols.table import Protocol
from beph_store.errors import UsageError

#: Called with what is being done, and how much of it is done.
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Each field is a flag; None leaves it to the protocol.

    Slides come from ``slides`` (a folder), from ``store`` (what is in it), or from the former through the latter;
    ``images`` are for tile level. ``encoders`` names or folders of bundles; ``weights`` a file for those that must be
    exported first; ``baselines`` whether ResNet-50 and DINO run too. ``splits`` are refused where they leak, unless
    ``as_published``. ``fractions`` per cent; ``draws`` Monte-Carlo draws, or repeats of the folds. ``bootstrap`` draws
    over cases for the intervals.
    """

    slides: Path | None = None
    store: Path | None = None
    images: Path | None = None
    cohort: Path | None = None
    splits: Path | None = None
    as_published: bool = False
    encoders: tuple[str, ...] = ()
    weights: Mapping[str, Path] = field(default_factory=dict)
    baselines: bool = True
    fractions: tuple[int, ...] | None = None
    draws: int | None = None
    folds: int | None = None
    epochs: int | None = None
    limit_tiles: int | None = None
    mpp: float | None = None
    stride_px: int | None = None
    seed: int = 0
    bootstrap: int = 1000


@dataclass(frozen=True, slots=True)
class Job:
    """A protocol, the options, and what these leave to it, settled."""

    protocol: Protocol
    options: RunOptions
    out: Path
    fractions: tuple[int, ...]
    draws: int
    folds: int

    @property
    def mpp(self) -> float | None:
        """µm/px of the tiles."""
        return self.options.mpp or self.protocol.mpp

    def to_json(self) -> dict[str, Any]:
        """What was asked for, settled."""
        o = self.options
        places = {name: getattr(o, name) for name in ("slides", "store", "images", "cohort", "splits")}
        return {
            **{name: None if path is None else str(path) for name, path in places.items()},
            "as_published": o.as_published,
            "fractions": list(self.fractions),
            "draws": self.draws,
            "folds": self.folds,
            "epochs": o.epochs,
            "limit_tiles": o.limit_tiles,
            "mpp": self.mpp,
            "stride_px": o.stride_px,
            "seed": o.seed,
            "bootstrap": o.bootstrap,
        }


def settle(protocol: Protocol, options: RunOptions, out: Path) -> Job:
    """The job; UsageError for flags that the protocol does not read, lacks, or that contradict each other."""
    (_check_tiles if protocol.level == "tile" else _check_slides)(protocol, options)
    _check_numbers(protocol, options)
    if options.as_published and options.splits is None:
        raise UsageError(
            "--as-published takes the splits that the authors released: name their folder with --splits"
        )
    return Job(
        protocol,
        options,
        out,
        options.fractions or protocol.fractions,
        options.draws or protocol.draws,
        options.folds or protocol.folds,
    )


def _check_tiles(protocol: Protocol, options: RunOptions) -> None:
    if options.images is None:
        raise UsageError(f"{protocol.name} works on images: name their folder with --images")
    if options.splits is not None or options.as_published:
        raise UsageError(
            f"no splits of {protocol.cohort} were released: leave out --splits and --as-published"
        )
    for flag, given in (
        ("--slides", options.slides),
        ("--store", options.store),
        ("--cohort", options.cohort),
        ("--epochs", options.epochs),
        ("--limit-tiles", options.limit_tiles),
        ("--mpp", options.mpp),
        ("--stride-px", options.stride_px),
    ):
        if given is not None:
            raise UsageError(f"{flag} is for protocols on slides, not for {protocol.name}: leave it out")


def _check_slides(protocol: Protocol, options: RunOptions) -> None:
    if options.images is not None:
        raise UsageError(f"--images is for breakhis and lc25000, not for {protocol.name}: pass --slides")
    if options.slides is None and options.store is None:
        raise UsageError(f"{protocol.name} works on slides: pass --slides DIR, or --store with them in it")
    if options.cohort is None:
        raise UsageError(
            f"{protocol.name} needs labels: pass --cohort ({protocol.needs.split('--cohort: ')[1]})"
        )
    if options.slides is None:
        for flag, given in (
            ("--limit-tiles", options.limit_tiles),
            ("--stride-px", options.stride_px),
            ("--weights", options.weights or None),
        ):
            if given is not None:
                raise UsageError(f"{flag} is about slides to ingest: pass --slides, or leave it out")


def _check_numbers(protocol: Protocol, options: RunOptions) -> None:
    fractions = options.fractions
    if fractions is not None and (not fractions or not all(1 <= share <= 100 for share in fractions)):
        raise UsageError("--fractions: whole numbers from 1 to 100, such as 25,50,75,100")
    if fractions is not None and len(set(fractions)) < len(fractions):
        raise UsageError("--fractions names a share twice: name each once")
    for flag, number, least in (
        ("--draws", options.draws, 1),
        ("--folds", options.folds, 2),
        ("--epochs", options.epochs, 1),
        ("--limit-tiles", options.limit_tiles, 1),
        ("--bootstrap", options.bootstrap, 1),
    ):
        if number is not None and number < least:
            raise UsageError(f"{flag} {number}: pass at least {least}")
    if options.folds is not None and protocol.scheme == "monte-carlo" and not options.as_published:
        raise UsageError(f"{protocol.name} makes draws, not folds: pass --draws, or leave out --folds")
