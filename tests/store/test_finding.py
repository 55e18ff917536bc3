"""Slides out of a table, each from where it lies: the same rows as by a filter, whatever happened to the table."""

import numpy as np
import pytest

from beph_store.store import compact
from beph_store.store.finding import SlideFinder
from tests.store.conftest import RECIPE, seal

SIZES = {"a.svs": 40, "b.svs": 3, "c.svs": 120, "d.svs": 1, "e.svs": 64}


def stored(new_writer):
    for name, tiles in SIZES.items():
        writer = new_writer()
        seal(writer, name, tiles, lost=(2,) if tiles > 3 else ())
        writer.close()


def same(store, finder):
    """Every slide, twice, is what the filter finds; how many were read by their place."""
    for row in [*store.rows(RECIPE.key)] * 2:
        assert finder.rows(row).sha256() == row.sha256
    return sum(finder._read(row) is not None for row in store.rows(RECIPE.key))


def replace(store, new_writer, name):
    writer = new_writer()
    known = store.slide(RECIPE.key, name).ingest_id
    seal(writer, name, SIZES[name], replaces=known)
    writer.close()


def test_a_fragment_a_slide(store, new_writer):
    stored(new_writer)
    assert same(store, SlideFinder(store, RECIPE.key)) == len(SIZES)


def test_several_slides_a_fragment_some_of_them_gone(store, new_writer):
    stored(new_writer)
    compact(store)
    assert len(store.dataset(RECIPE.key).get_fragments()) == 1
    assert same(store, SlideFinder(store, RECIPE.key)) == len(SIZES)
    replace(store, new_writer, "b.svs")
    replace(store, new_writer, "c.svs")
    assert same(store, SlideFinder(store, RECIPE.key)) == len(SIZES)


def test_the_table_changes_under_it(store, new_writer):
    stored(new_writer)
    finder = SlideFinder(store, RECIPE.key)
    assert same(store, finder) == len(SIZES)
    writer = new_writer()
    seal(writer, "f.svs", 9)
    writer.close()
    assert same(store, finder) == len(SIZES)  # the new one by the filter
    compact(store)  # and its files are gone
    assert same(store, finder) == 0


def test_rows_that_were_committed_twice_are_not_hidden(store, new_writer):
    import lance

    stored(new_writer)
    uri = str(store.layout.tiles(RECIPE.key))
    fragment = store.dataset(RECIPE.key).get_fragments()[0].metadata
    lance.LanceDataset.commit(
        uri, lance.LanceOperation.Append([fragment]), read_version=lance.dataset(uri).version
    )
    finder = SlideFinder(store, RECIPE.key)
    assert [finder.table(row).num_rows for row in store.rows(RECIPE.key)] == [80, 3, 120, 1, 64]
    assert finder.table(store.slide(RECIPE.key, "a.svs")).num_rows == 80


def test_a_bag_of_a_slide_that_was_replaced_meanwhile(store, new_writer):
    stored(new_writer)
    finder = SlideFinder(store, RECIPE.key)
    rows = store.rows(RECIPE.key)
    for row in rows:
        bag, right = finder.bag(row), store.bag(RECIPE.key, row.slide_id)
        assert (bag.slide_id, bag.recipe_key) == (right.slide_id, right.recipe_key)
        for name in ("tile_index", "origin_l0", "tissue", "vectors"):
            np.testing.assert_array_equal(getattr(bag, name), getattr(right, name))
    replace(store, new_writer, "a.svs")
    compact(store)
    assert len(finder.bag(rows[0]).vectors) == SIZES["a.svs"]


@pytest.mark.parametrize("slides", [1, 2])
def test_few_slides_are_found_by_the_filter(store, new_writer, slides):
    stored(new_writer)
    finder = SlideFinder(store, RECIPE.key)
    for row in store.rows(RECIPE.key)[:slides]:
        assert np.array_equal(finder.rows(row).ok, store.slide_rows(row).ok)
    assert not finder._known
