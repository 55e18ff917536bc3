"""The operations on torch tensors, on any device; see `reference` for what each one means.

Plain torch, in which the gradients are autograd's. Nothing here waits for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beph_store_kernels.reference import check_bags, check_images, check_rows, patch_grid

#: Products held at once: 512 MB of float32.
_PRODUCTS = 1 << 27
#: Entries of the rows that are widened to float32 at once.
_WIDE = 1 << 25
#: Rows whose best product is found together; see `best_of`.
GROUP = 128
#: Rows that go to a device at once: 400 MB at 768 columns.
_ROWS_AT_ONCE = 1 << 18


def attention_pool(scores: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """Pooled bags (B, A, D), float32, or float64 where both inputs are; differentiable in scores and values."""
    check_bags(scores, values, offsets)
    wide = torch.float64 if scores.dtype == values.dtype == torch.float64 else torch.float32
    pooled = (attention_weights(scores.to(wide), offsets) @ values.to(wide)).transpose(0, 1)
    return pooled.masked_fill((offsets[1:] == offsets[:-1])[:, None, None], 0.0)


def attention_weights(scores: Tensor, offsets: Tensor) -> Tensor:
    """(A, B, T): the softmax of ``scores`` (T, A) over the rows of bag b, 0 elsewhere; of an empty bag, anything.

    Pooling by a product with this matrix is exact, has no scatter (whose order, and so whose sum, varies on a GPU), and
    is small beside the layers before it.
    """
    heads = scores.T
    if len(offsets) == 2:
        return heads.softmax(1)[:, None]
    bags = torch.arange(len(offsets) - 1, device=scores.device)
    row = torch.arange(len(scores), device=scores.device)
    others = torch.searchsorted(offsets, row, right=True) - 1 != bags[:, None]
    # The lowest number, not −∞: an empty bag would get 0/0, and NaN in the gradients of all.
    lowest = torch.finfo(scores.dtype).min
    return heads[:, None].expand(-1, len(bags), -1).masked_fill(others, lowest).softmax(2)


def patchify(
    tiles: Tensor, patch: int, mean: Sequence[float], std: Sequence[float], *, half: bool = False
) -> Tensor:
    """Patches (B, N, 3·P·P), float32 or float16, to the last bit those of `reference.patchify`."""
    rows, columns = patch_grid(tiles, patch)
    centre, spread = (torch.tensor(x, dtype=torch.float32, device=tiles.device) for x in (mean, std))
    x = ((tiles.to(torch.float32) - centre) / spread).to(torch.float16 if half else torch.float32)
    cut = x.view(len(tiles), rows, patch, columns, patch, 3).permute(0, 1, 3, 5, 2, 4)
    return cut.reshape(len(tiles), rows * columns, 3 * patch * patch)


def resize_area_batch(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, height, width, C) uint8 of (B, H, W, C) at ``size`` (width, height), to the last bit the reference's.

    A sum of a few shifted copies for each axis, in integers.
    """
    check_images(images)
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"the size must be at least 1 × 1, not {width} × {height}")
    area, wide = exact_sums(images.shape[1], height), exact_sums(images.shape[2], width)
    kind = torch.int32 if 511 * area * wide < 2**31 else torch.int64
    total = _covered(images, height, 1, kind)
    total = _covered(total, width, 2, kind)
    return ((2 * total + area * wide) // (2 * area * wide)).to(torch.uint8)


def exact_sums(n_in: int, n_out: int) -> int:
    """What the weights of an output cell add up to, in lowest terms."""
    return n_in // math.gcd(n_in, n_out)


def reach(n_in: int, n_out: int) -> int:
    """An output cell touches at most so many input cells."""
    return n_in // n_out if n_in % n_out == 0 else n_in // n_out + 2


def _covered(x: Tensor, n_out: int, axis: int, kind: torch.dtype) -> Tensor:
    """Sums of ``x`` along ``axis`` over what each of ``n_out`` cells covers, in whole units."""
    n_in = x.shape[axis]
    common = math.gcd(n_in, n_out)
    long, short = n_in // common, n_out // common  # an output and an input cell on their common grid
    cell = torch.arange(n_out, device=x.device)
    first, begin = cell * long // short, cell * long
    shape = [n_out if a == axis else 1 for a in range(4)]
    total = None
    for step in range(reach(n_in, n_out)):
        touched = first + step
        overlap = torch.minimum(begin + long, (touched + 1) * short) - torch.maximum(begin, touched * short)
        weight = overlap.clamp(min=0).to(kind).view(shape)
        part = x.index_select(axis, touched.clamp(max=n_in - 1)).to(kind) * weight
        total = part if total is None else total + part
    assert total is not None  # a cell touches at least one
    return total


def top_k_dot(
    queries: Tensor, rows: Tensor, k: int, mask: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Values (Q, k) float32 and row numbers (Q, k) int64; products add up in float32."""
    check_rows(queries, rows, k, mask, scale)
    found = [best_of(*_products(part, rows, mask, scale), k) for part in passes(queries, len(rows))]
    return torch.cat([value for value, _ in found]), torch.cat([index for _, index in found])


def passes(queries: Tensor, rows: int) -> tuple[Tensor, ...]:
    """``queries`` in parts whose products with so many rows fit the memory set aside for them."""
    return torch.split(queries, max(1, _PRODUCTS // max(rows, 1)))


def _products(
    queries: Tensor, rows: Tensor, mask: Tensor | None, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Products (Q, N) and the best of each `GROUP` of rows (Q, ⌈N/GROUP⌉); −inf for rows that do not count."""
    if rows.is_cuda and queries.dtype == torch.float16:
        # Not `queries @ rows.T`: it rounds to float16, and may add up in it.
        dots = torch.mm(queries, rows.T, out_dtype=torch.float32)
    else:
        dots = torch.empty((len(queries), len(rows)), device=rows.device)
        step = max(1, _WIDE // max(rows.shape[1], 1))
        for at in range(0, len(rows), step):
            dots[:, at : at + step] = queries.float() @ rows[at : at + step].float().T
    if scale is not None:
        dots *= scale
    dots.nan_to_num_(-math.inf, math.inf, -math.inf)
    if mask is not None:
        dots.masked_fill_(~mask, -math.inf)
    whole = len(rows) // GROUP * GROUP
    peaks = dots[:, :whole].reshape(len(queries), whole // GROUP, GROUP).amax(2)
    if whole < len(rows):
        peaks = torch.cat([peaks, dots[:, whole:].amax(1, keepdim=True)], dim=1)
    return dots, peaks


def best_of(dots: Tensor, peaks: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` of ``dots`` (Q, N), ties by lower index, given the best of each group (Q, ⌈N/GROUP⌉).

    The best k lie in the k groups with the best peaks (of equal ones the first): each of the groups before one's own
    holds something better. So N/GROUP peaks are ranked, and then the members of k groups, instead of N products.
    """
    count = dots.shape[1]
    group = torch.arange(peaks.shape[1], device=dots.device).expand_as(peaks)
    _, groups = _ranked(peaks, group, min(k, peaks.shape[1]))
    index = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=dots.device)).flatten(1)
    value = dots.gather(1, index.clamp(max=max(count - 1, 0))) if count else index.float()
    value = value.masked_fill(index >= count, -math.inf)
    return _padded(*_ranked(value, index, min(k, index.shape[1])), k)


def _padded(value: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    room = (0, k - value.shape[1])
    index = index.masked_fill(value == -math.inf, -1)
    pad = torch.nn.functional.pad
    return pad(value, room, value=-math.inf), pad(index, room, value=-1)


def _ranked(value: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values (Q, n) with their index, equal ones by lower index: `topk` alone promises no order.

    Value and index make one int64 key: the bits of a float32, all but the sign turned over where it is negative,
    are in the order of the numbers.
    """
    bits = (value + 0.0).view(torch.int32)  # −0 becomes 0, which it equals
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = (bits.to(torch.int64) << 32) | (0xFFFFFFFF - index)
    key = key.topk(k, dim=1).values
    bits = (key >> 32).to(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), 0xFFFFFFFF - (key & 0xFFFFFFFF)


def top_k_host(
    op: Callable[..., tuple[Tensor, Tensor]],
    queries: NDArray[np.floating],
    rows: NDArray[np.float16],
    k: int,
    mask: NDArray[np.bool_] | None,
    scale: NDArray[np.float32] | None,
    device: str,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`reference.top_k_dot` by ``op`` on a device; ``rows``, a memory map say, go there a block at a time.

    Raises ValueError where torch sees no such device.
    """
    check_rows(queries, rows, k, mask, scale)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: no CUDA device is visible to torch")
    asked = torch.tensor(queries, device=device)
    values, indices = [], []
    for at in range(0, max(len(rows), 1), _ROWS_AT_ONCE):
        part = slice(at, at + _ROWS_AT_ONCE)
        extra = [None if x is None else torch.tensor(x[part], device=device) for x in (mask, scale)]
        value, index = op(asked, torch.tensor(rows[part], device=device), k, *extra)
        values.append(value)
        indices.append(torch.where(index < 0, index, index + at))
    # The blocks are in order of row number, and a stable sort keeps equal values in it.
    value, order = torch.cat(values, dim=1).sort(dim=1, descending=True, stable=True)
    index = torch.cat(indices, dim=1).gather(1, order)
    return value[:, :k].cpu().numpy(), index[:, :k].cpu().numpy()
