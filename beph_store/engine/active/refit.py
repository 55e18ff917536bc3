"""The head that follows the labels: fitted to all labelled tiles of a recipe in well under a second."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.grouped import capped, held
from beph_store.cohort.strata import generator, place
from beph_store.engine.active.labels import Labels
from beph_store.engine.active.places import Placed
from beph_store.engine.active.places import place as placed_in
from beph_store.engine.active.threads import one_thread
from beph_store.engine.search.table import SearchTable
from beph_store.errors import HeadError
from beph_store.halves import widened
from beph_store.heads.tile_refit import refit as refit_vectors

Index = NDArray[np.int64]

_FOLDS = 5
#: Tiles that a fit looks at: a dragged region may label thousands, which say little more than some of them.
MAX_TILES = 2000
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How often the head is right on tiles that it did not see.

    ``by`` what was kept apart: no tile of a ``case`` (or else of a ``slide``) is on both sides; with ``none`` nothing
    could be held out and the figures are None. ``majority``: what always saying the most frequent class would reach.
    ``note`` says it in a sentence, or what is missing.
    """

    by: str
    note: str
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    majority: float | None = None
    tiles: int = 0
    folds: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TileHead:
    """``coef`` (K, D) and ``intercept`` (K,) float32 on stored embeddings of recipe ``recipe_key``, ``classes`` in
    the order of their first use; ``version`` of the labels. ``tiles`` labelled, ``used`` of them to learn from.
    """

    recipe_key: str
    version: int
    classes: tuple[str, ...]
    coef: NDArray[np.float32]
    intercept: NDArray[np.float32]
    penalty: float
    tiles: int
    used: int
    slides: int
    cases: int
    held_out: HeldOut
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All but the weights, as JSON data."""
        return {
            "version": self.version,
            "classes": list(self.classes),
            "tiles": self.tiles,
            "used": self.used,
            "slides": self.slides,
            "cases": self.cases,
            "penalty": self.penalty,
            "held_out": dataclasses.asdict(self.held_out),
        }

    def probabilities(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """(N, K) of embeddings (N, D)."""
        out = np.empty((len(vectors), len(self.classes)), np.float32)
        for at in range(0, len(vectors), _CHUNK):
            logits = widened(vectors[at : at + _CHUNK]) @ self.coef.T + self.intercept
            exp = np.exp(logits - logits.max(axis=1, keepdims=True))
            out[at : at + _CHUNK] = exp / exp.sum(axis=1, keepdims=True)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """Labelled rows of the table as numbers: ``rows``, ``truth``, ``case`` and ``slide`` (n,) int64."""

    rows: Index
    truth: Index
    case: Index
    slide: Index
    classes: tuple[str, ...]
    slides: int
    cases: int

    @classmethod
    def of(cls, table: SearchTable, placed: Placed, classes: Sequence[str]) -> Learnt:
        """Numbers of the labels in ``placed``; classes without a tile are left out."""
        names = [str(label.mark.label) for label in placed.labels]
        kept = tuple(name for name in classes if name in set(names))
        number = {name: i for i, name in enumerate(kept)}
        truth = np.array([number[name] for name in names], np.int64)
        slide = table.slide_of[placed.rows].astype(np.int64)
        case_ids = [table.case_of[i] for i in slide.tolist()]
        known = {name: i for i, name in enumerate(dict.fromkeys(case_ids))}
        case = np.array([known[name] for name in case_ids], np.int64)
        distinct, local = np.unique(slide, return_inverse=True)
        return cls(placed.rows, truth, case, np.asarray(local, np.int64), kept, len(distinct), len(known))

    def take(self, rows: Index) -> Learnt:
        """Some of them; the numbers stay."""
        parts = (self.rows[rows], self.truth[rows], self.case[rows], self.slide[rows])
        return Learnt(*parts, self.classes, self.slides, self.cases)


def refit(table: SearchTable, labels: Labels, *, seed: int = 0) -> TileHead:
    """Fit a head to the labelled tiles of a recipe; see `HeldOut` for how it is judged. Writes nothing.

    Of more than 2,000 labelled tiles as many are used, equally many of each class of each case. Raises HeadError for
    labels of fewer than two classes, saying so in a sentence for the person who labels.
    """
    start = time.perf_counter()
    placed = placed_in(table, list(labels.tiles.values()))
    if not placed.labels:
        raise HeadError("no tile has a label yet: label some tiles of two classes")
    whole = Learnt.of(table, placed, labels.classes)
    if len(whole.classes) < 2:
        raise HeadError(
            f"all {len(whole.rows)} labelled tiles are of one class ({whole.classes[0]}): label tiles of a second one, "
            "such as what it must be told apart from"
        )
    learnt = whole.take(capped(whole.truth, whole.case, MAX_TILES, seed))
    vectors = widened(table.flat.vectors[learnt.rows])
    by, fold, note = _folds(learnt, seed)
    with one_thread():
        fitted = refit_vectors(vectors, learnt.truth, len(learnt.classes), fold)
    held_out = HeldOut(by, note)
    if fitted.held_out is not None and fold is not None:
        folds = len(np.unique(fold))
        held_out = _judged(fitted.held_out.argmax(axis=1), learnt, by, note, folds)
    return TileHead(
        table.record.recipe.key,
        labels.version,
        learnt.classes,
        np.ascontiguousarray(fitted.probe.coef, np.float32),
        fitted.probe.intercept.astype(np.float32),
        fitted.probe.penalty,
        len(whole.rows),
        len(learnt.rows),
        whole.slides,
        whole.cases,
        held_out,
        time.perf_counter() - start,
    )


def _folds(learnt: Learnt, seed: int) -> tuple[str, Index | None, str]:
    """What is kept apart, the fold of each tile, and a sentence about it.

    Cases where every class has tiles of two or more, else slides, else nothing.
    """
    short: list[str] = []
    for by, group in (("case", learnt.case), ("slide", learnt.slide)):
        counts = held(learnt.truth, group, len(learnt.classes))
        counts = counts[counts.sum(axis=1) > 0]
        groups = (counts > 0).sum(axis=0)
        if groups.min() >= 2:
            number = np.unique(group, return_inverse=True)[1]
            fold = place(counts, min(_FOLDS, len(counts)), generator(seed))[number]
            if _leaves_every_class(learnt.truth, fold):
                note = "each tile by a head that saw no tile of its case"
                if by == "slide":
                    note = f"no tile of a slide on both sides, but of a case: it flatters; {short[0]}"
                return by, np.asarray(fold, np.int64), note
        name = learnt.classes[int(groups.argmin())]
        where = "one" if groups.min() == 1 else "too few"
        short.append(f"{name} has tiles of {where} {by}{'' if where == 'one' else 's'}: label it in another")
    return "none", None, f"nothing could be held out: {short[-1]}"


def _leaves_every_class(truth: Index, fold: Index) -> bool:
    classes = len(np.unique(truth))
    return all(len(np.unique(truth[fold != number])) == classes for number in np.unique(fold))


def _judged(predicted: Index, learnt: Learnt, by: str, note: str, folds: int) -> HeldOut:
    right = predicted == learnt.truth
    counts = np.bincount(learnt.truth, minlength=len(learnt.classes))
    recall = np.bincount(learnt.truth, weights=right, minlength=len(learnt.classes)) / counts
    share = float(counts.max() / counts.sum())
    return HeldOut(by, note, float(right.mean()), float(recall.mean()), share, len(right), folds)
