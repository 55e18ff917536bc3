"""Kernels on uint8 images: each program writes one block of one image's output, flat, so that stores join."""

# Triton's decorators and its language have no types, and a kernel takes what it works on as arguments.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from beph_store_kernels.reference import check_images, patch_grid
from beph_store_kernels.torch_ops import exact_sums, reach
from beph_store_kernels.triton_ops.launch import configs, on_device

_BLOCKS = configs(({"BLOCK": 1024}, 4), ({"BLOCK": 512}, 4), ({"BLOCK": 2048}, 8))


def patchify(
    tiles: Tensor, patch: int, mean: Sequence[float], std: Sequence[float], *, half: bool = False
) -> Tensor:
    """Patches (B, N, 3·P·P), float32 or float16, to the last bit those of `reference.patchify`."""
    rows, columns = patch_grid(tiles, patch)
    tiles, (height, width) = tiles.contiguous(), tiles.shape[1:3]
    shape = (len(tiles), rows * columns, 3 * patch * patch)
    out = torch.empty(shape, dtype=torch.float16 if half else torch.float32, device=tiles.device)
    one = height * width * 3
    _check_size(one)
    with on_device(tiles):
        _patchify[lambda meta: (len(tiles) * triton.cdiv(one, meta["BLOCK"]),)](
            tiles, out, *map(float, mean), *map(float, std), PATCH=patch, HEIGHT=height, WIDTH=width
        )
    return out


def resize_area_batch(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, height, width, C) uint8 of (B, H, W, C) at ``size`` (width, height), to the last bit the reference's."""
    check_images(images)
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"the size must be at least 1 × 1, not {width} × {height}")
    images, (batch, n_rows, n_columns, channels) = images.contiguous(), images.shape
    out = torch.empty((batch, height, width, channels), dtype=torch.uint8, device=images.device)
    tall, wide = exact_sums(n_rows, height), exact_sums(n_columns, width)
    long = 511 * tall * wide >= 2**31 or max((tall + 4) * (height + 4), (wide + 4) * (width + 4)) >= 2**31
    _check_size(max(n_rows * n_columns, height * width) * channels)
    with on_device(images):
        _resize[lambda meta: (batch * triton.cdiv(height * width * channels, meta["BLOCK"]),)](
            images, out, IN_Y=n_rows, IN_X=n_columns, OUT_Y=height, OUT_X=width, CHANNELS=channels,
            TALL=tall, WIDE=wide, LOW_Y=height * tall // n_rows, LOW_X=width * wide // n_columns,
            REACH_Y=reach(n_rows, height), REACH_X=reach(n_columns, width), LONG=long,
        )  # fmt: skip
    return out


def _check_size(values: int) -> None:
    """Positions within one image are int32, of which divisions are several times as fast."""
    if values >= 2**31 - 2**12:
        raise ValueError(f"an image of {values} values is too large for the Triton kernel: cut it")


@triton.autotune(_BLOCKS, key=["PATCH", "HEIGHT", "WIDTH"])
@triton.jit
def _patchify(
    tiles, out, mean_r, mean_g, mean_b, std_r, std_g, std_b,
    PATCH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    one: tl.constexpr = HEIGHT * WIDTH * 3
    blocks: tl.constexpr = (one + BLOCK - 1) // BLOCK
    image = (tl.program_id(0) // blocks).to(tl.int64) * one
    at = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < one
    number = at // (3 * PATCH * PATCH)
    channel = at // (PATCH * PATCH) % 3
    y = number // (WIDTH // PATCH) * PATCH + at // PATCH % PATCH
    x = number % (WIDTH // PATCH) * PATCH + at % PATCH
    pixel = tl.load(tiles + image + (y * WIDTH + x) * 3 + channel, mask=inside, other=0).to(tl.float32)
    mean = tl.where(channel == 0, mean_r, tl.where(channel == 1, mean_g, mean_b))
    std = tl.where(channel == 0, std_r, tl.where(channel == 1, std_g, std_b))
    # Rounded as IEEE says: Triton's own division is off by up to two units in the last place.
    tl.store(out + image + at, tl.div_rn(pixel - mean, std), mask=inside)


@triton.autotune(_BLOCKS, key=["IN_Y", "IN_X", "OUT_Y", "OUT_X"])
@triton.jit
def _resize(
    images, out,
    IN_Y: tl.constexpr, IN_X: tl.constexpr, OUT_Y: tl.constexpr, OUT_X: tl.constexpr, CHANNELS: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr, LOW_Y: tl.constexpr, LOW_X: tl.constexpr,
    REACH_Y: tl.constexpr, REACH_X: tl.constexpr, LONG: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """On the common grid of both sizes an output cell is TALL × WIDE and an input cell LOW_Y × LOW_X."""
    one: tl.constexpr = OUT_Y * OUT_X * CHANNELS
    blocks: tl.constexpr = (one + BLOCK - 1) // BLOCK
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    source = images + batch * (IN_Y * IN_X * CHANNELS)
    at = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < one
    channel = at % CHANNELS
    column = at // CHANNELS % OUT_X
    row = at // (OUT_X * CHANNELS)
    if LONG:
        column = column.to(tl.int64)
        row = row.to(tl.int64)
    top = row * TALL
    left = column * WIDE
    total = top * 0
    for step_y in range(REACH_Y):
        y = top // LOW_Y + step_y
        tall = tl.minimum(top + TALL, (y + 1) * LOW_Y) - tl.maximum(top, y * LOW_Y)
        for step_x in range(REACH_X):
            x = left // LOW_X + step_x
            wide = tl.minimum(left + WIDE, (x + 1) * LOW_X) - tl.maximum(left, x * LOW_X)
            covered = inside & (tall > 0) & (wide > 0)
            pixel = tl.load(source + (y * IN_X + x) * CHANNELS + channel, mask=covered, other=0)
            total += pixel.to(total.dtype) * (tall * wide)
    mean = (2 * total + TALL * WIDE) // (2 * TALL * WIDE)
    tl.store(out + batch * one + at, mean.to(tl.uint8), mask=inside)
