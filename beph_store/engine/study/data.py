"""What a head learns from: one store, one recipe, one table of labels, joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from beph_store.cohort import Cohort, ColumnChoice, Dropped, LabelTable, Task, join, read_labels
from beph_store.errors import CohortError
from beph_store.records import Bags, Target
from beph_store.store import SlideRow, Store, bags
from beph_store.store.reader import RecipeRecord

NO_TILES = "its slides have no readable tile of tissue"


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """``cohort.cases``, ``bags`` and ``target`` are aligned: one entry a case that has a label and tiles."""

    store: Store
    record: RecipeRecord
    table: LabelTable
    cohort: Cohort
    bags: Bags
    target: Target

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Ids of the cases, in the order of ``bags``."""
        return self.bags.case_ids


def load_study(
    store: str | Path,
    labels: str | Path,
    task: Task,
    *,
    recipe: str | None = None,
    columns: ColumnChoice | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Join the labels to the store's slides and map their embeddings; nothing is dropped without a count.

    Raises CohortError for a table that cannot be used as it is, RecipeMismatch where the store has several
    recipes and none is named.
    """
    opened = Store.open(store)
    record = opened.recipe(recipe)
    key = record.recipe.key
    table = read_labels(Path(labels), task, columns or ColumnChoice())
    rows = {row.slide_id: row for row in opened.rows(key) if row.complete}
    cohort = join(table, sorted(rows), recorded_cases(rows))
    cohort = with_tiles(cohort, rows)
    if not cohort.cases:
        raise CohortError(f"no labelled case can be learned from: {NO_TILES}")
    flat = opened.flat(key, progress=progress)
    return Study(opened, record, table, cohort, bags(flat, cohort.cases), cohort.target(task))


def recorded_cases(rows: Mapping[str, SlideRow]) -> dict[str, str]:
    """Slide id → case id where the store recorded one."""
    return {slide_id: row.case_id for slide_id, row in rows.items() if row.case_id}


def with_tiles(cohort: Cohort, rows: Mapping[str, SlideRow]) -> Cohort:
    """The cases with at least one tile to learn from; the others are counted among the dropped."""
    readable = {slide_id for slide_id, row in rows.items() if row.tiles > row.unreadable}
    pairs = list(zip(cohort.cases, cohort.labels, strict=True))
    kept = [(case, label) for case, label in pairs if readable & set(case.slide_ids)]
    if len(kept) == len(pairs):
        return cohort
    lost = {case.case_id for case, _ in pairs} - {case.case_id for case, _ in kept}
    return dataclasses.replace(
        cohort,
        cases=tuple(case for case, _ in kept),
        labels=tuple(label for _, label in kept),
        dropped=(*cohort.dropped, *(Dropped(None, case_id, NO_TILES) for case_id in sorted(lost))),
    )
