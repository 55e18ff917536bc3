"""What to label next, of a whole recipe or of one slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beph_store.engine.active.labels import Labels
from beph_store.engine.active.picking import badge, directions, typical, uncertainty
from beph_store.engine.active.places import Rows, place
from beph_store.engine.active.refit import TileHead
from beph_store.engine.active.threads import one_thread
from beph_store.engine.search.table import SearchTable
from beph_store.errors import UsageError

#: Tiles that are looked at: drawn anew for every version of the labels, so that in time every tile has its turn.
POOL = 20_000
#: Labelled tiles that new ones are kept away from while there is no head.
_LABELLED = 2_000

COLD = "typical and diverse"
WARM = "uncertain and diverse"
_WHY = {
    COLD: "typical of kinds of tissue that have no label yet (TypiClust, Hacohen et al. 2022)",
    WARM: "where the head is unsure, and unlike each other (BADGE, Ash et al. 2020)",
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A row of the table; ``uncertainty`` 0–1 and ``probabilities`` by class, None while there is no head."""

    row: int
    uncertainty: float | None = None
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Proposals:
    """``found`` best first; ``method`` and ``why``, a sentence for people; ``pool``: how many tiles were looked at."""

    version: int
    method: str
    why: str
    pool: int
    found: tuple[Proposal, ...]


def propose(
    table: SearchTable,
    labels: Labels,
    head: TileHead | None,
    count: int,
    *,
    slides: Sequence[int] | None = None,
    seed: int = 0,
) -> Proposals:
    """``count`` tiles to label next; none that has a label, fewer where there are no more.

    ``head`` of these labels, None while there is none; ``slides`` the places of the slides to look at, all by default.
    The same labels and seed give the same tiles.
    """
    if count < 1:
        raise UsageError("ask for at least 1 proposal")
    labelled = place(table, list(labels.tiles.values())).rows
    rng = np.random.default_rng((labels.version, seed))
    rows = _pool(table, labelled, slides, rng)
    method = COLD if head is None else WARM
    if not len(rows):
        return Proposals(labels.version, method, "no tile is left without a label", 0, ())
    with one_thread():
        found = _found(table, rows, labelled, head, count, rng)
    return Proposals(labels.version, method, _WHY[method], len(rows), found)


def _found(
    table: SearchTable,
    rows: Rows,
    labelled: Rows,
    head: TileHead | None,
    count: int,
    rng: np.random.Generator,
) -> tuple[Proposal, ...]:
    vectors = table.flat.vectors[rows]
    centre = vectors.mean(axis=0, dtype=np.float64)
    pool, seed = directions(vectors, centre), int(rng.integers(1 << 31))
    if head is None:
        known = np.sort(rng.permutation(labelled)[:_LABELLED])
        taken = typical(pool, directions(table.flat.vectors[known], centre), count, seed)
        return tuple(Proposal(int(row)) for row in rows[taken])
    chances = head.probabilities(vectors)
    taken = badge(pool, chances, count, seed)
    return tuple(
        Proposal(int(row), float(unsure), tuple(map(float, each)))
        for row, unsure, each in zip(rows[taken], uncertainty(chances[taken]), chances[taken], strict=True)
    )


def _pool(table: SearchTable, labelled: Rows, slides: Sequence[int] | None, rng: np.random.Generator) -> Rows:
    """Rising rows without a label, at most ``POOL`` of them."""
    if slides is None:
        rows = np.arange(len(table.flat), dtype=np.int64)
        if len(rows) > 4 * POOL:  # enough to choose from once the labelled ones are gone
            rows = np.unique(rng.integers(0, len(rows), 2 * POOL))
    else:
        spans = [table.span(slide) for slide in slides]
        rows = np.concatenate([np.arange(span.start, span.stop, dtype=np.int64) for span in spans])
    free = np.setdiff1d(rows, labelled, assume_unique=True)
    if len(free) > POOL:
        free = np.sort(rng.choice(free, POOL, replace=False))
    return free
