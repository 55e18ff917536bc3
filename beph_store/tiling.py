"""Where the tiles of a slide lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideError
from beph_store.geometry import check_scale
from beph_store.records import SlideInfo, TileSet, TileSpec, TissueMask
from beph_store_kernels import tissue_fraction

#: The grid is worked through in bands of about this many tiles: all of it may not fit in memory.
_CHUNK_TILES = 1 << 20


def tile_slide(info: SlideInfo, spec: TileSpec, mask: TissueMask | None = None) -> TileSet:
    """The tiles of a slide, row by row from its top left corner.

    The grid steps by the exact stride at the slide's true mpp and rounds each origin on its own, so nothing
    drifts over a long slide. Only tiles that lie inside the slide are made: none hangs over an edge.
    A tile is kept when its share of tissue, exact over the mask, is at least ``spec.tissue_min``; without a
    mask all are, with a share of 1. ``spec.limit`` is left to the caller.

    Raises SlideError where the slide is coarser than ``spec.mpp``, or the grid is beyond int32.
    """
    check_scale(spec.mpp, info.mpp)
    footprint = spec.footprint_l0(info.mpp)
    columns, rows = (origins(side, footprint, spec.stride_l0(info.mpp)) for side in info.size_l0)
    if len(columns) * len(rows) >= 2**31:
        raise SlideError(
            f"a grid of {len(columns)} × {len(rows)} tiles: raise --stride-px or --mpp",
            slide_id=info.slide_id,
        )
    kept, shares = [np.zeros((0, 2), np.int32)], [np.zeros(0, np.float32)]
    step = max(1, _CHUNK_TILES // max(1, len(columns)))
    for top in range(0, len(rows), step):
        grid = np.stack(np.meshgrid(columns, rows[top : top + step]), axis=-1).reshape(-1, 2)
        share = tissue_shares(info, mask, grid, footprint)
        keep = share >= spec.tissue_min
        kept.append(grid[keep])
        shares.append(share[keep])
    return TileSet(info.slide_id, spec, np.concatenate(kept), footprint, np.concatenate(shares))


def origins(length: int, footprint: int, stride: float) -> NDArray[np.int32]:
    """Starts along one axis, int32 level-0 px: round(i · stride), as many as fit ``footprint`` in ``length``.

    Distinct even where the stride is below one px.
    """
    last = length - footprint
    if last < 0:
        return np.zeros(0, np.int32)
    starts = np.rint(np.arange(int(last / stride) + 2) * stride)
    return np.unique(starts[starts <= last]).astype(np.int32)


def tissue_shares(
    info: SlideInfo, mask: TissueMask | None, origin_l0: NDArray[np.int32], footprint: int
) -> NDArray[np.float32]:
    """Share (N,) float32 of each footprint that is tissue; 1 without a mask."""
    if mask is None:
        return np.ones(len(origin_l0), np.float32)
    scale = np.array([info.mpp_x / mask.mpp_x, info.mpp_y / mask.mpp_y])
    corner = origin_l0 * scale
    return tissue_fraction(mask.mask, np.concatenate([corner, corner + footprint * scale], axis=1))
