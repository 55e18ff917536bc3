"""Where the tissue is, from a small picture of the whole slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from beph_store.errors import UsageError
from beph_store.records import TissueMask

UInt8 = NDArray[np.uint8]
Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Lengths and areas are physical, in µm and µm²: the same on any overview.
SMOOTHING_UM = 8.0
HOLE_UM2 = 30_000.0
SPECK_UM2 = 12_000.0
INK_MARGIN_UM = 40.0

#: Bounds of the threshold on stain. Below, glass is noise; above, pale eosin would be lost.
STAIN_RANGE = (0.035, 0.06)
#: Darkness counts half, and from here on: an immunostain's blue and brown mix to grey, but so are
#: shadows and the edges of cover slips, which are fainter.
DARKNESS_WEIGHT = 0.5
DARKNESS_FROM = 0.05
#: Black is a brightest channel below this and no colour: a pen, a label, or outside the scan.
BLACK = 60

#: Pointwise work goes in bands of rows that stay in the processor's cache.
_BAND_ROWS = 32


def find_tissue(image: UInt8, mpp_x: float, mpp_y: float, method: str = "otsu-saturation") -> TissueMask:
    """Tissue in ``image`` (h, w, 3) uint8 RGB, a whole slide at ``mpp_x``, ``mpp_y`` µm per px.

    Meant for 4 to 16 µm per px. Raises UsageError for a method that is not in `METHODS`.
    """
    if method not in METHODS:
        raise UsageError(f"no tissue method {method!r}: have {', '.join(METHODS)}")
    return TissueMask(METHODS[method](image, (mpp_y, mpp_x)), mpp_x, mpp_y, method)


def everything(image: UInt8, mpp: tuple[float, float]) -> Mask:
    """The whole slide, glass and all."""
    return np.ones(image.shape[:2], np.bool_)


def otsu_saturation(image: UInt8, mpp: tuple[float, float]) -> Mask:
    """Where there is more stain than Otsu's threshold, within bounds; ink, specks and small holes cleared.

    ``mpp`` µm per px (y, x). Stains that are as pure as ink (the green and blue of trichromes, Alcian blue)
    are lost with it: `otsu_saturation_with_ink` keeps them.
    """
    return _by_stain(image, mpp, keep_ink=False)


def otsu_saturation_with_ink(image: UInt8, mpp: tuple[float, float]) -> Mask:
    """The same, but pen marks count as tissue; only what is black does not."""
    return _by_stain(image, mpp, keep_ink=True)


def _by_stain(image: UInt8, mpp: tuple[float, float], *, keep_ink: bool) -> Mask:
    glass = glass_colour(image)
    stain = np.empty(image.shape[:2], np.float32)
    unwanted = np.empty(image.shape[:2], np.bool_)
    for top in range(0, len(image), _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
        channels = [np.ascontiguousarray(image[band, :, c]) for c in range(3)]
        density = optical_density(channels, glass)
        stain[band] = stain_amount(density)
        unwanted[band] = black(channels) if keep_ink else black(channels) | ink(density)
    ndimage.gaussian_filter(stain, SMOOTHING_UM / np.asarray(mpp), output=stain, mode="nearest", truncate=3)
    mask = stain > np.clip(otsu_threshold(thinned(stain)), *STAIN_RANGE)
    mask &= ~near(unwanted, INK_MARGIN_UM, mpp)
    mask = without_specks(mask, SPECK_UM2 / (mpp[0] * mpp[1]))
    return ~without_specks(~mask, HOLE_UM2 / (mpp[0] * mpp[1]))


def glass_colour(image: UInt8) -> Float:
    """(3,) float32 RGB of the empty slide: the median of bright grey pixels, white if there are few.

    Pure white is left out: scanners fill with it what they did not scan.
    """
    sample = thinned(image)
    low, high = sample.min(axis=2), sample.max(axis=2)
    glass = (low > 200) & (high < 254) & (high - low < 16)
    if np.count_nonzero(glass) < 0.005 * glass.size:
        return np.full(3, 255, np.float32)
    colour: Float = np.median(sample[glass], axis=0).astype(np.float32)
    return colour


def thinned(image: NDArray[Any]) -> NDArray[Any]:
    """Every n-th row and column, n so that about 1,000 px are left of the longer side."""
    step = 1 + max(image.shape[:2]) // 1024
    return image[::step, ::step]


def optical_density(channels: Sequence[UInt8], glass: Float) -> list[Float]:
    """R, G and B, each (h, w) uint8 in, float32 out; natural logarithm, 0 on ``glass`` and above."""
    level = np.arange(1, 257, dtype=np.float32)
    tables = [np.maximum(np.log((max(float(light), 1) + 1) / level), 0).astype(np.float32) for light in glass]
    return [table[channel] for table, channel in zip(tables, channels, strict=True)]


def stain_amount(density: Sequence[Float]) -> Float:
    """(h, w) float32: the spread of the densities of R, G and B (a saturation), plus half the darkness."""
    red, green, blue = density
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    darkness = np.maximum((red + green + blue) / 3 - DARKNESS_FROM, 0)
    amount: Float = (high - low + DARKNESS_WEIGHT * darkness).astype(np.float32, copy=False)
    return amount


def otsu_threshold(values: Float, highest: float = 0.6, bins: int = 256) -> float:
    """The cut of the histogram over [0, ``highest``] that leaves the two sides most alike within."""
    steps = np.minimum(values * np.float32(bins / highest), bins - 1).astype(np.uint8)
    counts = np.bincount(steps.ravel(), minlength=bins)
    centres = (np.arange(bins) + 0.5) * highest / bins
    below, mass = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    spread = np.zeros(bins)
    both = (below > 0) & (above > 0)
    difference = mass[both] / below[both] - (mass[-1] - mass[both]) / above[both]
    spread[both] = below[both] * above[both] * difference**2
    best = spread >= spread.max() * (1 - 1e-9)  # every cut within a gap is as good: take its middle
    return float(centres[best].mean())


def black(channels: Sequence[UInt8]) -> Mask:
    """Black ink, labels, and what lies outside the scan. The darkest tissue is purple."""
    red, green, blue = channels
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    return (high < BLACK) & ((high < BLACK // 2) | (low > 0.6 * high))


def ink(density: Sequence[Float]) -> Mask:
    """Green, blue and red marker pens. Inks are purer than stains: they let one or two primaries through.

    Green and blue pens take most from red, far less from green. Haematoxylin takes from red and green
    alike. Red pens take green and blue alike and hardly any red; eosin takes half as much from blue as
    from green.
    """
    red, green, blue = density
    strong = np.maximum(np.maximum(red, green), blue) > 0.5
    if not strong.any():
        return strong
    greenish = (red > 1.3 * green) & (green < 1.1 * blue)
    bluish = (red > 1.5 * green) & (blue < 0.75 * green)
    reddish = (blue > 0.8 * green) & (np.minimum(green, blue) > 4 * red) & (green > 0.8)
    return strong & (greenish | bluish | reddish)


def near(mask: Mask, distance_um: float, mpp: tuple[float, float]) -> Mask:
    """Pixels within ``distance_um`` of a set one, along either axis."""
    if not mask.any():
        return mask
    size = [2 * round(distance_um / side) + 1 for side in mpp]
    # Separable: fifty times faster than a distance transform.
    wide: Mask = ndimage.maximum_filter(mask.view(np.uint8), size, mode="constant").view(np.bool_)
    return wide


def without_specks(mask: Mask, smallest_px: float) -> Mask:
    """``mask`` without its connected regions of fewer than ``smallest_px`` pixels."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    keep: Mask = sizes >= smallest_px
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


#: Ways to find tissue, by the name that a recipe carries. A change of meaning is a new name.
METHODS: dict[str, Callable[[UInt8, tuple[float, float]], Mask]] = {
    "otsu-saturation": otsu_saturation,
    "otsu-saturation-with-ink": otsu_saturation_with_ink,
    "none": everything,
}
