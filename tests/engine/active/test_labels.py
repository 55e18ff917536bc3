"""Labels: who gave which when stays, undo takes back one's own, and nothing is ever rewritten."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from beph_store.engine.active.labels import (
    MAX_CLASSES,
    LabelBook,
    NothingToUndo,
    SlideMark,
    TileMark,
    replay,
)
from beph_store.errors import FormatUnknown, UsageError
from beph_store.store.journal import Journal


@pytest.fixture
def book(tmp_path) -> LabelBook:
    return LabelBook(Journal(tmp_path / "r.jsonl"))


def tile(number: int, label: str | None, slide: str = "a.svs") -> TileMark:
    return TileMark(slide, number, 224 * number, 0, label)


def now(book: LabelBook) -> dict[int, str | None]:
    return {label.mark.tile: label.mark.label for label in book.labels().tiles.values()}


def test_who_and_when_are_kept_and_the_last_label_holds(book, tmp_path) -> None:
    change = book.mark("Ann", [tile(1, "tumour"), tile(2, "stroma")])
    assert {subject[1] for subject in change.subjects} == {224, 448}
    change = book.mark("Bob ", [tile(1, "fat"), tile(2, "stroma")])
    assert [subject[1] for subject in change.subjects] == [224]  # tile 2 stays what it was
    held = {label.mark.tile: label for label in book.labels().tiles.values()}
    assert (held[1].mark.label, held[1].who, held[1].id) == ("fat", "Bob", "2.0")
    when = datetime.fromisoformat(held[1].at)
    assert when.tzinfo is not None
    assert timedelta(0) <= datetime.now(UTC) - when < timedelta(minutes=5)
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [(line["n"], line["who"], line["do"]) for line in lines] == [
        (1, "Ann", "tiles"),
        (2, "Bob", "tiles"),
    ]
    assert lines[0]["labels"][0] == {"slide_id": "a.svs", "tile": 1, "x": 224, "y": 0, "label": "tumour"}
    assert LabelBook(Journal(tmp_path / "r.jsonl")).labels() == book.labels()


def test_undo_and_redo_are_ones_own_and_exact(book) -> None:
    book.mark("Ann", [tile(1, "tumour")])
    book.mark("Bob", [tile(1, "fat"), tile(2, "fat")])
    book.mark("Ann", [tile(3, "stroma")])
    whole = now(book)
    for expected in ({1: "fat", 2: "fat"}, {1: "fat", 2: "fat"}):
        book.undo("tiles", "Ann")
        assert now(book) == expected  # Bob's label of tile 1 is later, and stays
    with pytest.raises(NothingToUndo, match="Ann has nothing to undo"):
        book.undo("tiles", "Ann")
    change = book.undo("tiles", "Bob")
    assert now(book) == {}
    assert len(change.subjects) == 2
    book.redo("tiles", "Ann")
    assert now(book) == {1: "tumour"}
    book.redo("tiles", "Bob")
    assert now(book) == {1: "fat", 2: "fat"}  # his was later than hers, and is again
    book.redo("tiles", "Ann")
    assert now(book) == whole
    assert not book.labels().can("redo", "tiles")
    assert book.labels().version == 9  # each step is an entry of its own


def test_a_label_may_be_taken_away_and_that_undone(book) -> None:
    book.mark("Ann", [tile(1, "tumour"), tile(2, "tumour")])
    change = book.mark("Ann", [tile(1, None), tile(3, None)])
    assert [subject[1] for subject in change.subjects] == [224]
    assert now(book) == {2: "tumour"}
    book.undo("tiles", "Ann")
    assert now(book) == {1: "tumour", 2: "tumour"}


def test_a_new_label_forgets_what_was_undone(book) -> None:
    book.mark("Ann", [tile(1, "tumour")])
    book.undo("tiles", "Ann")
    assert book.labels().can("redo", "tiles", "Ann")
    assert not book.labels().can("redo", "tiles", "Bob")
    book.mark("Ann", [tile(2, "tumour")])
    with pytest.raises(NothingToUndo, match="nothing to redo"):
        book.redo("tiles", "Ann")


def test_slides_have_a_history_of_their_own(book) -> None:
    book.mark("Ann", [SlideMark("a.svs", "label", "high"), SlideMark("a.svs", "site", "colon")])
    book.mark("Ann", [tile(1, "tumour")])
    book.undo("slides", "Ann")
    assert book.labels().slides == {}
    assert now(book) == {1: "tumour"}
    assert not book.labels().can("undo", "slides", "Ann")
    book.redo("slides", "Ann")
    assert [label.mark.label for label in book.labels().slides.values()] == ["high", "colon"]


def test_classes_keep_the_order_of_their_first_use(book) -> None:
    book.mark("Ann", [tile(1, "tumour"), tile(2, "stroma")])
    book.mark("Ann", [tile(1, "fat")])
    assert book.labels().classes == ("tumour", "stroma", "fat")
    book.undo("tiles", "Ann")
    assert book.labels().classes == ("tumour", "stroma", "fat")


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "x" * 81, "\u202eevil", "=1+1", "\ud800"])
def test_texts_that_cannot_be_kept_are_refused_and_nothing_is_written(book, text, tmp_path) -> None:
    with pytest.raises(UsageError, match="label"):
        book.mark("Ann", [tile(1, text)])
    with pytest.raises(UsageError, match="who"):
        book.mark(text, [tile(1, "tumour")])
    with pytest.raises(UsageError, match="column"):
        book.mark("Ann", [SlideMark("a.svs", text, "x")])
    assert not (tmp_path / "r.jsonl").exists() or not (tmp_path / "r.jsonl").read_bytes()


def test_odd_but_honest_names_are_kept(book) -> None:
    book.mark("Žofie <b>", [tile(1, "癌 & <script>"), tile(2, "-", slide="\udcff.svs")])
    held = book.labels()
    assert [label.mark.label for label in held.tiles.values()] == ["癌 & <script>", "-"]
    assert [label.mark.slide_id for label in held.tiles.values()] == ["a.svs", "\udcff.svs"]


def test_what_cannot_be_meant_is_refused(book) -> None:
    with pytest.raises(UsageError, match="tiles or slides"):
        book.mark("Ann", [])
    with pytest.raises(UsageError, match="tiles or slides"):
        book.mark("Ann", [tile(1, "a"), SlideMark("a.svs", "label", "b")])
    with pytest.raises(UsageError, match="cannot be called case_id"):
        book.mark("Ann", [SlideMark("a.svs", "case_id", "b")])
    with pytest.raises(UsageError, match="classes"):
        book.mark("Ann", [tile(i, f"class {i}") for i in range(MAX_CLASSES + 1)])


@pytest.mark.parametrize(
    "entry",
    [
        {"n": 1, "who": "Ann", "do": "polygons", "at": "x", "labels": []},
        {"n": 1, "who": "Ann", "do": "undo", "of": "tiles", "action": 7},
        {"n": 1, "who": "Ann", "do": "tiles", "at": "x", "labels": [{"slide_id": "a"}]},
        {"who": "Ann"},
    ],
)
def test_a_journal_of_another_version_is_not_guessed_at(entry) -> None:
    with pytest.raises(FormatUnknown, match="update beph-store"):
        replay([entry])


def test_two_books_on_one_journal_see_each_other(tmp_path) -> None:
    ann, bob = (LabelBook(Journal(tmp_path / "r.jsonl")) for _ in range(2))
    ann.mark("Ann", [tile(1, "tumour")])
    assert now(bob) == {1: "tumour"}
    bob.mark("Bob", [tile(2, "fat")])
    change = ann.undo("tiles", "Ann")
    assert change.labels.version == 3
    assert now(bob) == now(ann) == {2: "fat"}
