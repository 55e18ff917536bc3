"""What a trained head thinks of each tile of a slide, for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.study.trained import TrainedRun, ask
from beph_store.errors import HeadError, UsageError
from beph_store.records import Embeddings, Prediction
from beph_store.store import Store

Show = Literal["auto", "attention", "score"]
ATTENTION = "attention, rank within the slide"


@dataclass(frozen=True, slots=True, eq=False)
class Thought:
    """``values`` (N,) float32, one a tile, of ``kind``; ``what`` they are in a few words, ``meaning`` in a sentence.

    ``of_class`` whose score it is; ``said`` of the whole slide; ``splits`` whose heads were asked, ``held_out`` whether
    none of them had seen the case.
    """

    values: NDArray[np.float32]
    kind: Literal["attention", "score"]
    of_class: str | None
    what: str
    meaning: str
    said: str
    splits: tuple[int, ...]
    held_out: bool


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
    """``thought`` of a slide's stored tiles, read from the store."""
    key = run.fits(store)
    bag = store.bag(key, slide_id)
    if not len(bag):
        raise HeadError(f"slide {bag.slide_id} has no readable tile of tissue: there is nothing to show")
    case = run.case_for(bag.slide_id, store.slide(key, bag.slide_id).case_id)
    found = thought(run, case, bag.vectors, show=show, of_class=of_class)
    return TileValues(bag, found.values, found.what, found.said, found.held_out)


def thought(
    run: TrainedRun, case_id: str, vectors: NDArray[Any], *, show: Show = "auto", of_class: str | None = None
) -> Thought:
    """Attention as its rank within the slide (0–1), or the score of a class (the one predicted) or hazard a tile.

    ``vectors`` (N, D) of one slide of a case. ``auto`` is attention where the head has it. Only heads that have not
    seen the case are asked, if any. Raises HeadError where the head has no such values, UsageError for a class that it
    does not know.
    """
    splits, blind = run.asked_splits(case_id)
    said = ask([run.heads[i] for i in splits], vectors)
    name, says = run.specs[0].name, _says(run, said)
    if show == "attention" or (show == "auto" and said.attention is not None and of_class is None):
        if said.attention is None:
            raise HeadError(f"the head {name} has no attention: pass --show score")
        rank = np.argsort(np.argsort(said.attention, kind="stable"), kind="stable")
        values = (rank / max(1, len(rank) - 1)).astype(np.float32)
        meaning = "rank of the tile's attention within the slide: 0 least, 1 most"
        return Thought(values, "attention", None, ATTENTION, meaning, says, splits, blind)
    if said.tile_scores is None:
        raise HeadError(f"the head {name} has no scores of tiles: pass --show attention")
    column, label = _column(run, said, of_class)
    values = np.ascontiguousarray(said.tile_scores[:, column], np.float32)
    if label is None:
        meaning = "log hazard that the tile speaks for by itself: higher is worse"
        return Thought(values, "score", None, "log hazard of the tile", meaning, says, splits, blind)
    meaning = f"logit of {label} that the tile speaks for by itself: higher speaks for {label}"
    return Thought(values, "score", label, f"score for {label} (logit)", meaning, says, splits, blind)


def _column(run: TrainedRun, said: Prediction, of_class: str | None) -> tuple[int, str | None]:
    """Which column of the scores, and the class that it is of; None for survival."""
    if run.task == "survive":
        if of_class is not None:
            raise UsageError("the head predicts survival and knows no classes: leave the class out")
        return 0, None
    if of_class is None:
        of_class = run.classes[int(np.argmax(said.values))]
    if of_class not in run.classes:
        raise UsageError(f"the head knows no class {of_class!r}: choose from {', '.join(run.classes)}")
    return run.classes.index(of_class), of_class


def _says(run: TrainedRun, said: Prediction) -> str:
    if run.task == "survive":
        return f"log hazard {said.values[0]:.2f}"
    best = int(np.argmax(said.values))
    return f"{run.classes[best]} {said.values[best]:.0%}"
