"""The same operations in few passes of NumPy; bit-identical to `reference` where that is exact.

No matrix products: BLAS would start threads inside reader processes that already have a core each.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store_kernels import reference
from beph_store_kernels.reference import UInt8, check_image, check_images

#: Up to this many pixels twice the sum of 255s and its rounding fit a uint32.
_UINT32_AREA = (2**32 - 1) // (2 * 255 + 1)
#: Shrinking goes in bands whose sums are about this large, and stay in the second-level cache.
_BAND_BYTES = 1 << 18


def resize_area(image: UInt8, size: tuple[int, int]) -> UInt8:
    """See `reference.resize_area`."""
    check_image(image)
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"the size must be at least 1 × 1, not {width} × {height}")
    n_rows, n_columns, channels = image.shape
    if (n_columns, n_rows) == (width, height):
        return image.copy()
    if n_rows % height == 0 and n_columns % width == 0 and n_rows // height == n_columns // width:
        return reduce_area(image, n_rows // height)
    down, tall = _weights(n_rows, height, 1)
    across, wide = _weights(n_columns, width, channels)
    if tall * wide > _UINT32_AREA:
        return reference.resize_area(image, size)
    rows = down @ image.reshape(n_rows, -1).astype(np.int32)
    total = across @ np.ascontiguousarray(rows.T)
    mean = _mean(total.view(np.uint32), tall * wide)
    return np.ascontiguousarray(mean.T).reshape(height, width, channels)


def resize_area_batch(images: UInt8, size: tuple[int, int]) -> UInt8:
    """See `reference.resize_area_batch`."""
    check_images(images)
    return np.stack([resize_area(image, size) for image in images])


@lru_cache(maxsize=64)
def _weights(n_in: int, n_out: int, repeat: int) -> tuple[Any, int]:
    """`reference.coverage` in lowest terms, as a sparse int32 matrix, and the sum of each of its rows.

    ``repeat`` interleaved channels each get the same weights. Sparse products of integers are plain loops
    over the few input cells that an output cell touches.
    """
    from scipy import sparse  # a tenth of a second, and only slides of an odd scale need it

    common = math.gcd(n_in, n_out)
    weights = sparse.csr_array((reference.coverage(n_in, n_out) // common).astype(np.int32))
    channels = sparse.identity(repeat, np.int32, format="csr")
    return sparse.csr_array(sparse.kron(weights, channels, format="csr")), n_in // common


def reduce_area(image: UInt8, factor: int) -> UInt8:
    """See `reference.reduce_area`."""
    check_image(image)
    if factor < 1:
        raise ValueError(f"the factor must be at least 1, not {factor}")
    if factor == 1:
        return image.copy()
    if factor * factor > _UINT32_AREA:
        return reference.reduce_area(image, factor)
    dtype = np.uint16 if factor <= 11 else np.uint32  # 11² · (2 · 255 + 1) < 2¹⁶
    height, width = (-(-side // factor) for side in image.shape[:2])
    out = np.empty((height, width, image.shape[2]), np.uint8)
    step = max(1, _BAND_BYTES // (4 * image.shape[1] * image.shape[2]))
    for top in range(0, height, step):
        rows = _run_sums(image[top * factor : (top + step) * factor], factor, dtype)
        for channel in range(image.shape[2]):
            columns = _run_sums(rows[:, :, channel].T, factor, dtype).T
            _block_means(columns, out[top : top + step, :, channel], image.shape, top, factor)
    return out


def _run_sums(
    image: NDArray[np.unsignedinteger], factor: int, dtype: type[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    """Sums of runs of ``factor`` along the first axis, the last run as long as there is left."""
    whole = image.shape[0] // factor * factor
    total = image[0:whole:factor].astype(dtype)
    for k in range(1, factor):
        np.add(total, image[k:whole:factor], out=total)
    if whole < image.shape[0]:
        total = np.concatenate([total, image[whole:].sum(axis=0, dtype=dtype, keepdims=True)])
    return total


def _block_means(
    total: NDArray[np.unsignedinteger], out: UInt8, shape: tuple[int, ...], top: int, factor: int
) -> None:
    """Divide block sums (b, width) by what each block has of the image; the last ones may hang over."""
    inner_y, tall = shape[0] // factor - top, shape[0] % factor
    inner_x, wide = shape[1] // factor, shape[1] % factor
    inner_y = min(inner_y, len(total))
    for rows, n_y in ((slice(0, inner_y), factor), (slice(inner_y, None), tall)):
        for columns, n_x in ((slice(0, inner_x), factor), (slice(inner_x, None), wide)):
            if n_y and n_x:
                out[rows, columns] = _mean(total[rows, columns], n_y * n_x)


def _mean(total: NDArray[np.unsignedinteger], n: int) -> UInt8:
    """``total`` / n with a half rounded up; n and 2·total must fit the dtype."""
    kind = total.dtype.type
    if n & (n - 1) == 0:
        mean: UInt8 = ((total + kind(n // 2)) >> kind(n.bit_length() - 1)).astype(np.uint8)
    else:
        mean = ((total * kind(2) + kind(n)) // kind(2 * n)).astype(np.uint8)
    return mean


def tissue_fraction(mask: NDArray[np.bool_], boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """See `reference.tissue_fraction`. An integral image, read at fractional positions.

    The integral of a piecewise constant image is bilinear between whole positions, so this is exact.
    """
    if len(boxes) == 0:
        return np.zeros(0, np.float32)
    integral = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=integral[1:, 1:])
    left, top, right, bottom = np.asarray(boxes, np.float64).T
    covered = _at(integral, right, bottom) - _at(integral, left, bottom)
    covered -= _at(integral, right, top) - _at(integral, left, top)
    area = (right - left) * (bottom - top)
    share = np.divide(covered, area, out=np.zeros_like(covered), where=area > 0)
    clipped: NDArray[np.float32] = np.clip(share, 0.0, 1.0).astype(np.float32)
    return clipped


def _at(integral: NDArray[np.int64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    h, w = integral.shape[0] - 1, integral.shape[1] - 1
    x, y = np.clip(x, 0, w), np.clip(y, 0, h)
    column, row = np.minimum(x.astype(int), w - 1), np.minimum(y.astype(int), h - 1)
    fx, fy = x - column, y - row
    upper = integral[row, column] * (1 - fx) + integral[row, column + 1] * fx
    lower = integral[row + 1, column] * (1 - fx) + integral[row + 1, column + 1] * fx
    result: NDArray[np.float64] = upper * (1 - fy) + lower * fy
    return result
