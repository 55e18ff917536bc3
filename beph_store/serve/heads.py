"""The trained heads that a server knows: those of its store's jobs, and those in folders that the operator named."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beph_store.engine.study.attention import Show, Thought, thought
from beph_store.engine.study.shown import Shown, figures_of, shown
from beph_store.engine.study.trained import RUN_FILE, TrainedRun
from beph_store.errors import BephStoreError

#: Runs kept open with the weights of their heads, and maps of tiles kept in memory.
_OPEN = 8
_THOUGHTS = 64


@dataclass(frozen=True, slots=True, eq=False)
class KnownHead:
    """``id`` is the job's, or of a folder ``f`` and 16 hex digits of its record's SHA-256; ``source`` job or folder."""

    id: str
    source: str
    run: TrainedRun

    @property
    def folder(self) -> Path:
        """What `train` wrote."""
        return self.run.folder

    @property
    def recipe(self) -> str:
        """Key of the recipe that it was trained on."""
        return str(self.run.about["recipe"]["key"])

    @property
    def key(self) -> str:
        """Names this training, even where another one comes to lie in its folder."""
        return f"{self.id} {self.run.about['written_at']}"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder that has a record of a training which cannot be used, and why."""

    id: str
    error: str


Found = KnownHead | Unreadable
Mark = tuple[int, int]


@dataclass(slots=True)
class HeadShelf:
    """What was read of heads. Usable from several threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _asking: threading.Lock = field(default_factory=threading.Lock)
    _found: OrderedDict[tuple[Path, str], tuple[Mark, Found]] = field(default_factory=OrderedDict)
    _loaded: OrderedDict[str, TrainedRun] = field(default_factory=OrderedDict)
    _thoughts: OrderedDict[tuple[object, ...], Thought] = field(default_factory=OrderedDict)
    _shown: OrderedDict[str, tuple[Shown, dict[str, Any]]] = field(default_factory=OrderedDict)

    def opened(self, folder: Path, name: str | None) -> Found:
        """The head in a folder, read again when its record has changed. ``name`` is its job, None for a folder."""
        record = folder / RUN_FILE
        status = record.stat()
        mark = (status.st_mtime_ns, status.st_size)
        with self._lock:
            held = self._found.get((folder, name or ""))
            if held is None or held[0] != mark:
                held = self._found[folder, name or ""] = (mark, _open(folder, name))
            return held[1]

    def ask(
        self, head: KnownHead, slide: tuple[str, str], vectors: Any, wanted: tuple[Show, str | None]
    ) -> Thought:
        """What the head thinks of a slide's tiles. ``slide`` is (case id, a name for its content); ``wanted`` what to
        show and of which class. One thread at a time asks, as the weights are the same for all.
        """
        key = (head.key, slide, wanted)
        with self._asking:
            held = self._thoughts.get(key)
            if held is None:
                held = thought(self._weights(head), slide[0], vectors, show=wanted[0], of_class=wanted[1])
                _put(self._thoughts, key, held, _THOUGHTS)
            return held

    def _weights(self, head: KnownHead) -> TrainedRun:
        """The run with its heads loaded, for the CPU: a GPU is the jobs'."""
        if head.key not in self._loaded:
            _put(self._loaded, head.key, TrainedRun.open(head.folder, device="cpu"), _OPEN)
        self._loaded.move_to_end(head.key)
        return self._loaded[head.key]

    def figures(self, head: KnownHead) -> tuple[Shown, dict[str, Any]]:
        """Its held-out predictions, and what is drawn of them."""
        with self._lock:
            held = self._shown.get(head.key)
        if held is None:
            data = shown(head.run)
            held = (data, figures_of(head.run, data))
            with self._lock:
                _put(self._shown, head.key, held, _OPEN)
        return held


def _put(held: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    held[key] = value
    while len(held) > most:
        held.popitem(last=False)


def _open(folder: Path, name: str | None) -> Found:
    digest = hashlib.sha256((folder / RUN_FILE).read_bytes()).hexdigest()[:16]
    made = name or f"f{digest}"
    try:
        run = TrainedRun.open(folder)
        # Touched here, so that a folder which lacks something is told once and not at every request.
        str(run.about["recipe"]["key"]), run.about["written_at"], run.about["metrics"], run.specs
    except (BephStoreError, KeyError, TypeError) as error:
        said = (
            str(error).replace(str(folder), folder.name)
            if isinstance(error, BephStoreError)
            else "it is incomplete"
        )
        return Unreadable(made, said)
    return KnownHead(made, "job" if name else "folder", run)
