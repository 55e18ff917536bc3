"""Metrics of what was said of tiles over draws of their cases, group by group; shared by all that compares vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.probe.tiles import LabelledTiles
from beph_store.metrics import Estimate, interval
from beph_store.metrics.tiles import tile_draws

F64 = NDArray[np.float64]


def group_rows(tiles: LabelledTiles) -> list[NDArray[np.int64]]:
    """The rows of each group."""
    return [np.flatnonzero(tiles.group == group) for group in range(len(tiles.groups))]


def row_draws(
    tiles: LabelledTiles, said: F64, weights: NDArray[np.int16], rows: NDArray[np.int64]
) -> dict[str, F64]:
    """(B,) of each metric of ``said`` (n, K), of those ``rows`` only, for draws ``weights`` (B, C) of cases."""
    return tile_draws(said[rows], tiles.truth[rows], tiles.case[rows], tiles.classes, weights)


def draws_by_group(tiles: LabelledTiles, said: F64, weights: NDArray[np.int16]) -> list[dict[str, F64]]:
    """(B,) of each metric for each group, mean over the repeats of ``said`` (R, n, K)."""
    return [mean_draws([row_draws(tiles, p, weights, rows) for p in said]) for rows in group_rows(tiles)]


def mean_draws(parts: Sequence[dict[str, F64]]) -> dict[str, F64]:
    """Draw by draw; undefined where one part is."""
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


def pooled(stack: F64) -> Estimate:
    """Of (draws of shots, 1 + draws of cases): the mean of the first column, the interval of all others together."""
    low, high = interval(stack[:, 1:].ravel())
    undefined = int(np.isnan(stack[:, 1:]).sum())
    return Estimate(float(stack[:, 0].mean()), low, high, stack[:, 1:].size, undefined)
