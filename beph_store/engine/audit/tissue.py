"""The same tissue on several slides, from the stored vectors alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from beph_store.engine.search.table import SearchTable
from beph_store.search.duplicates import LookAlikes, Matches, Places, joined
from beph_store.search.placing import Placing, place

Progress = Callable[[int, int], None]

#: Nearest tiles asked for; a slide of which many copies are in the store needs more than one.
NEAREST = 20
#: Slides that a slide's matches are judged against, those nearest to most of its tiles first.
PARTNERS = 10
#: Transforms as good that chance would give, in the whole audit. Strict, because tissue is not chance: two biopsies of
#: one outline, whose edges match edges, reached 1e-5 for a pair.
FALSE_ALARMS = 1e-6
#: Two tiles are one piece of tissue if the next tile that is neither is more than three times as far.
#: Among 994 fields of 165 patients none of another patient was below 0.5; of real slides' tiles, 1 in 4,000 below 0.35.
RATIO = 0.3
#: Share of the sampled tiles that must be so alike where the places prove nothing.
SHARE = 0.02
#: How far apart two grids of tiles over the same tissue lie at most, in tile sides: half a side along either axis.
_REACH = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class Duplicate:
    """Two slides that show the same tissue; numbers are places in the table's ``slide_ids``.

    ``rows`` (pairs, 2) int64, matched tiles in the table, most alike first; ``share`` of the slide of which more is
    on the other; ``score`` the cosine of the best pair about the mean of all tiles. ``placing`` takes µm on ``a`` to µm
    on ``b`` where the places agree, else None; ``same_file`` the files have one fingerprint.
    """

    a: int
    b: int
    rows: NDArray[np.int64]
    share: float
    score: float
    placing: Placing | None
    same_file: bool
    across_cases: bool

    @property
    def consistent(self) -> bool:
        """Whether the places of the matched tiles agree on one turn, flip and shift."""
        return self.placing is not None


@dataclass(frozen=True, slots=True, eq=False)
class TissueFindings:
    """``duplicates``, leaks first; ``sampled`` tiles looked up; ``judged`` pairs of slides whose places were judged."""

    duplicates: tuple[Duplicate, ...]
    sampled: int
    judged: int


def sample_rows(table: SearchTable, most: int, seed: int) -> list[NDArray[np.int64]]:
    """At most ``most`` rows of each slide, drawn with ``seed`` for each slide by itself, rising."""
    drawn = []
    for number, (start, stop) in enumerate(table.flat.spans.tolist()):
        rows = np.arange(start, stop)
        if len(rows) > most:
            rows = np.sort(np.random.default_rng((seed, number)).choice(rows, most, replace=False))
        drawn.append(rows)
    return drawn


def find_duplicates(
    table: SearchTable,
    sampled: Sequence[NDArray[np.int64]],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> TissueFindings:
    """Slides of which tiles are found on other slides: same file, same places, or far more alike than any other."""
    places = places_of(table)
    found = _look_up(table, places, sampled, progress)
    same = _same_files(table)
    pairs = sorted(_partners(found) | same)
    limit = np.log10(FALSE_ALARMS / max(1, len(pairs)))
    kept = []
    for a, b in pairs:
        matches = joined(found.get((a, b)), found.get((b, a)))
        placing = _placed(places, matches, table.span(b), seed)
        if placing is not None and (placing.log10_nfa > limit or not placing.clear):
            placing = None
        enough = max(1, int(np.ceil(SHARE * min(len(sampled[a]), len(sampled[b])))))
        alike = (matches.ratio < RATIO) & (matches.rank == 1)
        if placing is None and alike.sum() < enough and (a, b) not in same:
            continue
        chosen = alike if placing is None else placing.inliers
        kept.append(_described(table, places, (a, b), (matches, chosen, placing), (a, b) in same, sampled))
    kept.sort(key=lambda one: (not one.across_cases, -one.share, one.a, one.b))
    return TissueFindings(tuple(kept), sum(map(len, sampled)), len(pairs))


def places_of(table: SearchTable) -> Places:
    """Where every tile of the table lies, in µm."""
    numbers = {case: number for number, case in enumerate(dict.fromkeys(table.case_of))}
    middle = np.empty((len(table.flat), 2))
    for slide, name in enumerate(table.flat.slide_ids):
        row, span = table.rows[name], table.span(slide)
        mpp = np.array([row.mpp_x or 1.0, row.mpp_y or 1.0])
        middle[span] = (table.flat.origin_l0[span] + table.footprint(slide) / 2) * mpp
    tile = table.record.recipe.tile
    cases = np.array([numbers[case] for case in table.case_of], np.int64)
    return Places(table.slide_of, cases, middle, tile.tile_px * tile.mpp)


def _look_up(
    table: SearchTable, places: Places, sampled: Sequence[NDArray[np.int64]], progress: Progress | None
) -> dict[tuple[int, int], Matches]:
    found: dict[tuple[int, int], Matches] = {}
    if not len(table.flat):
        return found
    finder = LookAlikes(table.searcher, table.flat.vectors, table.flat.slide_ids, places)
    for slide, rows in enumerate(sampled):
        if len(rows):
            for other, matches in finder.of(slide, rows, min(NEAREST, len(table.flat))).items():
                found[slide, other] = matches
        if progress is not None:
            progress(slide + 1, len(sampled))
    return found


def _partners(found: Mapping[tuple[int, int], Matches]) -> set[tuple[int, int]]:
    """Pairs of slides worth judging, the lower number first."""
    by_slide: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for (slide, other), matches in found.items():
        by_slide[slide].append((float((1 / matches.rank).sum()), other))
    pairs = set()
    for slide, others in by_slide.items():
        for _, other in sorted(others, reverse=True)[:PARTNERS]:
            pairs.add((min(slide, other), max(slide, other)))
    return pairs


def _same_files(table: SearchTable) -> set[tuple[int, int]]:
    """Pairs of slides that are one file under two names."""
    by_print: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(table.flat.slide_ids):
        fingerprint = table.rows[name].fingerprint
        if fingerprint:
            by_print[fingerprint].append(number)
    return {pair for numbers in by_print.values() for pair in combinations(numbers, 2)}


def _placed(places: Places, matches: Matches, other: slice, seed: int) -> Placing | None:
    middle = places.middle_um
    reach = _REACH * places.side_um
    return place(middle[matches.row_a], middle[matches.row_b], middle[other], reach, seed)


def _described(
    table: SearchTable,
    places: Places,
    pair: tuple[int, int],
    evidence: tuple[Matches, NDArray[np.bool_], Placing | None],
    same_file: bool,
    sampled: Sequence[NDArray[np.int64]],
) -> Duplicate:
    (a, b), (matches, chosen, placing) = pair, evidence
    rows = np.stack([matches.row_a, matches.row_b], axis=1)[chosen]
    score = matches.score[chosen]
    order = np.argsort(-score, kind="stable")
    if same_file:
        share = 1.0
    elif placing is not None:
        share = _covered(places, placing, table.span(a), table.span(b))
    else:
        share = len(rows) / max(1, min(len(sampled[a]), len(sampled[b])))
    return Duplicate(
        a,
        b,
        rows[order],
        min(1.0, share),
        float(score.max()) if len(score) else 1.0,
        placing,
        same_file,
        table.case_of[a] != table.case_of[b],
    )


def _covered(places: Places, placing: Placing, a: slice, b: slice) -> float:
    """Share of the tiles of one slide, the one with the larger, at whose place on the other slide there is a tile."""
    moved, other = placing.carry(places.middle_um[a]), places.middle_um[b]
    reach = _REACH * places.side_um
    there = cKDTree(other).query(moved, distance_upper_bound=reach)[0] <= reach
    back = cKDTree(moved).query(other, distance_upper_bound=reach)[0] <= reach
    return float(max(there.mean(), back.mean()))
