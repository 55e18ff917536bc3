"""The heads known by name. A new head is one row here and the module it names.

The module has ``fit_many(options, bags, target, splits, seed, report) -> list[Head]`` and
``build(spec, weights) -> Head``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from beph_store.errors import HeadError, MissingExtra
from beph_store.heads.options import Task


@dataclass(frozen=True, slots=True)
class HeadRow:
    """One row. ``gives`` what a prediction holds beside its values; ``module`` who trains and builds it; ``together``
    how many splits in a row it solves as one: bits depend on it, so whoever shares out splits cuts at its multiples.
    """

    name: str
    tasks: tuple[Task, ...]
    needs_torch: bool
    summary: str
    gives: tuple[str, ...]
    module: str
    together: int = 1


_BOTH: tuple[Task, ...] = ("classify", "survive")
_TORCH = "beph_store.heads.torch_side.train"

#: In the order to try them.
HEADS: Mapping[str, HeadRow] = MappingProxyType(
    {
        row.name: row
        for row in (
            HeadRow(
                "linear",
                _BOTH,
                False,
                "logistic or Cox regression on the mean embedding, ridge chosen by held-out cases",
                ("tile_scores",),
                "beph_store.heads.linear",
                together=10,
            ),
            HeadRow(
                "abmil",
                _BOTH,
                True,
                "gated attention over tiles (Ilse et al. 2018)",
                ("attention", "tile_scores"),
                _TORCH,
            ),
            HeadRow(
                "clam",
                _BOTH,
                True,
                "CLAM-SB as BEPH configured it: gated attention with an instance loss (Lu et al. 2021)",
                ("attention", "tile_scores"),
                _TORCH,
            ),
        )
    }
)


def head_row(name: str) -> HeadRow:
    """The row of that name; HeadError lists the names."""
    if name in HEADS:
        return HEADS[name]
    near = difflib.get_close_matches(name, HEADS, n=1)
    hint = f"; did you mean {near[0]}" if near else ""
    raise HeadError(f"no head is called {name!r}{hint}; choose from {', '.join(HEADS)}")


def implementation(row: HeadRow) -> Any:
    """The module of a row; MissingExtra where torch is not installed."""
    try:
        return importlib.import_module(row.module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in ("torch", "torchsurv"):
            raise
        raise MissingExtra(
            f"the head {row.name} needs {missing}, which is not installed: pip install 'beph-store[train]'"
        ) from None
