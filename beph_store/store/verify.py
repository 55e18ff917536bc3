"""Is the store what it says it is? Everything is read again and compared with the registry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from beph_store.errors import StoreError
from beph_store.records import Recipe
from beph_store.store.finding import SlideFinder
from beph_store.store.kept import orphan_archives, pixel_problems
from beph_store.store.layout import is_dataset, tiles_schema
from beph_store.store.place import Place
from beph_store.store.reader import Store
from beph_store.store.registry import SlideRow
from beph_store.store.staging import read_ready
from beph_store.store.tables import open_table
from beph_store.store.vectors import SlideRows
from beph_store.store.zarrs import is_group


@dataclass(slots=True)
class VerifyReport:
    """``problems`` make a store wrong; ``notes`` are leftovers that no reader sees."""

    slides: int = 0
    tiles: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(store: Store, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read every slide of every recipe and compare counts, order, values and hashes with the registry.

    ``progress`` is called with (slides checked, slides in all).
    """
    report = VerifyReport()
    recipes = {record.recipe.key: record.recipe for record in store.recipes()}
    rows = store.registry.rows()
    report.problems += [
        f"slide {k} is in the registry {n} times" for k, n in Counter(r.key for r in rows).items() if n > 1
    ]
    report.problems += [
        f"slide {row.slide_id}: its recipe {row.recipe} is not in the store"
        for row in rows
        if row.recipe not in recipes
    ]
    report.problems += [
        f"slide {row.slide_id}: its status is {row.status!r}, which there is not"
        for row in rows
        if row.status not in ("done", "empty", "failed")
    ]
    done = [row for row in rows if row.status == "done" and row.recipe in recipes]
    finders = {key: SlideFinder(store, key) for key in recipes}
    for number, row in enumerate(done, 1):
        report.problems += [
            f"slide {row.slide_id} [{row.recipe}]: {what}"
            for what in _slide_problems(finders[row.recipe], row, recipes[row.recipe].tile.tile_px)
        ]
        report.slides += 1
        report.tiles += row.tiles
        if progress:
            progress(number, len(done))
    for recipe in recipes.values():
        own = [row for row in done if row.recipe == recipe.key]
        _check_table(store, recipe, own, report)
        _check_archives(store, recipe, own, report)
    return report


def _slide_problems(finder: SlideFinder, row: SlideRow, tile_px: int) -> Iterator[str]:
    layout = finder.store.layout
    try:
        table = finder.table(row)
        if table.num_rows != row.tiles:
            yield f"{table.num_rows} tiles, the registry says {row.tiles}"
            return
        index = np.sort(table.column("tile").to_numpy())
        if not np.array_equal(index, np.arange(row.tiles)):
            yield "tile numbers are not 0…N-1 once each"
            return
        rows = SlideRows.from_table(table)
    except (OSError, ValueError, StoreError) as error:
        yield f"its tiles cannot be read: {str(error).splitlines()[0]}"
        return
    if not np.isfinite(rows.vectors[rows.ok]).all():
        yield "an embedding is not finite"
    if not rows.vectors[rows.ok].any(axis=1).all():
        yield "an embedding is all zero"
    if int((~rows.ok).sum()) != row.unreadable:
        yield f"{int((~rows.ok).sum())} unreadable tiles, the registry says {row.unreadable}"
    if rows.sha256() != row.sha256:
        yield "its content does not have the hash that was recorded when it was written"
    if not is_group(layout.raster(row.recipe, row.slide_id)):
        yield "its thumbnail and tissue mask are missing"
    yield from pixel_problems(layout, row, tile_px, rows.ok)


def _check_table(store: Store, recipe: Recipe, done: list[SlideRow], report: VerifyReport) -> None:
    path = store.layout.tiles(recipe.key)
    if not is_dataset(path):
        return
    dataset = open_table(path)
    want = tiles_schema(recipe.encoder.dim)
    if dataset.schema.names != want.names or dataset.schema.types != want.types:
        report.problems.append(
            f"recipe {recipe.key}: the columns of its tile table are not those of this format"
        )
        return
    hidden = dataset.count_rows() - sum(row.tiles for row in done)
    if hidden > 0:
        report.notes.append(
            f"recipe {recipe.key}: {hidden} rows that no slide refers to; `compact` removes them"
        )
    orphans = orphan_files(store, recipe.key)
    if orphans:
        size = sum(file.stat().st_size for file in orphans) / 1e6
        report.notes.append(
            f"recipe {recipe.key}: {len(orphans)} unreferenced data files ({size:.1f} MB) left by a "
            "replaced slide or an interrupted run; `compact` removes them"
        )


def _check_archives(store: Store, recipe: Recipe, done: list[SlideRow], report: VerifyReport) -> None:
    orphans = orphan_archives(store.layout, recipe.key, done)
    if orphans:
        files = [file for folder in orphans for file in folder.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e6
        report.notes.append(
            f"recipe {recipe.key}: kept tiles ({size:.1f} MB) of {len(orphans)} ingests that no slide refers to; "
            "`compact` removes them"
        )


def orphan_files(store: Store, key: str) -> list[Place]:
    """Data files that neither the table nor a sealed slide refers to."""
    path = store.layout.tiles(key)
    used = {file.path for fragment in open_table(path).get_fragments() for file in fragment.data_files()}
    for folder in store.layout.staging(key).glob("*"):
        ready = read_ready(folder)
        used.update(ready.data_files() if ready else ())
    return [file for file in (path / "data").glob("*.lance") if file.name not in used]
