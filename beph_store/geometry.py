"""Units and frames.

Positions are kept in one frame only: **level-0 px**, integers, top-left, x then y.
Physical scale is **mpp**, microns per pixel, always a float. Magnification is never
used to compute anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from beph_store.errors import MppImplausible, MppMissing, SlideError

Size = tuple[int, int]
"""(width, height) in px."""

#: The range in which a light-microscope pixel can lie, µm/px.
MPP_RANGE = (0.05, 20.0)
#: For those who give a magnification where a scale is meant.
MPP_HINT = "µm per px: 20x is about 0.5, 40x about 0.25"
#: Pixels whose sides differ by more than this share are refused, not squeezed.
ANISOTROPY_MAX = 0.01
#: Tiles may be enlarged by this share: scanners called 40x have 0.25 to 0.264 µm per px.
UPSAMPLING_MAX = 0.06


def check_mpp(mpp_x: float | None, mpp_y: float | None) -> tuple[float, float]:
    """Return level-0 (mpp_x, mpp_y) in µm/px, or say why they cannot be used.

    Raises MppMissing when either is absent, MppImplausible when outside ``MPP_RANGE``
    or when the two differ by more than ``ANISOTROPY_MAX``.
    """
    if not mpp_x or not mpp_y:
        raise MppMissing(
            "the file does not state its pixel size: pass --slide-mpp with the level-0 "
            "microns per pixel, or name it in the mpp column of --manifest"
        )
    for value in (mpp_x, mpp_y):
        if not MPP_RANGE[0] <= value <= MPP_RANGE[1]:
            raise MppImplausible(
                f"a pixel of {value:g} µm is outside {MPP_RANGE[0]}–{MPP_RANGE[1]} µm: pass the true "
                "level-0 value with --slide-mpp, or in the mpp column of --manifest"
            )
    if abs(mpp_x - mpp_y) / min(mpp_x, mpp_y) > ANISOTROPY_MAX:
        raise MppImplausible(
            f"pixels are not square ({mpp_x:g} × {mpp_y:g} µm): resample the slide, or pass --slide-mpp "
            "if the file is wrong"
        )
    return float(mpp_x), float(mpp_y)


def to_level0(px: float, mpp: float, mpp_l0: float) -> float:
    """Length in level-0 px of ``px`` pixels at ``mpp`` (both µm/px)."""
    return px * mpp / mpp_l0


def downsamples(level_sizes: Sequence[Size]) -> tuple[float, ...]:
    """Downsample of each level relative to level 0: mean of the two axes, as OpenSlide has it."""
    w0, h0 = level_sizes[0]
    return tuple((w0 / w + h0 / h) / 2 for w, h in level_sizes)


def level_for(downsample: float, level_sizes: Sequence[Size]) -> int:
    """The coarsest level that is not coarser than ``downsample``.

    Half a percent of tolerance absorbs levels whose size was rounded to whole pixels.
    """
    best = 0
    for level, have in enumerate(downsamples(level_sizes)):
        if have <= downsample * 1.005 and have >= downsamples(level_sizes)[best]:
            best = level
    return best


def check_scale(mpp: float, mpp_l0: float) -> None:
    """Raise SlideError where ``mpp`` is finer than level 0 by more than ``UPSAMPLING_MAX``."""
    if mpp * (1 + UPSAMPLING_MAX) < mpp_l0:
        raise SlideError(
            f"the slide has {mpp_l0:g} µm per px, coarser than the requested {mpp:g}: pass --mpp {mpp_l0:g} or "
            "coarser, with an encoder trained at that scale"
        )
