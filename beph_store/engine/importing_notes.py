"""What an import says beside its figures: what was not stated, not used, or does not fit what is known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from beph_store.encoders import ENCODERS
from beph_store.engine.imported import has_places
from beph_store.engine.importing_options import UNSTATED, ImportOptions
from beph_store.records import Recipe

#: Names that other tools have for encoders of our table, in `_plain` spelling.
_ALSO = {
    "univ1": "uni",
    "univ2": "uni2-h",
    "uni2": "uni2-h",
    "gigapath": "prov-gigapath",
    "phikonv1": "phikon",
}
#: Options that say what the files of an export of ours know better.
_OVERRULED = (
    "encoder_name",
    "weights_sha256",
    "mpp",
    "tile_px",
    "stride_px",
    "footprint_l0",
    "mpp_l0",
    "slides",
    "manifest",
)


def notes_of(
    used: Sequence[Recipe], options: ImportOptions, tally: Mapping[str, int], rounding: float
) -> Iterator[str]:
    """A line each. ``tally`` counts slides ``restored`` from an export of ours and ``blank`` ones; ``rounding`` is the
    greatest change to a value.
    """
    if tally["restored"]:
        yield (
            f"{tally['restored']} slides came from an export of beph-store, and are what they were there"
            + _unused(options)
        )
    if rounding:
        yield f"vectors are kept as float16: that changed a value by {rounding:.3g} at most"
    for recipe in used:
        yield from _misnamed(recipe)
    if not all(has_places(recipe) for recipe in used):
        yield (
            "these files do not say where the tiles lie: no heatmap, and search tells the slides only; import them "
            "into a new store with --coords, the folder of the coordinates, to have both"
        )
    if tally["blank"]:
        yield f"{tally['blank']} slides have no thumbnail and no zoom: --slides takes them from the slides"
    if any(recipe.encoder.weights_sha256 == UNSTATED for recipe in used):
        yield "which weights made the vectors is not recorded: --weights-sha256 records it"


def _unused(options: ImportOptions) -> str:
    given = [f"--{name.replace('_', '-')}" for name in _OVERRULED if getattr(options, name) is not None]
    if not given:
        return ""
    return f": {', '.join(given)} had no say; --no-sidecar imports the files as those say"


def _misnamed(recipe: Recipe) -> Iterator[str]:
    """Whether an encoder of that name is known, and its vectors are of another length."""
    name, dim = recipe.encoder.name, recipe.encoder.dim
    plain = _plain(name)
    entry = ENCODERS.get(_ALSO.get(plain, "")) or next(
        (one for known, one in ENCODERS.items() if _plain(known) == plain), None
    )
    dims = sorted({variant.dim for variant in entry.variants}) if entry else []
    if dims and dim not in dims:
        listed = " or ".join(f"{one:,}" for one in dims)
        yield (
            f"{name} gives {listed} values a tile, these vectors have {dim:,}: if another encoder made them, import "
            "them into a new store with its --encoder-name"
        )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
