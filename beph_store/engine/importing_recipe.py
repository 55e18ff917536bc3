"""From what a file states and what the user says to what a store needs: the recipe, the slide, its tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.imported import FEATURES_ONLY, IMPORTED_FROM, WITHOUT_PLACES, WITHOUT_SLIDE
from beph_store.engine.importing_options import UNSTATED, ImportOptions
from beph_store.engine.importing_slides import SlideAtHand
from beph_store.errors import SlideError, UsageError, VectorInvalid
from beph_store.geometry import Size, check_mpp
from beph_store.halves import narrowed, widened
from beph_store.interop import Format, SlideFeatures
from beph_store.records import (
    EncoderSpec,
    MppSource,
    Rasters,
    Recipe,
    SlideInfo,
    TileSet,
    TileSpec,
    TissueMask,
)
from beph_store.store.vectors import row_peaks

#: Scanners that are called by one magnification differ by up to 12 %; the next magnification by 100 %.
_SCALE_TOLERANCE = 0.15
#: Longest side of the blank picture that stands where a thumbnail would, and of the mask of tiles.
_BLANK_PX = 512
#: A step of the grid counts as seen if so many neighbours, and such a share of all, have it.
_STEPS_MIN, _STEPS_SHARE = 16, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Resolved:
    """A slide ready to be stored. ``vectors`` (N, D) float16; ``rounding`` the greatest change that float16 made."""

    recipe: Recipe
    info: SlideInfo
    tiles: TileSet
    vectors: NDArray[np.float16]
    rasters: Rasters
    rounding: float
    case_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Scale:
    """``tile_px`` px at ``mpp`` are ``footprint`` level-0 px; ``mpp_l0`` of level 0 and who says so."""

    tile_px: int
    mpp: float
    footprint: int
    mpp_x: float
    mpp_y: float
    source: MppSource


def resolve(
    kind: Format,
    slide: SlideFeatures,
    half: tuple[NDArray[np.float16], float],
    options: ImportOptions,
    hand: SlideAtHand,
    fingerprint: str,
) -> Resolved:
    """What is to be stored of ``slide``. SlideError for what this slide lacks, UsageError for what all of them do.

    ``half`` is `half_of` the slide; ``fingerprint`` of its files stands for the slide's where that is not at hand.
    """
    encoder = options.encoder_name or slide.encoder
    if not encoder:
        raise UsageError(f"{kind.title} files do not name the encoder: pass --encoder-name")
    vectors, rounding = half
    placed = slide.origin_l0 is not None or slide.coords_um is not None
    scale = _scale(kind, slide, options, hand) if placed else _nowhere(options)
    origin = _origin(slide, scale)
    spec = _tile_spec(kind, slide, options, scale, placed=placed)
    if placed and options.stride_px is None:
        _check_step(slide.slide_id, origin, spec, scale)
    size = _size(slide, origin, scale.footprint, hand)
    tissue = np.full(len(vectors), np.nan, np.float32) if slide.tissue is None else slide.tissue
    info = SlideInfo(
        hand.slide_id,
        str(hand.path) if hand.path else f"{FEATURES_ONLY}{slide.path.absolute()}",
        size,
        scale.mpp_x,
        scale.mpp_y,
        scale.source,
        (size,) if hand.info is None else hand.info.level_sizes,
        fingerprint if hand.info is None else hand.info.fingerprint,
    )
    tiles = TileSet(hand.slide_id, spec, origin, scale.footprint, np.asarray(tissue, np.float32))
    rasters = hand.rasters() or blank(tiles, size, (scale.mpp_x, scale.mpp_y))
    recipe = Recipe(spec, _encoder(kind, encoder, options, spec, slide.dim))
    return Resolved(recipe, info, tiles, vectors, rasters, rounding, hand.case_id)


def _encoder(kind: Format, name: str, options: ImportOptions, spec: TileSpec, dim: int) -> EncoderSpec:
    """What is known of an encoder that was never here; the fields that a file cannot fill say so."""
    return EncoderSpec(
        name=name,
        variant=f"{IMPORTED_FROM}{kind.title}",
        weights_sha256=options.weights_sha256 or UNSTATED,
        tile_px=spec.tile_px,
        mpp=spec.mpp,
        dim=dim,
        pooling=UNSTATED,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        precision=UNSTATED,
        licence=UNSTATED,
    )


def _tile_spec(
    kind: Format, slide: SlideFeatures, options: ImportOptions, scale: _Scale, *, placed: bool
) -> TileSpec:
    method = f"{IMPORTED_FROM}{kind.title}" + (
        f": {slide.group}" if kind.name == "slide2vec" and slide.group else ""
    )
    return TileSpec(
        tile_px=scale.tile_px,
        mpp=scale.mpp,
        stride_px=options.stride_px or _stated_step(slide, scale) or scale.tile_px,
        tissue_min=slide.tissue_min or 0.0,
        tissue_method=method if placed else method + WITHOUT_PLACES,
    )


def _stated_step(slide: SlideFeatures, scale: _Scale) -> int | None:
    """The step that the file states, in px of the tiles as they are recorded: ``--tile-px`` may say another side."""
    if slide.stride_px is None or not slide.tile_px:
        return slide.stride_px
    return max(1, round(slide.stride_px * scale.tile_px / slide.tile_px))


def _nowhere(options: ImportOptions) -> _Scale:
    """Of vectors without places: tiles of one px, all in the corner of a slide of one."""
    if options.mpp is None:
        raise UsageError("these files do not state the scale of the tiles: pass --mpp, their µm per px")
    return _Scale(options.tile_px or 1, options.mpp, 1, options.mpp, options.mpp, "declared")


def _scale(kind: Format, slide: SlideFeatures, options: ImportOptions, hand: SlideAtHand) -> _Scale:
    mpp = options.mpp or slide.mpp
    if mpp is None:
        raise UsageError(
            f"{kind.title} files do not state the scale of the tiles: pass --mpp, their µm per px (0.5 for 20x)"
        )
    tile_px = options.tile_px or slide.tile_px
    if tile_px is None:
        raise SlideError("the side of its tiles is not stated: pass --tile-px", slide_id=slide.slide_id)
    footprint = options.footprint_l0 or slide.footprint_l0
    told = _level0(slide, options, hand)
    if footprint is None and told is None:
        in_um = slide.coords_um is not None
        what = "its coordinates are in µm" if in_um else "its scale at level 0 is not stated"
        need = "--mpp-l0 or --slides" if in_um else "--footprint-l0, --mpp-l0 or --slides"
        raise SlideError(f"{what}: pass {need}", slide_id=slide.slide_id)
    derived = mpp * tile_px / (footprint or 1)
    x, y, source = told or (*check_mpp(derived, derived), "declared")
    footprint = footprint or max(1, round(tile_px * mpp / ((x + y) / 2)))
    seen = footprint * (x + y) / 2 / tile_px
    if abs(seen - mpp) > _SCALE_TOLERANCE * mpp:
        raise SlideError(
            f"its tiles of {tile_px} px are {footprint} px of a level 0 of {x:g} µm: {seen:.3g} µm per px, not "
            f"{mpp:g}: pass the true --mpp, or the true --mpp-l0",
            slide_id=slide.slide_id,
        )
    return _Scale(tile_px, mpp, footprint, x, y, source)


def _level0(
    slide: SlideFeatures, options: ImportOptions, hand: SlideAtHand
) -> tuple[float, float, MppSource] | None:
    """(x, y, who says so) µm per level-0 px: the manifest, then the command, the slide, the file of features."""
    if hand.mpp is not None:
        return (*check_mpp(hand.mpp, hand.mpp), "manifest")
    if options.mpp_l0 is not None:
        return options.mpp_l0, options.mpp_l0, "declared"
    if hand.info is not None:
        return hand.info.mpp_x, hand.info.mpp_y, hand.info.mpp_source
    return (*check_mpp(slide.mpp_l0, slide.mpp_l0), "declared") if slide.mpp_l0 is not None else None


def _origin(slide: SlideFeatures, scale: _Scale) -> NDArray[np.int32]:
    if slide.origin_l0 is not None:
        return slide.origin_l0
    if slide.coords_um is None:
        return np.zeros((len(slide), 2), np.int32)
    px = np.rint(slide.coords_um.astype(np.float64) / (scale.mpp_x, scale.mpp_y))
    return px.astype(np.int32)


def _size(slide: SlideFeatures, origin: NDArray[np.int32], footprint: int, hand: SlideAtHand) -> Size:
    """Of the slide, of the file's word for it, or else how far its tiles reach."""
    stated = slide.size_l0 if hand.info is None else hand.info.size_l0
    if hand.info is not None and slide.size_l0 not in (None, stated):
        raise SlideError(
            f"its features are of a slide of {_by(slide.size_l0)} px, {hand.info.path} has {_by(stated)}",
            slide_id=slide.slide_id,
        )
    reach = origin.max(axis=0) if len(origin) else np.zeros(2, np.int32)
    if stated is None:
        return int(reach[0]) + footprint, int(reach[1]) + footprint
    if (reach >= stated).any() and len(origin):
        raise SlideError(
            f"a tile lies at {tuple(reach.tolist())}, beyond the slide of {_by(stated)} px: it is another slide, or "
            "its coordinates are of another level",
            slide_id=slide.slide_id,
        )
    return stated


def _by(size: Size | None) -> str:
    return "unknown" if size is None else f"{size[0]} × {size[1]}"


def _check_step(slide_id: str, origin: NDArray[np.int32], spec: TileSpec, scale: _Scale) -> None:
    """Refuse a step of the grid that the coordinates contradict: a recipe must not say what is not so."""
    want = spec.stride_px * scale.footprint / spec.tile_px
    seen = grid_step(origin)
    if seen is not None and abs(seen - want) > 1 + 0.01 * want:
        px = max(1, round(seen * spec.tile_px / scale.footprint))
        raise SlideError(
            f"its tiles lie {seen} level-0 px apart, not {want:g}: pass --stride-px {px} (or, to insist, "
            f"{spec.stride_px})",
            slide_id=slide_id,
        )


def grid_step(origin: NDArray[np.int32]) -> int | None:
    """The smallest distance, in level-0 px, at which tiles of one row have neighbours; None where too few have any."""
    if len(origin) < 2:
        return None
    order = np.lexsort((origin[:, 0], origin[:, 1]))
    step, row = np.diff(origin[order, 0]), np.diff(origin[order, 1])
    values, counts = np.unique(step[(row == 0) & (step > 0)], return_counts=True)
    often = counts >= max(_STEPS_MIN, _STEPS_SHARE * counts.sum()) if len(counts) else counts.astype(bool)
    return int(values[often][0]) if often.any() else None


def half_of(slide: SlideFeatures) -> tuple[NDArray[np.float16], float]:
    """(float16, greatest change), or VectorInvalid that says how many vectors cannot be kept, and why."""
    if slide.vectors.dtype == np.float16:
        half, change = np.ascontiguousarray(slide.vectors, np.float16), 0.0
    else:
        half, change = _rounded(slide.vectors)
    peaks = row_peaks(half)
    bad, zero = int((peaks >= 0x7C00).sum()), int((peaks == 0).sum())
    if bad:
        nan = int(np.isnan(slide.vectors).any(axis=1).sum())
        why = (
            f"{nan} hold a NaN"
            if nan
            else "they hold a value that is infinite or beyond 65504, float16's largest"
        )
        raise VectorInvalid(
            f"{bad} of {len(half)} vectors cannot be stored, {why}: extract the slide again",
            slide_id=slide.slide_id,
        )
    if zero and half.shape[1]:
        raise VectorInvalid(
            f"{zero} of {len(half)} vectors are all zero: extract the slide again", slide_id=slide.slide_id
        )
    return half, change


def _rounded(vectors: NDArray[Any]) -> tuple[NDArray[np.float16], float]:
    """(float16, greatest change, 0 where that is no number), in pieces that stay in the processor's cache."""
    half, worst = np.empty(vectors.shape, np.float16), 0.0
    rows = max(1, (1 << 16) // max(1, vectors.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(half), rows):
            part, into = vectors[start : start + rows], half[start : start + rows]
            change = part - widened(narrowed(part, out=into))
            worst = max(worst, float(change.max(initial=0.0)), -float(change.min(initial=0.0)))
    return half, worst if np.isfinite(worst) else 0.0


def blank(tiles: TileSet, size_l0: Size, mpp_l0: tuple[float, float]) -> Rasters:
    """What stands for a slide that is not at hand: a white picture of its shape, and as tissue where tiles lie."""
    scale = min(1.0, _BLANK_PX / max(size_l0))
    w, h = (max(1, round(side * scale)) for side in size_l0)
    low = np.floor(tiles.origin_l0 * (w / size_l0[0], h / size_l0[1])).astype(np.int64)
    high = np.ceil((tiles.origin_l0 + tiles.footprint_l0) * (w / size_l0[0], h / size_l0[1])).astype(np.int64)
    mask = _covered(np.clip(low, 0, (w, h)), np.clip(high, 0, (w, h)), (h, w))
    tissue = TissueMask(mask, mpp_l0[0] * size_l0[0] / w, mpp_l0[1] * size_l0[1] / h, WITHOUT_SLIDE)
    return Rasters(np.full((h, w, 3), 255, np.uint8), tissue)


def _covered(low: NDArray[np.int64], high: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """``shape`` (h, w) bool: what the rectangles from ``low`` up to ``high``, (N, 2) as (x, y) within it, cover.

    By sums over their corners: painting them one by one took longer than the rest of an import.
    """
    count = np.zeros((shape[0] + 1, shape[1] + 1), np.int32)
    for x, y, sign in ((low, low, 1), (high, low, -1), (low, high, -1), (high, high, 1)):
        np.add.at(count, (y[:, 1], x[:, 0]), sign)
    np.cumsum(count, axis=0, out=count)
    np.cumsum(count, axis=1, out=count)
    covered: NDArray[np.bool_] = count[:-1, :-1] > 0
    return covered
