"""Training, validation and test tiles, divided by case: a case is on one side only, whatever classes it holds.

``truth`` (n,) and ``case`` (n,) int64 are the class and the case number of each tile. The same seed gives the same
splits on every machine, and the same test folds as ``tile_folds``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.grouped import held, tile_folds
from beph_store.cohort.labels import some
from beph_store.cohort.sheets import read_sheet
from beph_store.cohort.strata import Cases, generator, place
from beph_store.errors import CohortError

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "tune"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_LEAST_FOLDS = 3


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """``folds`` 1 is one split with about ``test_fraction`` of the cases to test, more is cross-validation.

    ``val_fraction`` of the cases that are not tested choose when to stop; ``train_fraction`` of them are used at all.
    """

    folds: int = 1
    test_fraction: float = 0.2
    val_fraction: float = 0.15
    train_fraction: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("test_fraction", "val_fraction"):
            if not 0 < getattr(self, name) <= 0.5:
                raise CohortError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: pass a share up to 0.5, such as 0.2"
                )
        if self.folds != 1 and self.folds < _LEAST_FOLDS:
            raise CohortError(f"--folds {self.folds}: pass 1 for a single split, or {_LEAST_FOLDS} and more")


@dataclass(frozen=True, slots=True, eq=False)
class TileSplit:
    """Rows of the tiles of each side, rising; ``test`` is empty where a model is trained on all cases."""

    name: str
    train: Cases
    val: Cases
    test: Cases


def tile_splits(truth: Cases, case: Cases, classes: Sequence[str], choice: SplitChoice) -> list[TileSplit]:
    """One split, or as many as there are folds. Raises CohortError where a class has too few cases."""
    folds = choice.folds if choice.folds > 1 else max(_LEAST_FOLDS, round(1 / choice.test_fraction))
    fewest = (held(truth, case, len(classes)) > 0).sum(axis=0)
    if choice.folds == 1 and _LEAST_FOLDS <= fewest.min() < folds:
        raise CohortError(
            f"{fewest.min()} cases of class {classes[int(fewest.argmin())]!r}, too few to have some in a test part of "
            f"{1 / folds:.2g}: pass --test-fraction {1 / int(fewest.min()):.2g}, or leave it out with --classes"
        )
    division = tile_folds(
        truth, case, classes, folds, train_fraction=choice.train_fraction, seed=(choice.seed, 0)
    )
    names = [f"fold-{number}" for number in range(folds)] if choice.folds > 1 else ["split"]
    splits = []
    for number, name in enumerate(names):
        rest = (division.fold != number) & division.pool
        val = _validation(truth, case, rest, len(classes), choice, number)
        splits.append(_split(name, case, rest & ~val, val, division.fold == number))
    return splits


def whole_split(truth: Cases, case: Cases, classes: Sequence[str], choice: SplitChoice) -> TileSplit:
    """All cases to train on but those that choose when to stop: the model that is kept after cross-validation."""
    everyone = np.zeros(int(case.max()) + 1, np.bool_)
    everyone[case] = True
    val = _validation(truth, case, everyone, len(classes), choice, choice.folds)
    return _split("final", case, everyone & ~val, val, np.zeros_like(everyone))


def given_split(
    parts: Sequence[str],
    truth: Cases,
    case: Cases,
    case_ids: Sequence[str],
    classes: Sequence[str],
    choice: SplitChoice,
) -> TileSplit:
    """The split that a table names: ``parts`` train, val or test of each tile; without val it is drawn from train.

    Raises CohortError for a case on two sides, an empty side, or a class that training lacks.
    """
    sides = {}
    for part in ("train", "val", "test"):
        sides[part] = np.zeros(len(case_ids), np.bool_)
        sides[part][case[[i for i, said in enumerate(parts) if said == part]]] = True
    torn = np.flatnonzero(sum(side.astype(int) for side in sides.values()) > 1)
    if len(torn):
        raise CohortError(
            f"{len(torn)} cases are on several sides of the split ({some(case_ids[int(i)] for i in torn)}): a case is "
            "trained on or tested, never both; correct the table"
        )
    for part in ("train", "test"):
        if not sides[part].any():
            raise CohortError(f"the split has no {part} tiles: name some, or leave --split-column out")
    if not sides["val"].any():
        sides["val"] = _validation(truth, case, sides["train"], len(classes), choice, 0)
        sides["train"] &= ~sides["val"]
    lacking = sorted(set(range(len(classes))) - set(truth[sides["train"][case]].tolist()))
    if lacking:
        raise CohortError(
            f"no training tile is of class {some(classes[k] for k in lacking)}: correct the split, or leave the class "
            "out with --classes"
        )
    return _split("split", case, sides["train"], sides["val"], sides["test"])


def read_parts(file: str | Path, column: str) -> dict[str, str]:
    """``path`` → train, val or test, from a column of an image table.

    Raises CohortError for a column that is not there or says anything else.
    """
    sheet = read_sheet(file, lambda name: True)
    paths, said = sheet.find("path", "path")[1], sheet.find(column, "--split-column")[1]
    unknown = sorted({value for value in said if value.strip().lower() not in _PARTS})
    if unknown:
        raise CohortError(
            f"{file}: column {column} says {some(unknown)}: it has to say train, val or test", path=file
        )
    return {path: _PARTS[value.strip().lower()] for path, value in zip(paths, said, strict=True)}


def _validation(
    truth: Cases, case: Cases, among: NDArray[np.bool_], classes: int, choice: SplitChoice, number: int
) -> NDArray[np.bool_]:
    """(C,) bool, about ``val_fraction`` of the cases ``among``, with as many classes as there can be.

    Training keeps every class that it has.
    """
    counts = held(truth, case, classes)
    counts = np.pad(counts, ((0, len(among) - len(counts)), (0, 0)))
    members = np.flatnonzero(among)
    parts = max(2, round(1 / choice.val_fraction))
    if len(members) < 2:
        raise CohortError(f"{len(members)} cases to train on: one more is needed to choose when to stop")
    part = place(counts[members], parts, generator(choice.seed, 0xF1, number))
    present = counts[members] > 0

    def worth(candidate: int) -> tuple[int, int, int]:
        inside = present[part == candidate].any(axis=0)
        outside = present[part != candidate].any(axis=0)
        return int((present.any(axis=0) & ~outside).sum()), -int(inside.sum()), candidate

    chosen = np.zeros_like(among)
    chosen[members[part == min(np.unique(part).tolist(), key=worth)]] = True
    return chosen


def _split(
    name: str, case: Cases, train: NDArray[np.bool_], val: NDArray[np.bool_], test: NDArray[np.bool_]
) -> TileSplit:
    sides = [np.flatnonzero(side[case]).astype(np.int64) for side in (train, val, test)]
    return TileSplit(name, *sides)
