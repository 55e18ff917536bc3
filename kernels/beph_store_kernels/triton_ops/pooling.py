"""Attention over ragged bags: one read of the values forward, one read and one write backward.

Forward, a bag is cut into pieces of `PIECE` rows, so that one large bag keeps the whole GPU busy; each piece is
pooled with a running maximum, and a second kernel joins the pieces of a bag. Nothing is added atomically: the sums have
one order.

Which bag a program works on is not known on the host, where the offsets are not. Bag b gets the pieces numbered from
``offsets[b] // PIECE + b``, which is at least as many as it needs and needs no running sum; some stay empty.
"""

# Triton's decorators and its language have no types, and a kernel takes what it works on as arguments.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from beph_store_kernels.reference import check_bags
from beph_store_kernels.triton_ops.launch import configs, on_device, steps

#: Rows of a piece.
PIECE = 256
_KINDS = (torch.float32, torch.float16, torch.bfloat16)


def attention_pool(scores: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """Pooled bags (B, A, D) float32 of float32, float16 or bfloat16; differentiable once, in scores and values."""
    check_bags(scores, values, offsets)
    if scores.dtype not in _KINDS or values.dtype not in _KINDS:
        raise ValueError(
            f"scores {scores.dtype}, values {values.dtype}: the Triton kernel adds up in float32"
        )
    pooled: Tensor = _AttentionPool.apply(scores, values, offsets)
    return pooled


class _AttentionPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
        scores, values, offsets = (
            scores.contiguous(),
            values.contiguous(),
            offsets.to(torch.int64).contiguous(),
        )
        pooled, log_sums = _pool(scores, values, offsets)
        ctx.save_for_backward(scores, values, offsets, pooled, log_sums)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        scores, values, offsets, pooled, log_sums = ctx.saved_tensors
        to_scores, to_values = torch.empty_like(scores), torch.empty_like(values)
        bags, heads, dim = pooled.shape
        if values.numel() and scores.numel():
            with on_device(scores, values, offsets, slope):
                _send_back[lambda meta: (len(values) // meta["BLOCK_T"] + bags,)](
                    scores, values, offsets, log_sums, pooled, slope.float().contiguous(), to_scores, to_values,
                    bags, heads, dim, STEPS=steps(bags),
                )  # fmt: skip
        else:
            to_scores.zero_(), to_values.zero_()
        return to_scores, to_values, None


def _pool(scores: Tensor, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled (B, A, D), and the logarithm of the sum of exponentials (B, A), −inf for an empty bag."""
    tiles, dim = values.shape
    bags, heads = len(offsets) - 1, scores.shape[1]
    new = scores.new_empty
    pooled, log_sums = (new(shape, dtype=torch.float32) for shape in ((bags, heads, dim), (bags, heads)))
    if not pooled.numel():
        return pooled, log_sums.fill_(-torch.inf)
    pieces = tiles // PIECE + bags
    parts = new((pieces, heads, dim), dtype=torch.float32)
    peaks, sums = new((2, pieces, heads), dtype=torch.float32)
    with on_device(scores, values, offsets):
        _pool_pieces[lambda meta: (pieces, heads, triton.cdiv(dim, meta["BLOCK_D"]))](
            scores, values, offsets, peaks, sums, parts, bags, heads, dim, PIECE=PIECE, STEPS=steps(bags)
        )
        _join_pieces[lambda meta: (bags, heads, triton.cdiv(dim, meta["BLOCK_D"]))](
            offsets, peaks, sums, parts, pooled, log_sums, heads, dim, PIECE=PIECE
        )
    return pooled, log_sums


@triton.jit
def _bag_of(offsets, piece, bags, PIECE: tl.constexpr, STEPS: tl.constexpr):
    """The bag that a piece belongs to, by halving: the last whose first piece is not after it."""
    low = piece * 0
    high = low + bags
    for _ in range(STEPS):
        middle = (low + high) // 2
        after = tl.load(offsets + middle) // PIECE + middle > piece
        high = tl.where(after, middle, high)
        low = tl.where(after, low, middle)
    return low


@triton.jit
def _rescale(peak, top):
    """exp(peak − top), where both may still be −inf."""
    return tl.exp(peak - tl.where(top == -float("inf"), 0.0, top))


@triton.autotune(
    configs(
        ({"BLOCK_T": 32, "BLOCK_D": 128}, 4),
        ({"BLOCK_T": 64, "BLOCK_D": 64}, 4),
        ({"BLOCK_T": 16, "BLOCK_D": 256}, 4),
        ({"BLOCK_T": 64, "BLOCK_D": 128}, 8),
    ),
    key=["dim"],
)
@triton.jit
def _pool_pieces(
    scores, values, offsets, peaks, sums, parts, bags, heads, dim,
    PIECE: tl.constexpr, STEPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The largest score, the sum of weights relative to it, and the weighted sum of values, of each piece."""
    piece = tl.program_id(0)
    head = tl.program_id(1)
    column = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    bag = _bag_of(offsets, piece, bags, PIECE, STEPS)
    first = tl.load(offsets + bag)
    stop = tl.load(offsets + bag + 1)
    begin = first + (piece - (first // PIECE + bag)) * PIECE
    stop = tl.minimum(begin + PIECE, stop)
    peak = tl.full((), -float("inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    pooled = tl.zeros((BLOCK_D,), tl.float32)
    for at in range(0, PIECE, BLOCK_T):
        row = begin + at + tl.arange(0, BLOCK_T)  # int64, as the offsets are
        here = row < stop
        score = tl.load(scores + row * heads + head, mask=here, other=-float("inf")).to(tl.float32)
        inside = here[:, None] & (column < dim)[None, :]
        value = tl.load(values + row[:, None] * dim + column[None, :], mask=inside, other=0.0).to(tl.float32)
        top = tl.maximum(peak, tl.max(score, 0))
        old = _rescale(peak, top)
        weight = _rescale(score, top)
        total = total * old + tl.sum(weight, 0)
        pooled = pooled * old + tl.sum(weight[:, None] * value, 0)
        peak = top
    at = piece.to(tl.int64) * heads + head
    once = tl.program_id(2) == 0
    tl.store(peaks + at, peak, mask=once)
    tl.store(sums + at, total, mask=once)
    tl.store(parts + at * dim + column, pooled, mask=column < dim)


@triton.autotune(
    configs(({"BLOCK_P": 16, "BLOCK_D": 64}, 4), ({"BLOCK_P": 32, "BLOCK_D": 32}, 4)), key=["dim"]
)
@triton.jit
def _join_pieces(
    offsets, peaks, sums, parts, pooled, log_sums, heads, dim,
    PIECE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Each bag's mean from its pieces."""
    bag = tl.program_id(0)
    head = tl.program_id(1)
    column = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = tl.load(offsets + bag)
    first = begin // PIECE + bag
    count = ((tl.load(offsets + bag + 1) - begin + PIECE - 1) // PIECE).to(tl.int32)
    peak = tl.full((), -float("inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    mean = tl.zeros((BLOCK_D,), tl.float32)
    for at in range(0, count, BLOCK_P):
        number = at + tl.arange(0, BLOCK_P)
        here = number < count
        piece = (first + number) * heads + head
        inside = here[:, None] & (column < dim)[None, :]
        score = tl.load(peaks + piece, mask=here, other=-float("inf"))
        share = tl.load(sums + piece, mask=here, other=0.0)
        part = tl.load(parts + piece[:, None] * dim + column[None, :], mask=inside, other=0.0)
        top = tl.maximum(peak, tl.max(score, 0))
        old = _rescale(peak, top)
        weight = _rescale(score, top)
        total = total * old + tl.sum(weight * share, 0)
        mean = mean * old + tl.sum(weight[:, None] * part, 0)
        peak = top
    out = bag.to(tl.int64) * heads + head
    mean = tl.where(count == 0, 0.0, mean / tl.where(count == 0, 1.0, total))
    tl.store(pooled + out * dim + column, mean, mask=column < dim)
    tl.store(log_sums + out, peak + tl.log(total), mask=tl.program_id(2) == 0)


@triton.autotune(
    configs(
        ({"BLOCK_T": 32, "BLOCK_D": 128}, 4),
        ({"BLOCK_T": 16, "BLOCK_D": 256}, 4),
        ({"BLOCK_T": 64, "BLOCK_D": 64}, 4),
        ({"BLOCK_T": 64, "BLOCK_D": 128}, 8),
    ),
    key=["dim"],
)
@triton.jit
def _send_back(
    scores, values, offsets, log_sums, pooled, slope, to_scores, to_values, bags, heads, dim,
    STEPS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of scores and values, from that of the pooled ones; a piece here is `BLOCK_T` rows."""
    piece = tl.program_id(0)
    bag = _bag_of(offsets, piece, bags, BLOCK_T, STEPS)
    first = tl.load(offsets + bag)
    stop = tl.load(offsets + bag + 1)
    row = first + (piece - (first // BLOCK_T + bag)) * BLOCK_T + tl.arange(0, BLOCK_T)
    here = row < stop
    of_bag = bag.to(tl.int64) * heads
    for head in range(heads):
        score = tl.load(scores + row * heads + head, mask=here, other=-float("inf")).to(tl.float32)
        weight = tl.exp(score - tl.load(log_sums + of_bag + head))
        lean = tl.zeros((BLOCK_T,), tl.float32)
        for at in range(0, dim, BLOCK_D):
            column = at + tl.arange(0, BLOCK_D)
            wide = column < dim
            inside = here[:, None] & wide[None, :]
            value = tl.load(values + row[:, None] * dim + column[None, :], mask=inside, other=0.0)
            mean = tl.load(pooled + (of_bag + head) * dim + column, mask=wide, other=0.0)
            pull = tl.load(slope + (of_bag + head) * dim + column, mask=wide, other=0.0)
            lean += tl.sum((value.to(tl.float32) - mean[None, :]) * pull[None, :], 1)
        tl.store(to_scores + row * heads + head, weight * lean, mask=here)
    for at in range(0, dim, BLOCK_D):
        column = at + tl.arange(0, BLOCK_D)
        wide = column < dim
        back = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
        for head in range(heads):
            score = tl.load(scores + row * heads + head, mask=here, other=-float("inf")).to(tl.float32)
            weight = tl.exp(score - tl.load(log_sums + of_bag + head))
            pull = tl.load(slope + (of_bag + head) * dim + column, mask=wide, other=0.0)
            back += weight[:, None] * pull[None, :]
        tl.store(to_values + row[:, None] * dim + column[None, :], back, mask=here[:, None] & wide[None, :])
