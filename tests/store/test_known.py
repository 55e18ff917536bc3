"""The registry kept in memory: current after every commit of anybody, and only what is new is read."""

import dataclasses

import pytest

from beph_store.store import SlideRow
from beph_store.store.known import Known
from beph_store.store.registry import TIDY_AT, Registry


@pytest.fixture
def registry(tmp_path):
    made = Registry(tmp_path / "slides.lance")
    made.create()
    return made


def row(name, status="done", **more):
    return SlideRow("r", name, status, ingest_id=f"{name}-1", **more)


def same(known, registry):
    assert known.rows() == {found.slide_id: found for found in registry.rows("r")}


def test_it_follows_every_commit(registry):
    known = Known(registry, "r")
    assert known.get("a") is None
    registry.put([row("a"), row("b", "failed", error="broken"), dataclasses.replace(row("c"), recipe="s")])
    same(known, registry)
    assert known.get("c") is None  # of another recipe
    registry.put([row("b")])
    assert known.get("b").status == "done"
    registry.put([row("a", tiles=7)])  # it is finished: that changes nothing
    assert known.get("a").tiles == 0
    registry.put([dataclasses.replace(row("a", tiles=7), ingest_id="a-2", replaces="a-1")])
    assert (known.get("a").ingest_id, known.get("a").tiles) == ("a-2", 7)
    same(known, registry)


def test_it_survives_that_the_table_is_compacted(registry):
    known = Known(registry, "r")
    for number in range(TIDY_AT + 1):
        registry.put([row(f"s{number}")])
        if number % 8 == 0:
            same(known, registry)
    registry.tidy()
    assert len(registry.dataset().get_fragments()) < TIDY_AT
    same(known, registry)
    registry.put([row("new"), dataclasses.replace(row("s3"), ingest_id="s3-2", replaces="s3-1")])
    same(known, registry)


def test_only_what_is_new_is_read(registry, monkeypatch):
    read, whole = [], Registry.rows_in
    monkeypatch.setattr(
        Registry, "rows_in", lambda *a: read.append(len(found := whole(*a))) or found, raising=True
    )
    registry.put([row(f"s{number}") for number in range(50)])
    known = Known(registry, "r")
    for _ in range(3):
        assert known.get("s7").complete
    registry.put([row("x")])
    assert known.get("x").complete
    assert known.get("s7").complete
    assert read == [50, 1]
