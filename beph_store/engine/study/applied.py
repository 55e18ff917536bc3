"""What a head says of every slide of a store, kept beside it: made once by a job, read by whoever asks."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from beph_store.engine.provenance import now
from beph_store.engine.study.trained import TrainedRun, ask, cases_of, columns_of
from beph_store.errors import HeadError
from beph_store.records import Case
from beph_store.store import SlideRow, Store, bags
from beph_store.store.durable import write_atomic, write_json
from beph_store.store.place import Place, remove_tree

_SLIDES, _CASES, _ABOUT = "slides.parquet", "cases.parquet", "about.json"


@dataclass(frozen=True, slots=True)
class Applied:
    """Predictions in ``folder``; ``about`` when they were made and of how much."""

    folder: Place
    about: Mapping[str, Any]

    @classmethod
    def find(cls, store: Store, head: str) -> Applied | None:
        """The predictions of a head that is known as ``head``, None before it was applied."""
        folder = store.layout.predictions / head
        try:
            about = json.loads((folder / _ABOUT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise HeadError(f"the predictions of head {head} cannot be read: apply it again") from error
        return cls(folder, about)

    def frame(self, by: str) -> pl.DataFrame:
        """One row a slide, or one a case, as ``by`` says: slide or case."""
        return pl.read_parquet((self.folder / (_SLIDES if by == "slide" else _CASES)).read_bytes())

    def is_stale(self, rows: Iterable[SlideRow]) -> bool:
        """Whether slides came or changed since; ``rows`` of the recipe as the registry is now."""
        return bool(self.about.get("slides_sha256") != slides_digest(rows))


def apply_head(
    run: TrainedRun, store: Store, head: str, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Ask a head about every case and every slide by itself, and keep it under the name ``head``.

    ``progress`` hears (cases done, cases). Returns ``{"head", "recipe", "slides", "cases"}``. Cases that the run was
    trained on are asked of heads that had not seen them, their single slides too. RecipeMismatch for another recipe.
    """
    key = run.fits(store)
    digest = slides_digest(store.rows(key))
    slides, cases = predictions_of(run, store, progress=progress)
    folder = store.layout.predictions / head
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)
    for name, frame in ((_SLIDES, slides), (_CASES, cases)):
        file = io.BytesIO()
        frame.write_parquet(file)
        write_atomic(folder / name, file.getvalue())
    told = {"head": head, "recipe": key, "slides": slides.height, "cases": cases.height}
    # Written last: predictions that have it are whole.
    write_json(folder / _ABOUT, {**told, "made_at": now(), "slides_sha256": digest})
    return told


def predictions_of(
    run: TrainedRun, store: Store, *, progress: Callable[[int, int], None] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One row a slide, and one a case; the columns of ``trained.predict`` behind the ids."""
    flat, cases = cases_of(run, store)
    packed = bags(flat, cases)
    by_slide: list[dict[str, Any]] = []
    by_case: list[dict[str, Any]] = []
    for i, case in enumerate(cases):
        heads, blind = run.asked(case.case_id)
        asked = {"held_out": blind, "heads": len(heads)}
        whole = columns_of(run.classes, ask(heads, packed.bag(i)))
        counts = {"slides": len(case.slide_ids), "tiles": packed.tiles(i)}
        by_case.append({"case_id": case.case_id, **counts, **whole, **asked})
        for slide in case.slide_ids:
            own = bags(flat, [Case(case.case_id, (slide,))])
            said = whole if len(case.slide_ids) == 1 else columns_of(run.classes, ask(heads, own.bag(0)))
            ids = {"slide_id": slide, "case_id": case.case_id, "tiles": own.tiles(0)}
            by_slide.append({**ids, **said, **asked})
        if progress is not None:
            progress(i + 1, len(cases))
    if not by_case:
        raise HeadError(
            "the store has no slide with a tile to read under the head's recipe: ingest some first"
        )
    slides = pl.DataFrame(by_slide, infer_schema_length=None).sort("slide_id")
    return slides, pl.DataFrame(by_case, infer_schema_length=None)


def forget(store: Store, head: str) -> None:
    """Remove what a head said of the slides."""
    remove_tree(store.layout.predictions / head)


def slides_digest(rows: Iterable[SlideRow]) -> str:
    """SHA-256, hex, of which ingest of which slides is finished."""
    listed = sorted((row.slide_id, str(row.ingest_id)) for row in rows if row.status == "done")
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
