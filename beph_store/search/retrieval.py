"""How good is a search? Each item asks for its neighbours, none of its own case, and labels say which are right.

Majority vote and mAP@k are what image search in histopathology reports (Kalra et al., Medical Image Analysis 2020; Chen
et al., Nature Biomedical Engineering 2022). The rules, where papers leave them open or differ:

- **Own case.** An item's own case is never among its neighbours: two slides of a patient are alike for other reasons.
- **Nothing to find.** An item whose label no other case has cannot be answered; it is left out, and counted.
- **Fewer than k.** An item with fewer than k neighbours is judged by those that it has.
- **Equal similarity.** Neighbours of equal similarity come in order of their number.
- **mMV@k**, majority vote: the share of items whose most frequent label among the first k neighbours is theirs. Labels
  with equally many votes: the one whose first neighbour comes earliest wins.
- **P@k**: right neighbours among the first k, divided by k (by their number where there are fewer).
- **mAP@k**: mean over items of AP@k = Σ over right places i ≤ k of P@i, divided by min(k, right neighbours that exist),
  so that missing some costs. Some studies divide by the right ones *found* among the first k: ``divisor="found"``, and
  0 where none is; their figures are higher.
- **Averages.** Over items; and ``macro`` over labels of the mean of their items, so that rare labels count alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SearchError

Divisor = Literal["possible", "found"]


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Means over ``items`` at one ``k``, 0–1; ``left_out`` had nothing to find; ``macro`` the three over labels."""

    k: int
    items: int
    left_out: int
    majority_vote: float
    precision: float
    average_precision: float
    macro: tuple[float, float, float]


def neighbours(similarity: NDArray[np.floating], cases: Sequence[str]) -> list[NDArray[np.int64]]:
    """For each row of ``similarity`` (n, n), larger = more alike, the others in order, its own case left out.

    Entries that are not finite are no neighbours. Not symmetric matrices are read by rows.
    """
    table = np.asarray(similarity, np.float64)
    owner = np.asarray(cases)
    if table.shape != (len(owner), len(owner)):
        raise SearchError(
            f"similarities of shape {table.shape} for {len(owner)} cases: pass one row and column each"
        )
    ranked = []
    for number, row in enumerate(table):
        others = np.flatnonzero((owner != owner[number]) & np.isfinite(row))
        ranked.append(others[np.lexsort((others, -row[others]))])
    return ranked


def evaluate(
    ranked: Sequence[NDArray[np.int64]],
    labels: Sequence[str],
    cases: Sequence[str],
    k: int,
    *,
    divisor: Divisor = "possible",
) -> RetrievalScores:
    """mMV@k, P@k and mAP@k of rankings, by the rules above.

    ``ranked[i]`` int64 numbers of the neighbours of item i, best first, at least k of them or all; negative ones (no
    neighbour) and any of its own case are passed over, so ask a search for more than k. ``labels`` and ``cases`` (n,).
    SearchError where nothing can be judged.
    """
    table, judged = per_item(ranked, labels, cases, k, divisor=divisor)
    own = np.asarray(labels)[judged]
    macro = np.mean([table[own == value].mean(axis=0) for value in np.unique(own)], axis=0)
    vote, precision, average = table.mean(axis=0).tolist()
    return RetrievalScores(
        k, len(table), len(ranked) - len(table), vote, precision, average, (*macro.tolist(),)
    )


def per_item(
    ranked: Sequence[NDArray[np.int64]],
    labels: Sequence[str],
    cases: Sequence[str],
    k: int,
    *,
    divisor: Divisor = "possible",
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(m, 3) majority vote (0 or 1), precision and average precision at ``k`` of each item that can be judged, and
    which items these are, (m,) rising. Arguments and errors as ``evaluate``.
    """
    if not len(ranked) == len(labels) == len(cases) or k < 1:
        raise SearchError(
            f"{len(ranked)} rankings, {len(labels)} labels, {len(cases)} cases, k = {k}: one of each an item, k > 0"
        )
    label, case = (np.unique(np.asarray(each), return_inverse=True)[1] for each in (labels, cases))
    rows, judged = [], []
    for item, found in enumerate(ranked):
        possible = int(np.count_nonzero((label == label[item]) & (case != case[item])))
        if not possible:
            continue
        found = np.asarray(found, np.int64)
        found = found[found >= 0]
        found = found[case[found] != case[item]][:k]
        right = label[found] == label[item]
        rows.append(
            (
                float(_vote(label[found]) == label[item]) if len(found) else 0.0,
                float(right.mean()) if len(found) else 0.0,
                _average_precision(right, min(k, possible) if divisor == "possible" else int(right.sum())),
            )
        )
        judged.append(item)
    if not rows:
        raise SearchError("no label is shared by two cases: there is nothing that a search could find")
    return np.asarray(rows), np.asarray(judged, np.int64)


def _vote(labels: NDArray[np.int64]) -> int:
    """The most frequent; of equally frequent ones the one that comes first."""
    values, first, count = np.unique(labels, return_index=True, return_counts=True)
    return int(values[np.lexsort((first, -count))[0]])


def _average_precision(right: NDArray[np.bool_], divisor: int) -> float:
    if not divisor:
        return 0.0
    places = np.flatnonzero(right) + 1
    return float(np.sum(np.arange(1, len(places) + 1) / places) / divisor)
