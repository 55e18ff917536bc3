"""Queries: images, a stored tile, a region, a slide; and what they must not find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders import load_bundle
from beph_store.engine.embed import embed
from beph_store.engine.imported import IMPORTED_FROM, need_places
from beph_store.engine.search.table import SearchTable
from beph_store.errors import RecipeMismatch, UsageError
from beph_store.halves import widened
from beph_store.records import Hit

Exclude = Literal["none", "slide", "case"]
Pool = Literal["mean", "max"]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """``vectors`` (Q, D) float32; ``name`` for people; ``slide`` the place of its slide, None if from outside.

    ``row`` is the stored tile that it is, if it is one.
    """

    vectors: NDArray[np.float32]
    name: str
    slide: int | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """``where`` keeps rows before ranking; ``exclude`` None is ``case`` for what lies in the store, else ``none``.

    ``per_slide`` spreads hits over slides; ``pool`` joins several query vectors: the mean vector, or each row's best.
    ``exact`` leaves the index out.
    """

    top: int = 10
    where: str | None = None
    exclude: Exclude | None = None
    per_slide: int | None = None
    pool: Pool = "mean"
    exact: bool = False


def ask_images(table: SearchTable, images: Sequence[Path], *, encoder: str | None = None) -> Question:
    """Tile images through the encoder of the recipe; RecipeMismatch where that encoder is not at hand."""
    source = recipe_encoder(table, encoder)
    spec = table.record.recipe.encoder
    precision = None if spec.variant.startswith(IMPORTED_FROM) else spec.precision
    vectors = embed(images, encoder=source, precision=precision)
    return Question(vectors, ", ".join(path.name for path in images[:3]))


def recipe_encoder(table: SearchTable, encoder: str | None = None) -> str:
    """Where the encoder of the recipe is, or ``encoder`` if it is the same; RecipeMismatch where it is another."""
    spec = table.record.recipe.encoder
    source = encoder or table.record.encoder_source
    imported = spec.variant.startswith(IMPORTED_FROM)
    if imported and encoder is None:
        raise RecipeMismatch(
            f"these embeddings were {spec.variant}, their encoder {spec.name} is not here: ask with --at or --slide"
        )
    bundle = load_bundle(source)
    same_variant = imported or bundle.spec.variant == spec.variant
    if bundle.spec.weights_sha256 != spec.weights_sha256 or not same_variant:
        raise RecipeMismatch(
            f"the store was made with {spec.name} ({spec.variant}), {source} is another encoder: pass --encoder with "
            "the bundle that ingest used"
        )
    return source


def ask_at(table: SearchTable, slide_id: str, x: int, y: int) -> Question:
    """The stored tile that holds the level-0 point (x, y), the one whose middle is nearest."""
    need_places(table.record.recipe)
    slide = table.slide(slide_id)
    rows = table.span(slide)
    side = table.footprint(slide)
    away = np.abs(table.flat.origin_l0[rows].astype(np.int64) + side // 2 - (x, y)).max(axis=1)
    if not len(away) or away.min() > side:
        raise UsageError(
            f"no stored tile of {slide_id} at ({x}, {y}): level-0 px are wanted, and the point must lie on tissue"
        )
    row = rows.start + int(away.argmin())
    where = tuple(int(v) for v in table.flat.origin_l0[row])
    return Question(_vectors(table, np.array([row])), f"{table.flat.slide_ids[slide]} at {where}", slide, row)


def ask_region(table: SearchTable, slide_id: str, box: tuple[int, int, int, int]) -> Question:
    """The stored tiles whose middle lies in the level-0 box (x0, y0, x1, y1)."""
    need_places(table.record.recipe)
    slide = table.slide(slide_id)
    rows = table.span(slide)
    middle = table.flat.origin_l0[rows].astype(np.int64) + table.footprint(slide) // 2
    inside = ((middle >= box[:2]) & (middle < box[2:])).all(axis=1)
    if not inside.any():
        raise UsageError(
            f"no stored tile of {slide_id} in the region {box}: level-0 px are wanted, x0,y0,x1,y1"
        )
    found = rows.start + np.flatnonzero(inside)
    return Question(_vectors(table, found), f"{len(found)} tiles of {table.flat.slide_ids[slide]}", slide)


def ask_slide(table: SearchTable, slide_id: str) -> Question:
    """All tiles of a stored slide."""
    slide = table.slide(slide_id)
    rows = table.span(slide)
    return Question(
        _vectors(table, np.arange(rows.start, rows.stop)), f"all of {table.flat.slide_ids[slide]}", slide
    )


def find(table: SearchTable, question: Question, options: SearchOptions) -> list[Hit]:
    """The nearest rows by cosine, filters applied before ranking, best first."""
    if options.top < 1:
        raise UsageError("--top must be at least 1")
    mask = None if options.where is None else table.where(options.where)
    wanted = options.top if options.per_slide is None else max(200, 20 * options.top)
    queries = question.vectors.mean(axis=0, keepdims=True) if options.pool == "mean" else question.vectors
    found = table.searcher.search(
        queries,
        min(wanted, max(1, len(table.flat))),
        mask=mask,
        exclude=left_out(table, question, options.exclude),
        exact=options.exact,
    )
    best: dict[int, float] = {}
    for scores, rows in zip(found.score, found.index, strict=True):
        for score, row in zip(scores.tolist(), rows.tolist(), strict=True):
            if row >= 0:
                best[row] = max(score, best.get(row, -2.0))
    ranked = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
    hits = [table.hit(row, score) for row, score in ranked]
    return (hits if options.per_slide is None else spread(hits, options.per_slide))[: options.top]


def left_out(table: SearchTable, question: Question, exclude: Exclude | None) -> list[str]:
    """Ids of the slides that a query from the store must not find: by default those of its case."""
    exclude = exclude or ("none" if question.slide is None else "case")
    if question.slide is None or exclude == "none":
        return []
    ids, cases = table.flat.slide_ids, table.case_of
    if exclude == "slide":
        return [ids[question.slide]]
    return [name for name, case in zip(ids, cases, strict=True) if case == cases[question.slide]]


def spread(hits: Sequence[Hit], per_slide: int) -> list[Hit]:
    """The best hits in order, at most ``per_slide`` of one slide."""
    if per_slide < 1:
        raise UsageError("--diverse must be at least 1")
    seen: dict[str, int] = {}
    kept = []
    for hit in hits:
        seen[hit.slide_id] = seen.get(hit.slide_id, 0) + 1
        if seen[hit.slide_id] <= per_slide:
            kept.append(hit)
    return kept


def _vectors(table: SearchTable, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    return widened(table.flat.vectors[rows])
