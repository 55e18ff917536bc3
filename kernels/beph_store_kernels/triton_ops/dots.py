"""Dot products with float16 rows and the best of each group of rows, in one pass over the rows."""

# Triton's decorators and its language have no types, and a kernel takes what it works on as arguments.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
# ruff: noqa: PLR0913

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from beph_store_kernels.reference import check_rows
from beph_store_kernels.torch_ops import GROUP, best_of, passes
from beph_store_kernels.triton_ops.launch import configs, on_device, power_of_two


def top_k_dot(
    queries: Tensor, rows: Tensor, k: int, mask: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Values (Q, k) float32 and row numbers (Q, k) int64; products add up in float32.

    float16 queries go through the matrix units as they are, float32 ones as three products of tf32, which lose less
    than adding up does (float16 rows are exact in tf32).
    """
    check_rows(queries, rows, k, mask, scale)
    if queries.dtype not in (torch.float16, torch.float32):
        raise ValueError(f"queries are {queries.dtype}, expected float16 or float32")
    rows = rows.contiguous()
    queries = queries.contiguous()
    found = [best_of(*_products(part, rows, mask, scale), k) for part in passes(queries, len(rows))]
    return torch.cat([value for value, _ in found]), torch.cat([index for _, index in found])


def _products(
    queries: Tensor, rows: Tensor, mask: Tensor | None, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Products (Q, N) and the best of each `GROUP` of rows (Q, ⌈N/GROUP⌉); −inf for rows that do not count."""
    asked, count = len(queries), len(rows)
    groups = triton.cdiv(count, GROUP)
    dots = torch.empty((asked, count), dtype=torch.float32, device=rows.device)
    peaks = torch.empty((asked, groups), dtype=torch.float32, device=rows.device)
    if asked and count:
        block = power_of_two(asked, (16, 64))
        with on_device(queries, rows, mask, scale):
            _dots[(groups, triton.cdiv(asked, block))](
                queries, rows,
                rows if mask is None else mask.contiguous().view(torch.uint8),
                rows if scale is None else scale.float().contiguous(),
                dots, peaks, asked, count, rows.shape[1], groups,
                MASKED=mask is not None, SCALED=scale is not None, GROUP=GROUP, BLOCK_Q=block,
            )  # fmt: skip
    return dots, peaks


@triton.autotune(
    configs(({"BLOCK_D": 32}, 4), ({"BLOCK_D": 64}, 4), ({"BLOCK_D": 64}, 8)),
    key=["dim", "BLOCK_Q"],
)
@triton.jit
def _dots(
    queries, rows, mask, scale, dots, peaks, asked, count, dim, groups,
    MASKED: tl.constexpr, SCALED: tl.constexpr, GROUP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(1).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row = tl.program_id(0).to(tl.int64) * GROUP + tl.arange(0, GROUP)
    is_query = query < asked
    is_row = row < count
    total = tl.zeros((BLOCK_Q, GROUP), tl.float32)
    for at in range(0, dim, BLOCK_D):
        column = at + tl.arange(0, BLOCK_D)
        wide = column < dim
        q = tl.load(
            queries + query[:, None] * dim + column[None, :],
            mask=is_query[:, None] & wide[None, :],
            other=0.0,
        )
        r = tl.load(
            rows + row[None, :] * dim + column[:, None], mask=is_row[None, :] & wide[:, None], other=0.0
        )
        total = tl.dot(q, r.to(q.dtype), total, input_precision="tf32x3")
    if SCALED:
        total = total * tl.load(scale + row, mask=is_row, other=0.0)[None, :]
    here = is_row[None, :] & (total == total)  # NaN is never found
    if MASKED:
        here = here & (tl.load(mask + row, mask=is_row, other=0) != 0)[None, :]
    total = tl.where(here, total, -float("inf"))
    tl.store(dots + query[:, None] * count + row[None, :], total, mask=is_query[:, None] & is_row[None, :])
    group = tl.program_id(0)
    tl.store(peaks + query * groups + group, tl.max(total, 1), mask=is_query)
