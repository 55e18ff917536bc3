"""The index of a recipe's tiles: made where it pays, taken up where it is behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beph_store.search.ann import IndexInfo, IndexPlan, build, choose, describe, sample, update
from beph_store.store import Store

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class IndexReport:
    """``did`` built, updated, current (nothing to do) or none: exact search needs no index at this size."""

    did: str
    rows: int
    info: IndexInfo | None


def make_index(
    store: str | Path, *, recipe: str | None = None, anew: bool = False, progress: Progress | None = None
) -> IndexReport:
    """Build the index that suits the number of rows, or take into it what was ingested since.

    Searches go on meanwhile and stay right: rows that the index lacks are compared one by one. ``anew`` builds it
    again, which helps when a store has grown several times over.
    """
    opened = Store.open(store)
    key = opened.recipe(recipe).recipe.key
    flat = opened.flat(key)
    path = opened.layout.tiles(key)
    plan: IndexPlan | None = choose(len(flat), flat.vectors.shape[1])
    if plan is None:
        return IndexReport("none", len(flat), None)
    known = describe(path)
    if known is not None and not anew:
        if not known.rows_unindexed:
            return IndexReport("current", len(flat), known)
        return IndexReport("updated", len(flat), update(path))
    info = build(path, plan, sample(flat.vectors, plan), progress)
    return IndexReport("built", len(flat), info)
