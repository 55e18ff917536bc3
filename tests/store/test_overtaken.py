"""Whoever reads while `compact` drops the version that he has opened reads the newer one, and sees the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import lance
import numpy as np
import pytest

from beph_store.engine.annotate import stored_tiles
from beph_store.errors import StoreError
from beph_store.store import SlideRow, Store, compact, query, reader, registry, tables
from beph_store.store.known import Known
from tests.store.conftest import RECIPE, seal

SLIDES = ("a.svs", "b.svs", "c.svs")
Arrange = Callable[[str], list[int]]


@pytest.fixture
def full(store: Store, new_writer: Callable[..., Any]) -> Store:
    """Every slide in a commit of its own, so that a compaction rewrites both tables."""
    for name in SLIDES:
        writer = new_writer()
        seal(writer, name, 50, lost=(3,))
        writer.close()
    return store


@pytest.fixture
def overtaken(full: Store, monkeypatch: pytest.MonkeyPatch) -> Arrange:
    """A compaction right after an opening of the table of that name; the list that it gives counts down to it."""
    opened = tables.open_table

    def arrange(name: str) -> list[int]:
        left = [1]

        def then_compacted(where: Any) -> lance.LanceDataset:
            table = opened(where)
            if left[0] and where.name == name:
                left[0] -= 1
                if not left[0]:
                    compact(full)
            return table

        for module in (tables, reader, registry):
            monkeypatch.setattr(module, "open_table", then_compacted)
        return left

    return arrange


def rows(store: Store) -> list[str]:
    return [row.slide_id for row in store.rows(RECIPE.key)]


LOOKS: dict[str, Callable[[Store], object]] = {
    "rows": rows,
    "slide": lambda store: store.slide(RECIPE.key, "b.svs").tiles,
    "ids": lambda store: store.registry.slide_ids(),
    "recipes": lambda store: store.registry.recipes_with_tiles(),
    "some": lambda store: sorted(store.registry.some(RECIPE.key, SLIDES[:2])),
    "known": lambda store: sorted(Known(store.registry, RECIPE.key).rows()),
    "summary": lambda store: [one.tiles for one in store.summaries()],
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_the_registry(full: Store, overtaken: Arrange, look: Callable[[Store], object]) -> None:
    before = look(full)
    left = overtaken("slides.lance")
    assert look(full) == before
    assert left == [0]


def test_the_tiles_of_a_slide(full: Store, overtaken: Arrange) -> None:
    name = full.layout.tiles(RECIPE.key).name
    row = full.slide(RECIPE.key, "b.svs")
    left = overtaken(name)
    assert full.slide_rows(row).sha256() == row.sha256
    assert left == [0]


def test_the_places_of_a_slides_tiles(full: Store, overtaken: Arrange) -> None:
    row = full.slide(RECIPE.key, "b.svs")
    tile, places = stored_tiles(full, row)
    left = overtaken(full.layout.tiles(RECIPE.key).name)
    again, places_again = stored_tiles(full, row)
    assert left == [0]
    assert len(tile) == 49
    assert np.array_equal(again, tile)
    assert np.array_equal(places_again, places)


def test_a_query(full: Store, overtaken: Arrange) -> None:
    sql = "SELECT slide_id, count(*) AS n FROM tiles GROUP BY slide_id ORDER BY slide_id"
    before = query(full, sql)
    left = overtaken(full.layout.tiles(RECIPE.key).name)
    left[0] = 2  # the first opening is for the version
    assert query(full, sql).equals(before)
    assert left == [0]


def test_a_file_that_is_missing_from_the_newest_version_is_damage(full: Store) -> None:
    shutil.rmtree(full.layout.registry / "data")
    with pytest.raises(StoreError, match=r"slides\.lance cannot be read"):
        full.rows(RECIPE.key)


def test_a_registry_that_changes_all_the_time_ends_in_an_error(
    full: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, tries = tables.open_table, []

    def vanishing(where: Any) -> lance.LanceDataset:
        table = opened(where)
        writer = full.writer(RECIPE, run=f"r{len(tries)}", encoder_source="toy", parity={})
        monkeypatch.setattr(tables, "open_table", opened)
        writer.fail("bad.svs", SlideRow(RECIPE.key, "bad.svs", "failed", error=f"no {len(tries)}"))
        writer.close()
        compact(full)
        monkeypatch.setattr(tables, "open_table", vanishing)
        tries.append(table.version)
        return table

    monkeypatch.setattr(tables, "open_table", vanishing)
    with pytest.raises(StoreError, match="cannot be read"):
        full.rows(RECIPE.key)
    assert len(tries) >= 4
