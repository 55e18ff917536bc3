"""What each operation means, written to be read. The fast versions are tested against these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def resize_area_batch(images: UInt8, size: tuple[int, int]) -> UInt8:
    """`resize_area` of each of (B, H, W, C) uint8, B at least 1: (B, height, width, C) uint8."""
    check_images(images)
    return np.stack([resize_area(image, size) for image in images])


def patchify(
    tiles: UInt8, patch: int, mean: Sequence[float], std: Sequence[float], *, half: bool = False
) -> NDArray[Any]:
    """Tiles (B, H, W, 3) uint8 as a ViT's patches, normalised: (B, N, 3·P·P) float32, or float16 with ``half``.

    N = H/P · W/P patches of P = ``patch`` px, row by row; a patch's values in the order channel, row, column:
    that of a patch-embedding convolution's weight (D, 3, P, P) flattened to (D, 3·P·P), so the embedding is one
    matrix product. ``mean`` and ``std`` are of each channel, on the scale 0–255; (x − mean) / std is float32
    arithmetic. Raises ValueError for another dtype or rank, or sides that are not multiples of P.
    """
    rows, columns = patch_grid(tiles, patch)
    x = (tiles.astype(np.float32) - np.array(mean, np.float32)) / np.array(std, np.float32)
    cut = x.reshape(len(tiles), rows, patch, columns, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    flat = cut.reshape(len(tiles), rows * columns, 3 * patch * patch)
    return flat.astype(np.float16 if half else np.float32)


def attention_pool(
    scores: NDArray[np.floating], values: NDArray[np.floating], offsets: NDArray[np.int64]
) -> NDArray[np.floating]:
    """Attention over ragged bags: (B, A, D), the mean of each bag's values under the softmax of its scores.

    ``scores`` (T, A) finite, one column a head; ``values`` (T, D); bag b is rows ``offsets[b]`` up to
    ``offsets[b + 1]`` of both, ``offsets`` (B + 1,) int64 from 0 to T. An empty bag has 0. Computed in float64,
    returned as float64 where both inputs are, else as float32. Raises ValueError where the shapes do not fit.
    """
    check_bags(scores, values, offsets)
    out = np.zeros((len(offsets) - 1, scores.shape[1], values.shape[1]))
    for bag in np.flatnonzero(np.diff(offsets)):
        part = slice(offsets[bag], offsets[bag + 1])
        out[bag] = softmax(scores[part]).T @ values[part].astype(np.float64)
    return out.astype(_pooled_dtype(scores, values))


def attention_pool_grad(
    scores: NDArray[np.floating],
    values: NDArray[np.floating],
    offsets: NDArray[np.int64],
    slope: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """What `attention_pool` sends back: the gradients (T, A) of scores and (T, D) of values, float64.

    ``slope`` (B, A, D) is the gradient of a number by each pooled value. With w the softmax and p the pooled values,
    that of a value is Σ_a w·slope, and that of a score w·Σ_d (value − p)·slope.
    """
    check_bags(scores, values, offsets)
    to_scores, to_values = np.zeros(scores.shape), np.zeros(values.shape)
    for bag in np.flatnonzero(np.diff(offsets)):
        part = slice(offsets[bag], offsets[bag + 1])
        weights, value = softmax(scores[part]), values[part].astype(np.float64)
        lean = value @ slope[bag].T.astype(np.float64)
        to_scores[part] = weights * (lean - (weights * lean).sum(axis=0))
        to_values[part] = weights @ slope[bag]
    return to_scores, to_values


def top_k_dot(
    queries: NDArray[np.floating],
    rows: NDArray[np.float16],
    k: int,
    mask: NDArray[np.bool_] | None = None,
    scale: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` rows with the largest dot product with each query: values (Q, k) float32 and row numbers (Q, k).

    ``queries`` (Q, D) float16 or float32; ``rows`` (N, D) float16; ``mask`` (N,) bool, the rows that count;
    ``scale`` (N,) float32 multiplies each row's product (1 / length makes cosines of it). Best first, equal values in
    order of row number. Where fewer than k rows count, the rest has row −1 and value −inf; rows whose product
    is NaN are never found. Products here are float64 rounded to float32; other implementations add up in
    float32, so rows nearly alike may change places. Raises ValueError where the shapes do not fit or k < 1.
    """
    check_rows(queries, rows, k, mask, scale)
    with np.errstate(invalid="ignore", over="ignore"):
        dots = (queries.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
        dots = dots if scale is None else dots * scale
    dots[np.isnan(dots)] = -np.inf
    if mask is not None:
        dots[:, ~mask] = -np.inf
    values = np.full((len(queries), k), -np.inf, np.float32)
    index = np.full((len(queries), k), -1, np.int64)
    for query, dot in enumerate(dots):
        order = np.argsort(-dot, kind="stable")[:k]
        order = order[dot[order] > -np.inf]
        values[query, : len(order)], index[query, : len(order)] = dot[order], order
    return values, index


def softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Weights (n, A) float64 of one bag, n at least 1; each column adds up to 1."""
    wide = scores.astype(np.float64)
    weights = np.exp(wide - wide.max(axis=0))
    shares: NDArray[np.float64] = weights / weights.sum(axis=0)
    return shares


def _pooled_dtype(scores: NDArray[np.floating], values: NDArray[np.floating]) -> type[np.floating]:
    return np.float64 if scores.dtype == values.dtype == np.float64 else np.float32


# The checks look at shapes alone, so they serve tensors too, and wait for no GPU.


def check_images(images: Any) -> None:
    """Raise ValueError unless ``images`` is (B, H, W, C) of one byte a value, and not empty."""
    if images.ndim != 4 or str(images.dtype).removeprefix("torch.") != "uint8" or 0 in images.shape:
        shape = tuple(images.shape)
        raise ValueError(f"expected non-empty (B, H, W, C) uint8 images, not {images.dtype} {shape}")


def patch_grid(tiles: Any, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in a tile; ValueError where `patchify` cannot cut ``tiles``."""
    check_images(tiles)
    height, width, channels = tiles.shape[1:]
    if channels != 3 or patch < 1 or height % patch or width % patch:
        raise ValueError(
            f"tiles of {width} × {height} px and {channels} channels do not divide into RGB patches of {patch} px"
        )
    return height // patch, width // patch


def check_bags(scores: Any, values: Any, offsets: Any) -> None:
    """Raise ValueError unless scores (T, A), values (T, D) and offsets (B + 1,) fit together."""
    shapes = [tuple(x.shape) for x in (scores, values, offsets)]
    if [len(shape) for shape in shapes] != [2, 2, 1] or shapes[0][0] != shapes[1][0] or shapes[2][0] < 1:
        raise ValueError(
            "expected scores (T, A), values (T, D) and offsets (B + 1,), not " + ", ".join(map(str, shapes))
        )


def check_rows(queries: Any, rows: Any, k: int, mask: Any, scale: Any) -> None:
    """Raise ValueError unless the arrays of `top_k_dot` fit together."""
    if k < 1:
        raise ValueError(f"k = {k}: ask for at least 1 row")
    if queries.ndim != 2 or rows.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise ValueError(
            f"expected queries (Q, D) and rows (N, D), not {tuple(queries.shape)}, {tuple(rows.shape)}"
        )
    if str(rows.dtype).removeprefix("torch.") != "float16":
        raise ValueError(f"rows are {rows.dtype}, expected float16")
    for name, extra in (("mask", mask), ("scale", scale)):
        if extra is not None and tuple(extra.shape) != (len(rows),):
            raise ValueError(f"{name} has shape {tuple(extra.shape)}, there are {len(rows)} rows")
