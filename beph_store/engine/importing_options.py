"""What an import of other tools' features may be told, and what it tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from beph_store.errors import UsageError
from beph_store.geometry import MPP_RANGE
from beph_store.records import SlideOutcome

#: What a recipe says where nobody has said which weights made the vectors.
UNSTATED = "not stated"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What the files do not say; a value given here goes before one that they state.

    ``encoder_name`` what made the vectors, ``weights_sha256`` the SHA-256 of its weights; ``mpp`` µm per px of the
    tiles, ``tile_px`` their side and ``stride_px`` the step of the grid in such px, ``footprint_l0`` the side in
    level-0 px; ``mpp_l0`` µm per level-0 px of these slides. ``slides`` a folder with the slides themselves,
    ``manifest`` a CSV with slide_id and any of mpp, case_id. ``coords`` a folder of coordinates. ``only_encoder`` and
    ``only_group`` choose among several sets of features. ``sidecar`` False imports an export of ours like anybody's.
    """

    encoder_name: str | None = None
    weights_sha256: str | None = None
    mpp: float | None = None
    tile_px: int | None = None
    stride_px: int | None = None
    footprint_l0: int | None = None
    mpp_l0: float | None = None
    slides: Path | None = None
    manifest: Path | None = None
    coords: Path | None = None
    only_encoder: str | None = None
    only_group: str | None = None
    replace: bool = False
    sidecar: bool = True

    def __post_init__(self) -> None:
        if self.weights_sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.weights_sha256):
            raise UsageError("--weights-sha256 takes 64 hex digits, as `sha256sum` prints them")
        low, high = MPP_RANGE
        for flag, value in (("--mpp", self.mpp), ("--mpp-l0", self.mpp_l0)):
            if value is not None and not low <= value <= high:
                raise UsageError(f"{flag} {value:g}: a pixel of a slide measures {low} to {high} µm")
        for flag, side in (
            ("--tile-px", self.tile_px),
            ("--stride-px", self.stride_px),
            ("--footprint-l0", self.footprint_l0),
        ):
            if side is not None and side < 1:
                raise UsageError(f"{flag} {side}: at least 1 px")


@dataclass(frozen=True, slots=True)
class ImportReport:
    """One outcome a slide; ``recipe`` the feature space that they make, ``recipes`` all where there are several.

    ``largest_rounding`` is the greatest difference that storing as float16 made to a value, ``nbytes`` the size of the
    files that were read; ``notes`` say what was not stated, and what was done then.
    """

    recipe: str
    dim: int
    slides: tuple[SlideOutcome, ...]
    recipes: tuple[str, ...] = ()
    tiles: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    largest_rounding: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[SlideOutcome, ...]:
        """The rows that were refused."""
        return tuple(outcome for outcome in self.slides if outcome.status == "failed")
