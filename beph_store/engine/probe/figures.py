"""The figures of what was said of labelled tiles whose cases were held out, whoever said it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.probe.draws import draws_by_group, mean_draws
from beph_store.engine.probe.tiles import LabelledTiles
from beph_store.metrics import Estimate, estimate


@dataclass(frozen=True, slots=True)
class Figures:
    """``metrics`` with intervals over cases. Where the tiles are of several groups these are means over the ``groups``,
    which have their own, and ``spread`` is the standard deviation over them; otherwise both are empty.
    """

    metrics: dict[str, Estimate]
    groups: dict[str, dict[str, Estimate]]
    spread: dict[str, float]


def figures_of(tiles: LabelledTiles, said: NDArray[np.float64], weights: NDArray[np.int16]) -> Figures:
    """Of ``said`` (R, n, K), the chances of the classes in each repeat, on draws ``weights`` (1 + B, C) of the cases.

    The first draw holds every case once.
    """
    by_group = draws_by_group(tiles, said, weights)
    whole = mean_draws(by_group)
    metrics = {name: estimate(values) for name, values in whole.items()}
    if len(tiles.groups) < 2:
        return Figures(metrics, {}, {})
    named = zip(tiles.groups, by_group, strict=True)
    groups = {group: {name: estimate(each) for name, each in found.items()} for group, found in named}
    return Figures(metrics, groups, {name: float(np.std([g[name][0] for g in by_group])) for name in whole})
