"""A journal keeps what was acknowledged, whatever happens in the middle of a line."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from beph_store.errors import StoreError
from beph_store.store.journal import Journal


def numbered(entries):
    return {"n": len(entries) + 1, "text": "é\n"}


def test_entries_come_back_in_order_and_lie_one_a_line(tmp_path) -> None:
    journal = Journal(tmp_path / "deep" / "a.jsonl")
    assert journal.read() == ()
    for _ in range(3):
        journal.append(numbered)
    assert [entry["n"] for entry in journal.read()] == [1, 2, 3]
    assert Journal(journal.path).read() == journal.read()
    lines = journal.path.read_bytes().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("torn", [b'{"n": 3, "te', b'{"n": 3, "text": "whole"}', b"{", b"\xff\x00"])
def test_a_torn_last_line_does_not_count_and_hides_nothing(tmp_path, torn) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.append(numbered)
    journal.append(numbered)
    before = journal.path.read_bytes()
    with journal.path.open("ab") as file:
        file.write(torn)
    for reader in (journal, Journal(journal.path)):
        assert [entry["n"] for entry in reader.read()] == [1, 2]
    assert Journal(journal.path).append(numbered)["n"] == 3
    for reader in (journal, Journal(journal.path)):
        assert [entry["n"] for entry in reader.read()] == [1, 2, 3]
        assert reader.torn == 1
    assert journal.path.read_bytes().startswith(before + torn)  # nothing was rewritten


def test_what_make_raises_goes_through_and_nothing_is_written(tmp_path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.append(numbered)
    size = journal.path.stat().st_size

    def refuse(entries):
        raise KeyError(len(entries))

    with pytest.raises(KeyError, match="1"):
        journal.append(refuse)
    assert journal.path.stat().st_size == size
    assert journal.append(numbered)["n"] == 2


def test_another_file_in_its_place_is_read_from_the_start(tmp_path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    for _ in range(3):
        journal.append(numbered)
    aside = tmp_path / "b.jsonl"
    aside.write_text('{"n": 7}\n' * 10)
    aside.replace(journal.path)
    assert [entry["n"] for entry in journal.read()] == [7] * 10
    journal.path.write_text('{"n": 9}\n')
    assert [entry["n"] for entry in journal.read()] == [9]
    journal.path.unlink()
    assert journal.read() == ()


def test_a_journal_that_cannot_be_written_says_so(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Journal(tmp_path / "file" / "a.jsonl").append(numbered)


WRITER = """
import sys
from pathlib import Path
from beph_store.store.journal import Journal
journal = Journal(Path(sys.argv[1]))
for _ in range(30):
    journal.append(lambda entries: {"n": len(entries) + 1, "who": sys.argv[2], "long": "x" * 9000})
"""


def test_two_processes_at_once_lose_nothing(tmp_path, run_python) -> None:
    path = tmp_path / "a.jsonl"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda who: run_python(WRITER, path, who), ["Ann", "Bob"]))
    entries = Journal(path).read()
    assert [entry["n"] for entry in entries] == list(range(1, 61))
    assert sorted(entry["who"] for entry in entries) == ["Ann"] * 30 + ["Bob"] * 30


def test_threads_share_a_journal(tmp_path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: journal.append(numbered), range(40)))
    assert [entry["n"] for entry in journal.read()] == list(range(1, 41))
