"""Labelled tiles of a store: a table of slides, cases or single tiles joined to the stored vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort import ColumnChoice, Dropped, LabelTable, join, read_labels
from beph_store.cohort.ids import SlideIndex, tcga_patient
from beph_store.cohort.join import NOT_IN_STORE, SEVERAL_SLIDES
from beph_store.cohort.labels import some
from beph_store.cohort.tile_labels import TileLabels, names_tiles, read_tile_labels
from beph_store.engine.probe.kept import kept_labels
from beph_store.engine.probe.tiles import MAX_TILES, ProbeTiles, Rows
from beph_store.engine.search.table import SearchTable, open_table
from beph_store.errors import AmbiguousColumn, CohortError
from beph_store.halves import widened
from beph_store.records import ClassLabel

NO_TILE = "no stored tile there"


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """Which labels and tiles: ``columns`` of the table; ``where`` an SQL expression over the tiles' and the store's
    columns; at most about ``max_tiles``, drawn with ``seed``. ``rows`` (T,) bool of the flat table, the others do not
    count.
    """

    columns: ColumnChoice = dataclasses.field(default_factory=ColumnChoice)
    where: str | None = None
    max_tiles: int = MAX_TILES
    seed: int = 0
    rows: NDArray[np.bool_] | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Labelled rows of the flat table, and what was left out on the way."""

    place: NDArray[np.int64]
    labels: list[str]
    cases: list[str]
    dropped: list[Dropped]


def store_tiles(
    store: str | Path,
    labels: str | Path | None,
    *,
    recipe: str | None = None,
    wanted: Wanted | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ProbeTiles:
    """The stored tiles that a table labels: all tiles of a slide or a case, or single ones (x and y, or tile).

    Without a table, those that `annotate` and the page labelled. A case may hold several classes. Raises CohortError
    for a table that cannot be used as it is or fits nothing.
    """
    asked = wanted or Wanted()
    table = open_table(store, recipe=recipe, progress=progress)
    by, found = _labelled(table, labels, asked)
    notes: tuple[str, ...] = ()
    if asked.where is not None:
        found, notes = _filtered(table, found, asked.where)
    if asked.rows is not None:
        found = _only(found, asked.rows[found.place])
    if not len(found.place):
        raise CohortError(
            "no labelled tile is left: check --where and the slides' tiles with `beph-store slides`"
        )
    rows = Rows(found.place, found.labels, found.cases, [""] * len(found.place))
    numbered = rows.numbered(asked.columns.classes, asked.max_tiles, asked.seed)
    place = found.place[numbered.keep]
    slides = table.slide_of[place]
    key = table.record.recipe
    return ProbeTiles(
        numbered.truth,
        numbered.case,
        numbered.group,
        numbered.classes,
        numbered.case_ids,
        numbered.groups,
        {
            "slide_id": [table.flat.slide_ids[i] for i in slides],
            "tile": table.flat.tile_index[place].tolist(),
        },
        len(found.place),
        tuple(found.dropped),
        notes,
        {
            "source": str(store),
            "recipe": key.key,
            "encoder": key.encoder.name,
            "dim": key.encoder.dim,
            "labels": None if labels is None else str(labels),
            "labels_by": by,
        },
        vectors=widened(table.flat.vectors[place]),
    )


def _labelled(table: SearchTable, labels: str | Path | None, asked: Wanted) -> tuple[str, _Found]:
    """What the labels are of (tile, slide or case), and the rows that have one."""
    columns = dataclasses.replace(asked.columns, conflicts="keep")
    if labels is None:
        return "tile", _of_tiles(table, kept_labels(table, columns))
    if names_tiles(labels):
        return "tile", _of_tiles(table, read_tile_labels(labels, columns))
    read = read_labels(labels, "classify", columns)
    if read.by_slide:
        return "slide", _of_slides(table, read)
    # A case of such a table has one label.
    return "case", _of_cases(table, read_labels(labels, "classify", asked.columns))


def _recorded(table: SearchTable) -> dict[str, str]:
    rows = ((name, table.rows[name].case_id) for name in table.flat.slide_ids)
    return {name: case for name, case in rows if case}


def _spans(table: SearchTable, slide_ids: list[str]) -> list[NDArray[np.int64]]:
    place = {name: i for i, name in enumerate(table.flat.slide_ids)}
    return [np.arange(*table.flat.spans[place[name]], dtype=np.int64) for name in slide_ids]


def _gather(parts: list[tuple[NDArray[np.int64], str, str]], dropped: list[Dropped]) -> _Found:
    """Rows in rising order, so that the memory map is read from front to back."""
    if not parts:
        return _Found(np.empty(0, np.int64), [], [], dropped)
    place = np.concatenate([rows for rows, _, _ in parts])
    number = np.repeat(np.arange(len(parts)), [len(rows) for rows, _, _ in parts])
    order = np.argsort(place, kind="stable")
    chosen = number[order].tolist()
    return _Found(place[order], [parts[i][1] for i in chosen], [parts[i][2] for i in chosen], dropped)


def _of_cases(table: SearchTable, read: LabelTable) -> _Found:
    """A table of cases: one label each, as for `train`."""
    cohort = join(read, table.flat.slide_ids, _recorded(table), min_cases=2)
    parts = []
    for case, label in zip(cohort.cases, cohort.labels, strict=True):
        assert isinstance(label, ClassLabel)
        parts += [(rows, label.value, case.case_id) for rows in _spans(table, list(case.slide_ids))]
    return _gather(parts, list(cohort.dropped))


def _of_slides(table: SearchTable, read: LabelTable) -> _Found:
    """A table of slides: each slide has its label, and slides of a case may differ."""
    owner = {row.slide_id or "": row.case_id for row in read.rows}
    apart = tuple(dataclasses.replace(row, case_id=row.slide_id or "") for row in read.rows)
    # Each slide a case of its own for the join, which knows names; whose they are is put back after it.
    cohort = join(dataclasses.replace(read, rows=apart), table.flat.slide_ids, min_cases=2)
    parts = []
    for case, label in zip(cohort.cases, cohort.labels, strict=True):
        assert isinstance(label, ClassLabel)
        (slide,) = case.slide_ids
        (rows,) = _spans(table, [slide])
        parts.append((rows, label.value, owner[case.case_id]))
    _check_recorded(
        {slide: owner[case.case_id] for case in cohort.cases for slide in case.slide_ids}, _recorded(table)
    )
    return _gather(parts, list(cohort.dropped))


def _of_tiles(table: SearchTable, read: TileLabels) -> _Found:
    """A table of tiles: each row finds its slide by name and its tile by place."""
    index = SlideIndex(table.flat.slide_ids)
    names = {name: index.find(name) for name in set(read.slides)}
    number = {name: i for i, name in enumerate(table.flat.slide_ids)}
    owner = _owners(table, read, names)
    dropped, parts = list(read.dropped), []
    tiles = _tiles_by_place(table, {number[f[0]] for f in names.values() if len(f) == 1}, read.by_number)
    seen: dict[int, int] = {}
    for i, name in enumerate(read.slides):
        fits = names[name]
        if len(fits) != 1:
            reason = SEVERAL_SLIDES if fits else NOT_IN_STORE
            dropped.append(Dropped(read.rows[i], name, reason, some(fits)))
            continue
        slide, (x, y) = number[fits[0]], read.place[i].tolist()
        row = tiles.get((slide, x, y))
        if row is None:
            where = f"tile {x}" if read.by_number else f"x {x}, y {y}"
            dropped.append(Dropped(read.rows[i], name, NO_TILE, where))
        elif row in seen:
            raise CohortError(
                f"rows {read.rows[seen[row]]} and {read.rows[i]} of {read.path} are one tile: keep one"
            )
        else:
            seen[row] = i
            case = owner[fits[0]] if read.cases is None else read.cases[i]
            parts.append((np.array([row], np.int64), read.labels[i], case))
    used = ((names[read.slides[i]][0], case) for i, (_, _, case) in zip(seen.values(), parts, strict=True))
    _check_recorded(_one_case_each(used, read.path), _recorded(table))
    if not parts:
        what = f"{len(dropped)} rows, {dropped[0].reason}"
        raise CohortError(
            f"no row of {read.path} fits a stored tile ({what}): x and y are its top left, level-0 px"
        )
    return _gather(parts, dropped)


def _one_case_each(pairs: Iterable[tuple[str, str]], path: str) -> dict[str, str]:
    owner: dict[str, str] = {}
    for slide, case in pairs:
        if owner.setdefault(slide, case) != case:
            raise CohortError(
                f"{path}: slide {slide} is of case {owner[slide]} and of {case}: correct the table"
            )
    return owner


def _tiles_by_place(table: SearchTable, slides: set[int], by_number: bool) -> dict[tuple[int, int, int], int]:
    """Row of each tile of those slides by (slide, x, y), or by (slide, tile, 0)."""
    found: dict[tuple[int, int, int], int] = {}
    for slide in slides:
        rows = range(*table.flat.spans[slide].tolist())
        if by_number:
            found |= {(slide, int(table.flat.tile_index[row]), 0): row for row in rows}
        else:
            where = table.flat.origin_l0[rows.start : rows.stop].tolist()
            found |= {(slide, x, y): row for row, (x, y) in zip(rows, where, strict=True)}
    return found


def _owners(table: SearchTable, read: TileLabels, names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Case of each slide where the table names none: what the store recorded, else the TCGA patient."""
    if read.cases is not None:
        return {}
    recorded = _recorded(table)
    owner = {}
    for fits in names.values():
        for slide in fits:
            case = recorded.get(slide) or tcga_patient(slide)
            if case is None:
                raise AmbiguousColumn(
                    f"{read.path} does not say whose slide {slide} is, nor does the store: name the column with "
                    "--case-column (if each slide is a patient of its own: --case-column slide_id)"
                )
            owner[slide] = case
    return owner


def _check_recorded(owner: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    """Slides that the store recorded as one case must be one case here, or it could straddle a split."""
    cases: dict[str, set[str]] = {}
    for slide, case in owner.items():
        if slide in recorded:
            cases.setdefault(recorded[slide], set()).add(case)
    torn = {case: sorted(names) for case, names in cases.items() if len(names) > 1}
    if torn:
        case, names = min(torn.items())
        raise CohortError(
            f"the table separates slides of {len(torn)} cases that the store recorded as one each ({case} is "
            f"{some(names)} there): name the column of patients with --case-column"
        )


def _filtered(table: SearchTable, found: _Found, where: str) -> tuple[_Found, tuple[str, ...]]:
    kept = table.where(where)[found.place]
    left = int((~kept).sum())
    note = (f"--where {where!r} left out {left:,} of {len(kept):,} labelled tiles.",)
    return _only(found, kept), note


def _only(found: _Found, kept: NDArray[np.bool_]) -> _Found:
    rows = np.flatnonzero(kept).tolist()
    labels, cases = ([each[i] for i in rows] for each in (found.labels, found.cases))
    return _Found(found.place[rows], labels, cases, found.dropped)
