"""What each operation means, written to be read. The fast versions are tested against these."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]


def resize_area(image: UInt8, size: tuple[int, int]) -> UInt8:
    """``image`` (H, W, C) uint8 at ``size`` (width, height): (height, width, C) uint8.

    Output pixel (i, j) covers the rectangle [j·W/width, (j+1)·W/width) × [i·H/height, (i+1)·H/height)
    of the input. Its value is the mean of the input pixels weighted by the area of each that lies in
    there, a half rounded up. Exact: no filter, no float. Enlarging repeats pixels, mixed where an
    output pixel straddles two.

    Raises ValueError for an empty image or size, or another dtype or rank.
    """
    check_image(image)
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"the size must be at least 1 × 1, not {width} × {height}")
    rows, columns = coverage(image.shape[0], height), coverage(image.shape[1], width)
    total = np.einsum("jw,iwc->ijc", columns, np.einsum("ih,hwc->iwc", rows, image.astype(np.int64)))
    area = image.shape[0] * image.shape[1]  # of an output pixel, in units of 1/(height·width) input pixels
    mean: UInt8 = ((2 * total + area) // (2 * area)).astype(np.uint8)
    return mean


def coverage(n_in: int, n_out: int) -> NDArray[np.int64]:
    """(n_out, n_in) int64: how much of input cell k lies in output cell i, in units of 1/n_out input cells.

    On the common grid of n_in·n_out steps an input cell is n_out long, an output cell n_in long.
    """
    out, cell = np.arange(n_out)[:, None], np.arange(n_in)[None, :]
    overlap = np.minimum((out + 1) * n_in, (cell + 1) * n_out) - np.maximum(out * n_in, cell * n_out)
    lengths: NDArray[np.int64] = np.maximum(overlap, 0).astype(np.int64)
    return lengths


def reduce_area(image: UInt8, factor: int) -> UInt8:
    """``image`` (H, W, C) uint8 shrunk ``factor`` times: (⌈H/factor⌉, ⌈W/factor⌉, C) uint8.

    Each output pixel is the mean of its ``factor`` × ``factor`` block, a half rounded up; blocks that hang
    over the right or lower edge are the mean of what there is of them.
    """
    check_image(image)
    if factor < 1:
        raise ValueError(f"the factor must be at least 1, not {factor}")
    height, width = (-(-side // factor) for side in image.shape[:2])
    out = np.empty((height, width, image.shape[2]), np.uint8)
    for i in range(height):
        for j in range(width):
            block = image[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].astype(np.int64)
            n = block.shape[0] * block.shape[1]
            out[i, j] = (2 * block.sum(axis=(0, 1)) + n) // (2 * n)
    return out


def tissue_fraction(mask: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Share (N,) float32, 0–1, of each box that is set in ``mask`` (h, w) bool.

    ``boxes`` (N, 4) float64: left, top, right, bottom in mask px, fractional. What lies outside the
    mask counts as not set; a box without area has share 0.
    """
    out = np.zeros(len(boxes), np.float32)
    for n, (left, top, right, bottom) in enumerate(boxes):
        along = _lengths(left, right, mask.shape[1])
        down = _lengths(top, bottom, mask.shape[0])
        area = (right - left) * (bottom - top)
        if area > 0:
            out[n] = float((mask * down[:, None] * along[None, :]).sum() / area)
    return out


def _lengths(low: float, high: float, n: int) -> NDArray[np.float64]:
    cell = np.arange(n)
    lengths: NDArray[np.float64] = np.maximum(np.minimum(cell + 1, high) - np.maximum(cell, low), 0.0)
    return lengths


def check_image(image: UInt8) -> None:
    """Raise ValueError unless ``image`` is (H, W, C) uint8 and not empty."""
    if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected a non-empty (H, W, C) uint8 image, not {image.dtype} {image.shape}")
