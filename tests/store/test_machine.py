"""A store against a plain dict: whatever two writers do, die of and repeat, it says what the dict says.

Every rule is what a command does: ingest, some of it, ``--replace``, a slide that fails, the commit, a death before it,
in the middle of it and after it, the same command again, compact. The dict is what a user may count on.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beph_store.errors import StoreError
from beph_store.records import SlideInfo, TileSet
from beph_store.store import ClaimedSlide, RecipeWriter, SlideRow, Store, compact, verify
from beph_store.store.registry import Registry
from beph_store.testing.store_parts import (
    KEY,
    info_of,
    rasters_of,
    row_of,
    seal,
    tiles_of,
    vectors_of,
    writer_of,
)
from tests.laws import examples
from tests.store.conftest import crash

WHO = st.sampled_from(["one", "two"])
SLIDES = st.sampled_from(["a.svs", "b/ü 1.svs"])
VERSIONS = st.integers(0, 4)
#: Where in a commit a process may die, by what is not reached.
DEATHS = {
    "before": (RecipeWriter, "_append"),
    "between": (Registry, "put"),
    "after": (RecipeWriter, "_after_commit"),
}


class Died(BaseException):
    """No handler of ours may catch it, as none would run."""


@dataclass(frozen=True)
class Content:
    """What a file holds on one day: ``n`` tiles, another number each day, some of them unreadable."""

    slide_id: str
    version: int

    @property
    def n(self) -> int:
        return (6, 0, 1, 9, 3)[self.version]

    @property
    def ok(self) -> np.ndarray:
        return np.arange(self.n) % 4 != 3

    @property
    def info(self) -> SlideInfo:
        return dataclasses.replace(info_of(self.slide_id), fingerprint=f"{self.version:064}")

    @property
    def tiles(self) -> TileSet:
        return tiles_of(self.slide_id, self.n)

    @property
    def vectors(self) -> np.ndarray:
        return vectors_of(self.slide_id, self.n, self.version)


@dataclass
class Known:
    """The dict: of each slide what readers see, what is sealed and by whom held, what a dead process left."""

    seen: dict[str, tuple[Content, SlideRow]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    held: dict[str, tuple[str, Content | None, SlideRow | None]] = field(default_factory=dict)
    left: dict[str, tuple[Content, SlideRow]] = field(default_factory=dict)
    spooled: dict[str, tuple[Content, int]] = field(default_factory=dict)

    def commit(self, who: str) -> None:
        for slide_id, (holder, content, row) in list(self.held.items()):
            if holder != who:
                continue
            del self.held[slide_id]
            if content is not None and row is not None:
                self.seen[slide_id] = content, row
                self.failed.discard(slide_id)
                self.spooled.pop(slide_id, None)
            elif slide_id not in self.seen:
                self.failed.add(slide_id)

    def die(self, who: str) -> None:
        """A sealed slide stays to be taken over; that one failed, or has no tiles, must be found out again."""
        for slide_id, (holder, content, row) in list(self.held.items()):
            if holder == who:
                del self.held[slide_id]
                if content is not None and row is not None and content.n:
                    self.left[slide_id] = content, row


class StoreMachine(RuleBasedStateMachine):
    """Two writers, each perhaps a process; the rules are what may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="beph-machine-"))
        self.store = Store.create(self.folder / "S", written_by="test")
        self.writers = {who: writer_of(self.store, who) for who in ("one", "two")}
        self.known = Known()

    def claim(self, who: str, slide_id: str) -> ClaimedSlide | None:
        """As an ingest claims: None where there is nothing to read, or somebody has it."""
        if slide_id in self.known.held:
            if self.known.held[slide_id][0] != who:
                assert self.writers[who].claim(slide_id) is None
            return None
        claim = self.writers[who].claim(slide_id)
        assert claim is not None, "nobody has it"
        return claim

    def take_over(self, who: str, claim: ClaimedSlide) -> bool:
        """What a dead process had sealed is found, once, and only that."""
        found = self.writers[who].recover(claim)
        left = self.known.left.pop(claim.slide_id, None)
        assert (found is None) == (left is None)
        if found is None or left is None:
            return False
        assert found.ingest_id == left[1].ingest_id
        self.known.held[claim.slide_id] = who, *left
        return True

    @rule(
        who=WHO,
        slide_id=SLIDES,
        version=VERSIONS,
        replace=st.booleans(),
        finish=st.sampled_from([True, True, False]),
    )
    def ingest(self, who: str, slide_id: str, version: int, replace: bool, finish: bool) -> None:
        claim = self.claim(who, slide_id)
        if claim is None:
            return
        writer, content = self.writers[who], Content(slide_id, version)
        old = self.known.seen.get(slide_id)
        if old is not None and not replace:
            writer.release(slide_id)
            return
        if self.take_over(who, claim):
            return
        spool = writer.open_spool(claim, content.info, content.tiles)
        before = self.known.spooled.get(slide_id)
        assert spool.resumed == (before[1] if before and before[0] == content else 0)
        todo = np.flatnonzero(~spool.done).astype(np.int32)
        if not finish:
            todo = todo[: len(todo) // 2]
        spool.add(todo, content.ok[todo], content.vectors[todo])
        spool.flush()
        self.known.spooled[slide_id] = content, int(spool.done.sum())
        if not finish:
            writer.release(slide_id)
            return
        row = writer.seal(claim, rasters_of(), row_of(slide_id, old and old[1].ingest_id))
        self.known.held[slide_id] = who, content, row

    @rule(who=WHO, slide_id=SLIDES)
    def fail(self, who: str, slide_id: str) -> None:
        claim = self.claim(who, slide_id)
        if claim is not None and not self.take_over(who, claim):
            self.writers[who].fail(slide_id, SlideRow(KEY, slide_id, "failed", error="no mpp"))
            self.known.held[slide_id] = who, None, None

    @rule(who=WHO)
    def publish(self, who: str) -> None:
        self.writers[who].publish(force=True)
        self.known.commit(who)

    @rule(who=WHO)
    def close(self, who: str) -> None:
        self.writers[who].close()
        self.known.commit(who)
        self.writers[who] = writer_of(Store.open(self.store.layout.root), who)

    @rule(who=WHO)
    def die(self, who: str) -> None:
        crash(self.writers[who])
        self.known.die(who)
        self.writers[who] = writer_of(self.store, who)

    @rule(who=WHO, where=st.sampled_from(sorted(DEATHS)))
    def die_while_publishing(self, who: str, where: str) -> None:
        owner, name = DEATHS[where]
        if any(holder == who for holder, *_ in self.known.held.values()):
            with mock.patch.object(owner, name, side_effect=Died), pytest.raises(Died):
                self.writers[who].publish(force=True)
            if where == "after":
                self.known.commit(who)
        self.die(who)

    @precondition(lambda self: not self.known.held and not self.known.left)
    @rule()
    def compact(self) -> None:
        compact(self.store)
        for slide_id in self.known.seen:
            self.known.spooled.pop(slide_id, None)
        self.whole()
        assert verify(self.store).notes == [], "nothing is left over"
        assert self.rows() == sum(content.n for content, _ in self.known.seen.values())

    @precondition(lambda self: self.known.held or self.known.left)
    @rule()
    def compact_too_early(self) -> None:
        with pytest.raises(StoreError):
            compact(self.store)

    @rule()
    def reopen(self) -> None:
        self.store = Store.open(self.store.layout.root)
        self.whole()

    def whole(self) -> None:
        report = verify(self.store)
        assert report.problems == []
        assert report.slides == sum(content.n > 0 for content, _ in self.known.seen.values())

    def rows(self) -> int:
        return int(self.store.dataset(KEY).count_rows()) if self.store.layout.tiles(KEY).exists() else 0

    @invariant()
    def readers_see_what_was_committed_and_nothing_else(self) -> None:
        rows = {row.slide_id: row for row in self.store.rows(KEY)}
        assert rows.keys() == self.known.seen.keys() | self.known.failed
        for slide_id, (content, row) in self.known.seen.items():
            assert rows[slide_id].ingest_id == row.ingest_id
            assert rows[slide_id].status == ("done" if content.n else "empty")
            bag = self.store.bag(KEY, slide_id)
            assert bag.tile_index.tolist() == np.flatnonzero(content.ok).tolist()
            np.testing.assert_array_equal(bag.vectors, content.vectors[content.ok].astype(np.float16))
        assert all(rows[slide_id].status == "failed" for slide_id in self.known.failed)

    def teardown(self) -> None:
        """However it ended: run everything again, and it is whole."""
        for who in ("one", "two"):
            self.close(who)
        last = writer_of(self.store, "last")
        for slide_id in list(self.known.left):
            claim = last.claim(slide_id)
            assert claim is not None
            self.writers["last"] = last
            assert self.take_over("last", claim)
        last.close()
        self.known.commit("last")
        self.readers_see_what_was_committed_and_nothing_else()
        self.compact()
        shutil.rmtree(self.folder)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = examples(10, stateful_step_count=14)


def test_what_is_committed_is_not_taken_over_again(store: Store) -> None:
    """A process died between its commit and its cleaning up; the next one replaces the slide, and gets the new one."""
    first = writer_of(store, "first")
    old = seal(first, "a.svs", 9)
    with mock.patch.object(*DEATHS["after"], side_effect=Died), pytest.raises(Died):
        first.publish(force=True)
    crash(first)
    second = writer_of(store, "second")
    claim = second.claim("a.svs")
    assert claim is not None
    assert second.recover(claim) is None
    second.release("a.svs")
    new = seal(second, "a.svs", 4, version=1, replaces=old.ingest_id)
    second.close()
    assert store.slide(KEY, "a.svs").ingest_id == new.ingest_id
    assert len(store.bag(KEY, "a.svs")) == 4
    assert verify(store).ok
