"""Interrupt an operation at a point, run it again, and compare with a run that nothing interrupted."""

import itertools
import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from beph_store.store import Store, compact, verify
from tests.faults.inject import ACTIONS, Fault
from tests.faults.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Trial:
    """One operation, prepared once, with what it leaves when nothing happens and how often it calls each site."""

    name: str
    folder: Path
    calls: dict[str, int] = field(default_factory=dict)
    whole: Any = None

    @classmethod
    def begin(cls, name: str, folder: Path) -> "Trial":
        trial = cls(name, folder)
        (folder / "begin").mkdir(parents=True)
        OPERATIONS[name].prepare(folder / "begin")
        shutil.copytree(folder / "begin", folder / "whole")
        done = _child(name, folder / "whole")
        assert done.returncode == 0, f"{name}, with no fault at all: {done.stderr[-3000:]}"
        trial.calls = json.loads(done.stdout.splitlines()[-1])
        trial.whole = OPERATIONS[name].state(folder / "whole")
        return trial

    def points(self) -> list[Fault]:
        """Every call that this operation makes, with everything that may happen there."""
        return [
            Fault(site, nth, action)
            for site, actions in ACTIONS.items()
            for nth in range(1, self.calls.get(site, 0) + 1)
            for action in actions
        ]

    def drawn(self, count: int, seed: int) -> list[Fault]:
        """Some of the points, every site among them as far as ``count`` goes."""
        chance = random.Random(seed)
        by_site: dict[str, list[Fault]] = {}
        for point in self.points():
            by_site.setdefault(point.site, []).append(point)
        columns = [chance.sample(points, len(points)) for points in by_site.values()]
        rounds = (point for row in itertools.zip_longest(*columns) for point in row if point is not None)
        return list(itertools.islice(rounds, count))

    def interrupt(self, fault: Fault) -> None:
        """The fault, then the same again without it; afterwards all has to be as if it had never been."""
        work = self.folder / str(fault).replace(" ", "-")
        shutil.copytree(self.folder / "begin", work)
        _child(self.name, work, fault)
        if (work / "S" / "store.json").exists():
            problems = verify(Store.open(work / "S")).problems
            assert not problems, f"{self.name}, {fault}: a reader sees {problems}"
        again = _child(self.name, work)
        assert again.returncode == 0, f"{self.name}, {fault}, then again: {again.stderr[-3000:]}"
        _equal(OPERATIONS[self.name].state(work), self.whole, f"{self.name}, {fault}")
        if (work / "S").exists():
            _clean(work / "S", f"{self.name}, {fault}")
            _equal(
                OPERATIONS[self.name].state(work), self.whole, f"{self.name}, {fault}, compacted", index=False
            )
        shutil.rmtree(work)


def _child(name: str, folder: Path, fault: Fault | None = None) -> subprocess.CompletedProcess[str]:
    point = [fault.site, str(fault.nth), fault.action] if fault else []
    command = [sys.executable, "-m", "tests.faults.child", name, str(folder), *point]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def _clean(store: Path, what: str) -> None:
    """No orphan is left after compact, in the tables, the staging folder or beside files that were being renamed."""
    compact(Store.open(store))
    report = verify(Store.open(store))
    assert report.ok, f"{what}: {report.problems}"
    assert not report.notes, f"{what}: after compact {report.notes}"
    left = [path for path in (store / "staging").rglob("*") if path.is_file()]
    assert not left, f"{what}: {left}"


def _equal(mine: Any, theirs: Any, what: str, *, index: bool = True) -> None:
    if isinstance(mine, pl.DataFrame):
        try:
            assert_frame_equal(mine, theirs)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None
    elif isinstance(mine, tuple):
        _equal(mine[0], theirs[0], what)
        assert not index or mine[1:] == theirs[1:], f"{what}: {mine[1:]} in place of {theirs[1:]}"
    else:
        assert mine == theirs, what
