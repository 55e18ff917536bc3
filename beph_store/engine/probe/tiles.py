"""What a probe works on: the vectors of labelled tiles, and whose they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import Dropped
from beph_store.cohort.grouped import capped
from beph_store.errors import CohortError

#: Tiles that are kept of more, the same number at most from each class of each case.
MAX_TILES = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class LabelledTiles:
    """Tiles with their classes and whose they are, rows aligned.

    ``truth``, ``case``, ``group`` (n,) int64 into ``classes``, ``case_ids``, ``groups`` (("",) where there are none; a
    group, such as a magnification, has its own figures). ``names`` the columns that say which tile a row is. ``found``
    how many were labelled before some were left out by the cap. ``about`` plain data for the result: what the tiles
    or their vectors are. ``by_patient`` whether the cases are patients.
    """

    truth: NDArray[np.int64]
    case: NDArray[np.int64]
    group: NDArray[np.int64]
    classes: tuple[str, ...]
    case_ids: tuple[str, ...]
    groups: tuple[str, ...]
    names: Mapping[str, Sequence[Any]]
    found: int
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    about: Mapping[str, Any]
    by_patient: bool = True

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def encoder(self) -> str:
        """Name of the encoder."""
        return str(self.about["encoder"])


@dataclass(frozen=True, slots=True, eq=False)
class ProbeTiles(LabelledTiles):
    """What a probe learns from: ``vectors`` (n, D) float32, a group of tiles probed by itself."""

    vectors: NDArray[np.float32] = field(kw_only=True)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labelled tiles before their vectors are read: ``place`` (n,) int64 says where each one's vector lies."""

    place: NDArray[np.int64]
    labels: Sequence[str]
    cases: Sequence[str]
    groups: Sequence[str]

    def numbered(self, classes: tuple[str, ...], most: int, seed: int) -> NumberedRows:
        """Classes, cases and groups as numbers, and the rows kept of more than ``most``.

        Raises CohortError for fewer than two classes.
        """
        present = set(self.labels)
        kept_classes = tuple(name for name in classes if name in present) or tuple(sorted(present))
        if len(kept_classes) < 2:
            raise CohortError(f"all tiles are of class {kept_classes[0]!r}: a probe needs two")
        case_ids, case = np.unique(np.array(self.cases, object), return_inverse=True)
        groups, group = np.unique(np.array(self.groups, object), return_inverse=True)
        number = {name: i for i, name in enumerate(kept_classes)}
        truth = np.array([number[label] for label in self.labels], np.int64)
        # Each group has its share of the cap: a case is capped once a group.
        keep = capped(truth * len(groups) + group, case.astype(np.int64), most, seed)
        return NumberedRows(
            keep,
            truth[keep],
            case[keep].astype(np.int64),
            group[keep].astype(np.int64),
            kept_classes,
            tuple(str(name) for name in case_ids),
            _in_order(groups),
        ).sorted_groups()


@dataclass(frozen=True, slots=True, eq=False)
class NumberedRows:
    """``keep`` (m,) positions among the ``Rows``; the rest as in ``ProbeTiles``."""

    keep: NDArray[np.int64]
    truth: NDArray[np.int64]
    case: NDArray[np.int64]
    group: NDArray[np.int64]
    classes: tuple[str, ...]
    case_ids: tuple[str, ...]
    groups: tuple[str, ...]

    def sorted_groups(self) -> NumberedRows:
        """Groups that are numbers in their order: 40, 100, 200, 400."""
        if not all(name.isdigit() for name in self.groups):
            return self
        order = sorted(range(len(self.groups)), key=lambda i: int(self.groups[i]))
        rank = np.argsort(order)
        groups = tuple(self.groups[i] for i in order)
        return dataclasses.replace(self, group=rank[self.group].astype(np.int64), groups=groups)


def _in_order(groups: NDArray[Any]) -> tuple[str, ...]:
    return tuple(str(name) for name in groups)
