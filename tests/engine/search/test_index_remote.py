"""The index on a store in a bucket: built, asked, brought up to date, dropped."""

import numpy as np
import pytest

from beph_store.engine.search.ask import SearchOptions, ask_at, find
from beph_store.engine.search.indexing import make_index
from beph_store.engine.search.table import open_table
from beph_store.errors import SearchError
from beph_store.search import ann, searcher
from beph_store.store import Store, compact, verify
from tests.objects.server import environment
from tests.store.conftest import RECIPE, seal


@pytest.fixture(scope="module")
def bucket(moto, tmp_path_factory):
    """The address of a store of 5,200 drawn vectors."""
    with environment(moto), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEPH_STORE_WORK", str(tmp_path_factory.mktemp("work")))
        address = f"{moto.bucket()}/S"
        add(address, "a.svs", 4000)
        add(address, "b.svs", 1200)
        yield address


def add(address, name, tiles):
    store = Store.create(address, written_by="tests")
    writer = store.writer(RECIPE, run="r", encoder_source="toy", parity={})
    seal(writer, name, tiles)
    writer.close()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """An index pays from a few rows on, and is asked wherever there is one."""
    monkeypatch.setattr(ann, "MIN_ROWS", 1000)
    monkeypatch.setattr(searcher, "EXACT_ROWS", 0)


def both(address, top=10):
    """What the index and the comparison of all find for a tile of b: row numbers."""
    table = open_table(address)
    question = ask_at(table, "b.svs", 224, 224)
    ways = [SearchOptions(top=top, exclude="none", exact=exact) for exact in (False, True)]
    return [{hit.row for hit in find(table, question, options)} for options in ways]


def test_an_index_is_built_asked_updated_and_dropped(bucket, monkeypatch):
    assert make_index(bucket).did == "built"
    assert make_index(bucket).did == "current"
    path = str(Store.open(bucket).layout.tiles(RECIPE.key))
    assert ann.describe(path).rows_indexed == 5200

    asked = []
    whole = ann.TileIndex.candidates
    monkeypatch.setattr(ann.TileIndex, "candidates", lambda *a, **k: asked.append(1) or whole(*a, **k))
    found, right = both(bucket)
    assert asked, "the index was not asked"
    assert len(found & right) >= 8

    add(bucket, "c.svs", 300)
    assert make_index(bucket).did == "updated"
    compact(Store.open(bucket))
    found, right = both(bucket)
    assert len(found & right) >= 8
    assert verify(Store.open(bucket)).ok
    assert ann.drop(path)
    assert ann.describe(path) is None


def test_a_bucket_that_does_not_answer_is_one_line(bucket, monkeypatch):
    path = str(Store.open(bucket).layout.tiles(RECIPE.key))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("beph_store.objects.RETRIES", 1)
    monkeypatch.setattr("beph_store.objects.RETRY_S", 1)
    with pytest.raises(SearchError) as failed:
        ann.build(path, ann.IndexPlan("IVF_RQ", 4), np.ones((1024, 16), np.float16))
    assert "\n" not in str(failed.value)
