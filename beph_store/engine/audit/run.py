"""The whole audit: what is looked at, what comes of it, and how it is told to a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beph_store.engine.audit.slides import PixelFindings, SlideFinding, judge_slides, look_at_pixels
from beph_store.engine.audit.tissue import Duplicate, TissueFindings, find_duplicates, sample_rows
from beph_store.engine.search.table import SearchTable, open_table
from beph_store.errors import UsageError

#: (what, done, total)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """``sample`` tiles of each slide at most, drawn with ``seed``; ``pixels`` False leaves the files alone."""

    recipe: str | None = None
    labels: Path | None = None
    sample: int = 200
    pixels: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """All findings; ``pixels`` None where no file was read."""

    table: SearchTable
    options: AuditOptions
    tissue: TissueFindings
    pixels: PixelFindings | None
    slides: tuple[SlideFinding, ...]

    @property
    def leaks(self) -> tuple[Duplicate, ...]:
        """Duplicates across cases."""
        return tuple(one for one in self.tissue.duplicates if one.across_cases)

    @property
    def leaked(self) -> str:
        """How many pairs of slides leak, in words."""
        count = len(self.leaks)
        pairs = (
            "1 pair of slides of different cases shows"
            if count == 1
            else f"{count} pairs of slides of different cases show"
        )
        return f"{pairs} the same tissue"

    @property
    def skipped(self) -> str | None:
        """One line that says which slides' pixels were not looked at, and why; None if all were."""
        if self.pixels is None:
            return "pixels were not looked at (--no-pixels): nothing is said of blank or blurred tiles, or of stain"
        if not self.pixels.unread:
            return None
        ids = self.table.flat.slide_ids
        return (
            f"the files of {len(self.pixels.unread)} of {len(ids)} slides have moved, changed or cannot be read, for "
            f"example {ids[self.pixels.unread[0]]}: nothing is said of their blank or blurred tiles, or of their stain"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON data; ``ok`` False when tissue of one case is also in another."""
        return {
            "ok": not self.leaks,
            "duplicates": [duplicate_json(self.table, one) for one in self.tissue.duplicates],
            "tiles": [
                {"slide_id": one.slide_id, "read": one.read, "blank": one.blank, "blurred": one.blurred}
                for one in self.slides
            ],
            "slides": [
                {
                    "slide_id": one.slide_id,
                    "case_id": one.case_id,
                    "stain_z": one.stain_z,
                    "embedding_z": one.embedding_z,
                    "outlier": one.outlier,
                }
                for one in self.slides
            ],
            "sampled": self.tissue.sampled,
            "seed": self.options.seed,
            "recipe": self.table.record.recipe.key,
            "skipped": self.skipped,
        }


def audit(
    store: str | Path, options: AuditOptions | None = None, *, progress: Progress | None = None
) -> Audit:
    """Look a cohort over: duplicated tissue from the store alone, the rest from tiles read back from the slides.

    Nothing is written. UsageError for a sample below 1.
    """
    options = options or AuditOptions()
    if options.sample < 1:
        raise UsageError("--sample must be at least 1 tile a slide")

    def said(what: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(what, done, total) if progress is not None else None

    table = open_table(
        store, recipe=options.recipe, labels=options.labels, progress=said("reading embeddings")
    )
    sampled = sample_rows(table, options.sample, options.seed)
    tissue = find_duplicates(table, sampled, seed=options.seed, progress=said("looking for the same tissue"))
    pixels = look_at_pixels(table, sampled, said("looking at tiles")) if options.pixels else None
    return Audit(table, options, tissue, pixels, judge_slides(table, pixels))


def duplicate_json(table: SearchTable, one: Duplicate) -> dict[str, Any]:
    """One duplicate for a machine; ``turn`` in degrees clockwise and ``flipped`` are null where places do not agree."""
    ids, cases = table.flat.slide_ids, table.case_of
    return {
        "slide_a": ids[one.a],
        "slide_b": ids[one.b],
        "case_a": cases[one.a],
        "case_b": cases[one.b],
        "pairs": len(one.rows),
        "share": one.share,
        "score": one.score,
        "consistent": one.consistent,
        "same_file": one.same_file,
        "turn": None if one.placing is None else one.placing.turn,
        "flipped": None if one.placing is None else one.placing.flipped,
        "across_cases": one.across_cases,
        "verdict": verdict(table, one),
    }


def verdict(table: SearchTable, one: Duplicate) -> str:
    """What it means and what to do, one sentence."""
    cases = table.case_of
    what = "the same file under two names" if one.same_file else "the same tissue"
    if not one.across_cases:
        return f"{what}, in one case ({cases[one.a]}): no leak as long as splits go by case"
    return f"{what} in two cases, a leak: give both slides one case_id, or leave one out"
