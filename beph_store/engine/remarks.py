"""What an ingest says beside its figures: what went well and is most likely not what was meant."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

from beph_store.engine.report import KeptCount
from beph_store.geometry import MPP_HINT
from beph_store.records import Recipe, SlideOutcome
from beph_store.store import Store


def remarks(
    store: Store, recipe: Recipe, outcomes: Collection[SlideOutcome], kept: KeptCount | None
) -> Iterator[str]:
    """A line each, once the slides are over; ``kept`` counts their pixels where those were asked for."""
    if kept is not None and kept.without:
        yield (
            f"slides in the store without their tiles' pixels: {kept.without}; --keep-tiles --replace ingests "
            "them again"
        )
    if any(o.status in ("empty", "skipped") for o in outcomes) and not any(o.tiles for o in outcomes):
        yield _no_tile(recipe)
    yield from _two_names(store, {outcome.slide_id for outcome in outcomes})


def _no_tile(recipe: Recipe) -> str:
    tile = recipe.tile
    return (
        f"no slide gave a tile: nowhere are {tile.tissue_min:.0%} of a square of {tile.tile_px * tile.mpp:,.0f} µm "
        f"({tile.tile_px} px at {tile.mpp:g}) tissue; --mpp is {MPP_HINT}, and --tissue-min asks for less"
    )


def _two_names(store: Store, slides: Collection[str]) -> Iterator[str]:
    """``case-7``, as other tools call a slide, and ``case-7.svs``, as ingest does, under whatever recipes."""
    stored = store.registry.slide_ids()
    pairs = [(name, bare) for name in slides if (bare := _bare(name)) != name and bare in stored]
    pairs += [(name, bare) for name in stored if (bare := _bare(name)) != name and bare in slides]
    if pairs:
        name, bare = min(pairs)
        yield (
            f"{len(set(pairs))} slides are in the store under two names, such as {bare} and {name}: for labels and "
            "searches they are different slides; --manifest with a column slide_id calls them alike"
        )


def _bare(slide_id: str) -> str:
    return str(PurePosixPath(slide_id).with_suffix(""))
