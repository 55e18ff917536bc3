"""What is compared on: the recipes of a store, or a set of images, whichever the path is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beph_store.cohort import ColumnChoice, Dropped
from beph_store.cohort.image_sets import LAYOUTS, ImageChoice, ImageSet, read_image_set
from beph_store.engine.embed import Fit
from beph_store.engine.leaderboard import images as of_images
from beph_store.engine.leaderboard.comparison import Comparison
from beph_store.engine.leaderboard.store import store_comparison
from beph_store.engine.probe.images import Embedding
from beph_store.engine.probe.store import Wanted
from beph_store.engine.probe.tiles import MAX_TILES
from beph_store.errors import CohortError, UsageError
from beph_store.store.layout import Layout
from beph_store.store.place import place

ELSEWHERE = "lies outside the folder of images"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Question:
    """Which encoders, labels and tiles; each field is a flag, and those that a source does not read are refused."""

    encoders: tuple[str, ...] = ()
    labels: Path | None = None
    target: str | None = None
    classes: tuple[str, ...] = ()
    case_column: str | None = None
    slide_column: str | None = None
    group_column: str | None = None
    case_pattern: str | None = None
    layout: str | None = None
    fit: Fit | None = None
    where: str | None = None
    max_tiles: int = MAX_TILES
    seed: int = 0
    runtime: str = "auto"
    baseline: str | None = None


def comparison_of(
    source: Path, out: Path, question: Question, *, progress: Progress | None = None
) -> Comparison:
    """The entrants with their vectors, from the store at ``source`` or made of the images there, kept under ``out``.

    Raises UsageError for a flag that the source does not read, CohortError for labels that do not fit.
    """
    if Layout(place(source)).marker.exists():
        return _of_store(source, out, question, progress)
    if not source.exists():
        raise UsageError(f"no such store, folder of images or table: {source}", path=source)
    found = _image_set(source, question)
    encoders = question.encoders or ("beph-mini",)
    how = Embedding(fit=question.fit, runtime=question.runtime)
    wanted = of_images.Wanted(question.classes, question.max_tiles, question.seed, question.baseline)
    return of_images.image_comparison(found, out, encoders, how, wanted=wanted, progress=progress)


def _of_store(source: Path, out: Path, question: Question, progress: Progress | None) -> Comparison:
    _refuse(question, "a store", ("layout", "fit", "case_pattern", "group_column"))
    if question.labels is None:
        raise UsageError(f"{source} is a store: pass --labels with a table of its slides or tiles")
    columns = ColumnChoice(
        case=question.case_column,
        slide=question.slide_column,
        target=question.target,
        classes=question.classes,
    )
    wanted = Wanted(columns, question.where, question.max_tiles, question.seed)
    return store_comparison(
        source,
        question.labels,
        out,
        question.encoders,
        wanted=wanted,
        runtime=question.runtime,
        progress=progress,
    )


def _image_set(source: Path, question: Question) -> ImageSet:
    _refuse(question, "images", ("slide_column", "where"))
    chosen = ImageChoice(
        question.target, question.classes, question.case_column, question.group_column, question.case_pattern
    )
    if source.is_file():
        if question.labels is not None:
            raise UsageError(f"{source} is the table of images itself: leave out --labels")
        return read_image_set(source, "csv", chosen)
    if question.labels is not None:
        return _within(read_image_set(question.labels, "csv", chosen), source)
    if question.layout is None:
        names = ", ".join(name for name in LAYOUTS if name != "csv")
        raise UsageError(
            f"{source} is a folder of images: pass --layout ({names}), or --labels with their table"
        )
    return read_image_set(source, question.layout, chosen)


def _within(found: ImageSet, folder: Path) -> ImageSet:
    """Only the images under a folder."""
    inside = folder.resolve()
    kept = tuple(
        image for image in found.images if (found.root / image.path).resolve().is_relative_to(inside)
    )
    if not kept:
        raise CohortError(
            f"none of the {len(found.images)} images of the table lies under {folder}: its paths are taken from the "
            "table's own folder"
        )
    same = set(kept)
    others = tuple(Dropped(None, image.path, ELSEWHERE) for image in found.images if image not in same)
    return dataclasses.replace(found, images=kept, dropped=(*found.dropped, *others))


def _refuse(question: Question, what: str, fields: tuple[str, ...]) -> None:
    for name in fields:
        if getattr(question, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is not for {what}: leave it out")
