"""What a trained head thinks of each tile of a slide, for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.study.trained import TrainedRun, ask
from beph_store.errors import HeadError, UsageError
from beph_store.records import Embeddings, Prediction
from beph_store.store import Store

Show = Literal["auto", "attention", "score"]


@dataclass(frozen=True, slots=True, eq=False)
class TileValues:
    """``values`` (N,) float32 of the tiles of ``bag``; ``what`` they are; ``said`` of the whole slide."""

    bag: Embeddings
    values: NDArray[np.float32]
    what: str
    said: str
    held_out: bool


def tile_values(
    run: TrainedRun, store: Store, slide_id: str, *, show: Show = "auto", of_class: str | None = None
) -> TileValues:
    """Attention as its rank within the slide (0–1), or the score of a class (the one predicted) or hazard a tile.

    ``auto`` is attention where the head has it. Only heads that have not seen the slide's case are asked, if any.
    Raises HeadError where the head has no such values, UsageError for a class that it does not know.
    """
    key = run.fits(store)
    bag = store.bag(key, slide_id)
    if not len(bag):
        raise HeadError(f"slide {bag.slide_id} has no readable tile of tissue: there is nothing to show")
    recorded = store.slide(key, bag.slide_id).case_id
    heads, blind = run.asked(run.case_for(bag.slide_id, recorded))
    said = ask(heads, bag.vectors)
    if show == "attention" or (show == "auto" and said.attention is not None and of_class is None):
        if said.attention is None:
            raise HeadError(f"the head {heads[0].spec.name} has no attention: pass --show score")
        rank = np.argsort(np.argsort(said.attention, kind="stable"), kind="stable")
        values = (rank / max(1, len(rank) - 1)).astype(np.float32)
        return TileValues(bag, values, "attention, rank within the slide", _says(run, said), blind)
    if said.tile_scores is None:
        raise HeadError(f"the head {heads[0].spec.name} has no scores of tiles: pass --show attention")
    column, what = _column(run, said, of_class)
    return TileValues(bag, said.tile_scores[:, column], what, _says(run, said), blind)


def _column(run: TrainedRun, said: Prediction, of_class: str | None) -> tuple[int, str]:
    if run.task == "survive":
        return 0, "log hazard of the tile"
    if of_class is None:
        of_class = run.classes[int(np.argmax(said.values))]
    if of_class not in run.classes:
        raise UsageError(f"the head knows no class {of_class!r}: choose from {', '.join(run.classes)}")
    return run.classes.index(of_class), f"score for {of_class}"


def _says(run: TrainedRun, said: Prediction) -> str:
    if run.task == "survive":
        return f"log hazard {said.values[0]:.2f}"
    best = int(np.argmax(said.values))
    return f"{run.classes[best]} {said.values[best]:.0%}"
