"""Labels that people give to tiles and slides: a journal of actions, and what holds after all of them.

An action labels any number of tiles, or of slides; a label of None takes one away. Undo and redo are actions too, each
person's over their own and for tiles and slides apart, so that nothing is ever rewritten and who, when and what stay.
A tile is known by its slide and its top left, which a new ingest under the same recipe keeps; its number is a hint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from beph_store.errors import FormatUnknown, UsageError
from beph_store.store.journal import Entry, Journal

Kind = Literal["tiles", "slides"]
#: A tile by (slide_id, x, y), or a slide's column by (slide_id, column).
Subject = tuple[str, int, int] | tuple[str, str]

MAX_CLASSES = 40
MAX_TEXT = 80
_RESERVED = {"slide_id", "case_id"}


class NothingToUndo(UsageError):
    """The person has no action to take back, or none to put back."""


@dataclass(frozen=True, slots=True)
class TileMark:
    """A tile and its class; None takes the label away."""

    slide_id: str
    tile: int
    x: int
    y: int
    label: str | None

    @property
    def subject(self) -> Subject:
        """What is labelled."""
        return self.slide_id, self.x, self.y


@dataclass(frozen=True, slots=True)
class SlideMark:
    """A slide, a column and its value there; None takes it away."""

    slide_id: str
    column: str
    label: str | None

    @property
    def subject(self) -> Subject:
        """What is labelled."""
        return self.slide_id, self.column


Mark = TileMark | SlideMark


@dataclass(frozen=True, slots=True)
class Label:
    """A mark that was made: ``id`` is the action's number and the mark's place in it, ``at`` ISO 8601, UTC."""

    id: str
    who: str
    at: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Labels:
    """What holds after ``version`` actions: one label a tile (``tiles``) and a slide's column (``slides``), the oldest
    first. ``classes`` in the order of their first use ever. ``done`` and ``undone`` are each person's actions that may
    be taken back and put back, the next one last.
    """

    version: int = 0
    tiles: Mapping[Subject, Label] = field(default_factory=dict)
    slides: Mapping[Subject, Label] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    done: Mapping[tuple[Kind, str], tuple[int, ...]] = field(default_factory=dict)
    undone: Mapping[tuple[Kind, str], tuple[int, ...]] = field(default_factory=dict)

    def can(self, what: Literal["undo", "redo"], kind: Kind, who: str | None = None) -> bool:
        """Whether ``who``, or anybody, has something to take back or put back."""
        stacks = self.done if what == "undo" else self.undone
        return any(stack for (of, name), stack in stacks.items() if of == kind and who in (None, name))


@dataclass(frozen=True, slots=True)
class Change:
    """An action that was written: ``labels`` after it, and the ``subjects`` whose label is another than before."""

    labels: Labels
    subjects: tuple[Subject, ...]


class LabelBook:
    """The labels of one recipe. Usable from several threads, and several processes may have it open.

    >>> book = LabelBook(Journal(store.layout.annotations(key)))
    >>> book.mark("Ann", [TileMark("a.svs", 4, 2048, 512, "tumour")])
    >>> book.undo("tiles", "Ann")
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known: tuple[int, Labels] = (-1, Labels())

    def labels(self) -> Labels:
        """What holds now."""
        return self._replayed(self._journal.read())

    def mark(self, who: str, marks: Sequence[Mark]) -> Change:
        """Write one action: marks of tiles only, or of slides only. UsageError for names that cannot be kept."""
        kinds = {"tiles" if isinstance(mark, TileMark) else "slides" for mark in marks}
        if len(kinds) != 1:
            raise UsageError("an action labels tiles or slides: give at least one, and of one kind")
        (kind,) = kinds
        who, marks = said(who, "who"), [_checked(mark) for mark in marks]

        def make(before: Labels) -> Entry:
            _check_classes(before, marks)
            return {"do": kind, "labels": [dataclasses.asdict(mark) for mark in marks]}

        return self._write(who, make)

    def undo(self, kind: Kind, who: str) -> Change:
        """Take back the last action of ``who`` on tiles or slides; NothingToUndo where there is none."""
        return self._step("undo", kind, said(who, "who"))

    def redo(self, kind: Kind, who: str) -> Change:
        """Put back what ``who`` took back last; NothingToUndo where there is none, or they labelled since."""
        return self._step("redo", kind, said(who, "who"))

    def _step(self, what: Literal["undo", "redo"], kind: Kind, who: str) -> Change:
        def make(before: Labels) -> Entry:
            stack = (before.done if what == "undo" else before.undone).get((kind, who), ())
            if not stack:
                raise NothingToUndo(f"{who} has nothing to {what}")
            return {"do": what, "of": kind, "action": stack[-1]}

        return self._write(who, make)

    def _write(self, who: str, make: Callable[[Labels], Entry]) -> Change:
        before = Labels()

        def entry(entries: Sequence[Entry]) -> Entry:
            nonlocal before
            before = self._replayed(entries)
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            return {"n": before.version + 1, "at": at, "who": who, **make(before)}

        written = self._journal.append(entry)
        entries = self._journal.read()
        # Another process may have written since: what it changed is told as well, nothing is missed.
        after = self._replayed(entries)
        number = int(written["n"])
        touched = [
            subject for one in entries if one.get("n", 0) >= number for subject in _touched(one, entries)
        ]
        changed = [s for s in dict.fromkeys(touched) if _value(before, s) != _value(after, s)]
        return Change(after, tuple(changed))

    def _replayed(self, entries: Sequence[Entry]) -> Labels:
        count, labels = self._known
        if count != len(entries) or (entries and labels.version != entries[-1].get("n")):
            labels = replay(entries)
            self._known = (len(entries), labels)
        return labels


def replay(entries: Iterable[Entry]) -> Labels:
    """What holds after the entries of a journal; FormatUnknown for one that this version does not know."""
    actions: dict[int, list[Label]] = {}
    done: dict[tuple[Kind, str], list[int]] = {}
    undone: dict[tuple[Kind, str], list[int]] = {}
    version, gone, classes = 0, set[int](), dict[str, None]()
    for entry in entries:
        try:
            version, who, what = int(entry["n"]), str(entry["who"]), entry["do"]
            kind: Kind = entry["of"] if what in ("undo", "redo") else what
            mine, theirs = (stacks.setdefault((kind, who), []) for stacks in (done, undone))
            if what in ("tiles", "slides"):
                actions[version] = _labels_of(entry)
                mine.append(version)
                theirs.clear()
                classes |= dict.fromkeys(_classes_of(entry))
            elif what in ("undo", "redo"):
                number = int(entry["action"])
                source, target = (mine, theirs) if what == "undo" else (theirs, mine)
                source.remove(number)
                target.append(number)
                (gone.add if what == "undo" else gone.discard)(number)
            else:
                raise ValueError(f"unknown action {what!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise FormatUnknown(
                f"entry {entry.get('n')} of the journal of labels cannot be understood ({error}): update beph-store"
            ) from error
    held: dict[Subject, Label] = {}
    for number, labels in actions.items():
        for label in labels if number not in gone else ():
            held.pop(label.mark.subject, None)
            if label.mark.label is not None:
                held[label.mark.subject] = label
    tiles: dict[Subject, Label] = {subject: label for subject, label in held.items() if len(subject) == 3}
    slides: dict[Subject, Label] = {subject: label for subject, label in held.items() if len(subject) == 2}
    told = [{key: tuple(stack) for key, stack in stacks.items()} for stacks in (done, undone)]
    return Labels(version, tiles, slides, tuple(classes), told[0], told[1])


def _labels_of(entry: Entry) -> list[Label]:
    found = []
    for place, one in enumerate(entry["labels"]):
        mark: Mark
        if entry["do"] == "tiles":
            mark = TileMark(one["slide_id"], int(one["tile"]), int(one["x"]), int(one["y"]), one["label"])
        else:
            mark = SlideMark(one["slide_id"], one["column"], one["label"])
        found.append(Label(f"{entry['n']}.{place}", str(entry["who"]), str(entry["at"]), mark))
    return found


def _classes_of(entry: Entry) -> list[str]:
    return [one["label"] for one in entry["labels"] if entry["do"] == "tiles" and one["label"] is not None]


def _touched(entry: Entry, entries: Sequence[Entry]) -> list[Subject]:
    """What an action may have changed."""
    if entry["do"] in ("undo", "redo"):
        entry = next(one for one in entries if one.get("n") == entry["action"])
    return [label.mark.subject for label in _labels_of(entry)]


def _value(labels: Labels, subject: Subject) -> str | None:
    held = (labels.tiles if len(subject) == 3 else labels.slides).get(subject)
    return None if held is None else held.mark.label


def said(text: str, name: str) -> str:
    """``text`` without blanks around it; UsageError where it is empty, too long, or holds control characters."""
    text = text.strip()
    if not 1 <= len(text) <= MAX_TEXT or not text.isprintable():
        raise UsageError(f"{name} is not a text of 1 to {MAX_TEXT} printable characters")
    if text[0] in "=+@":
        raise UsageError(
            f"{name} begins with {text[0]!r}, which a spreadsheet takes for a formula: leave it out"
        )
    return text


def _checked(mark: Mark) -> Mark:
    label = None if mark.label is None else said(mark.label, "label")
    if isinstance(mark, TileMark):
        return TileMark(mark.slide_id, mark.tile, mark.x, mark.y, label)
    column = said(mark.column, "column")
    if column.lower() in _RESERVED:
        raise UsageError(
            f"a column of labels cannot be called {column}: a table of slides has one of that name"
        )
    return SlideMark(mark.slide_id, column, label)


def _check_classes(before: Labels, marks: Sequence[Mark]) -> None:
    """A slip of a program that labels tiles by their numbers must not make a thousand classes."""
    tiles: list[Any] = [*(label.mark for label in before.tiles.values()), *marks]
    names = {mark.label for mark in tiles if isinstance(mark, TileMark) and mark.label is not None}
    if len(names) > MAX_CLASSES:
        raise UsageError(f"that would make {len(names)} classes of tiles; at most {MAX_CLASSES} are allowed")
