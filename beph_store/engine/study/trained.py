"""A folder that ``train`` wrote, opened again: its heads as one, and what they may be asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from beph_store.cohort.ids import tcga_patient
from beph_store.engine.study.outcomes import curve
from beph_store.errors import HeadError, RecipeMismatch
from beph_store.heads import DeviceName, Head, HeadSpec, load_head, read_spec
from beph_store.records import Case, Prediction
from beph_store.regular import require_regular
from beph_store.store import FlatVectors, Store, bags

FORMAT = 1
RUN_FILE = "train.json"
PREDICTIONS_FILE = "predictions.parquet"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class TrainedRun:
    """The heads of a cross-validation. Of a case that took part, only the heads that had not seen it are asked."""

    folder: Path
    about: Mapping[str, Any]
    device: DeviceName | None = None

    @classmethod
    def open(cls, folder: str | Path, *, device: DeviceName | None = None) -> TrainedRun:
        """The run in a folder; HeadError when it is not one or of a format that this version does not know.

        ``device`` says where its heads compute instead of where they were trained.
        """
        folder = Path(folder)
        try:
            require_regular(folder / RUN_FILE)
            about = json.loads((folder / RUN_FILE).read_bytes())
        except FileNotFoundError:
            raise HeadError(
                f"{folder} has no {RUN_FILE}: name a folder that `beph-store train` wrote", path=folder
            ) from None
        except (OSError, ValueError) as error:
            raise HeadError(f"{folder / RUN_FILE} cannot be read: {error}", path=folder) from None
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            found = about.get("format") if isinstance(about, dict) else None
            raise HeadError(
                f"the run in {folder} has format {found}, this version reads {FORMAT}: update beph-store"
            )
        return cls(folder, about, device)

    @property
    def task(self) -> str:
        """``classify`` or ``survive``."""
        return str(self.about["task"])

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the probabilities; empty for survival."""
        return self.specs[0].classes

    @cached_property
    def specs(self) -> tuple[HeadSpec, ...]:
        """What each head is and how it was trained, one a split; no weights are read."""
        return tuple(read_spec(self.folder / "heads" / str(i)) for i in range(len(self.about["splits"])))

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """One a split."""
        folders = (self.folder / "heads" / str(i) for i in range(len(self.about["splits"])))
        return tuple(load_head(folder, self.device) for folder in folders)

    @cached_property
    def _seen(self) -> tuple[frozenset[str], ...]:
        return tuple(frozenset([*split["train"], *split["val"]]) for split in self.about["splits"])

    @cached_property
    def case_of(self) -> Mapping[str, str]:
        """Slide id → case id, of the cohort that it was trained on."""
        return {slide: case for case, slides in self.about["cohort"]["cases"].items() for slide in slides}

    @cached_property
    def _spelled(self) -> Mapping[str, str]:
        return {case_id.casefold(): case_id for case_id in self.about["cohort"]["cases"]}

    def case_for(self, slide_id: str, recorded: str | None) -> str:
        """The case of any slide: as in training, else as the store recorded it, else the patient of a TCGA barcode.

        Another slide of a patient that took part is that patient's, or a head would be said not to have seen it.
        """
        if known := self.case_of.get(slide_id):
            return known
        case_id = recorded or slide_id
        case_id = tcga_patient(case_id) or tcga_patient(slide_id) or case_id
        return self._spelled.get(case_id.casefold(), case_id)

    def predictions(self) -> pl.DataFrame:
        """What each head said of its test cases, as ``train`` wrote it."""
        path = self.folder / PREDICTIONS_FILE
        try:
            require_regular(path)
            return pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise HeadError(f"{path} cannot be read: {str(error).splitlines()[0]}", path=path) from error

    def asked(self, case_id: str) -> tuple[tuple[Head, ...], bool]:
        """The heads to ask about a case, and whether none of them has seen it."""
        splits, blind = self.asked_splits(case_id)
        return tuple(self.heads[i] for i in splits), blind

    def asked_splits(self, case_id: str) -> tuple[tuple[int, ...], bool]:
        """The splits whose heads to ask about a case, and whether none of them has seen it."""
        blind = tuple(i for i, seen in enumerate(self._seen) if case_id not in seen)
        return (blind, True) if blind else (tuple(range(len(self._seen))), False)

    def fits(self, store: Store) -> str:
        """The key of the recipe that the heads know; RecipeMismatch where the store lacks it."""
        key = str(self.about["recipe"]["key"])
        have = [record.recipe.key for record in store.recipes()]
        if key not in have:
            raise RecipeMismatch(
                f"the head was trained on recipe {key} ({self.about['recipe']['encoder']['name']}), the store has "
                f"{', '.join(have) or 'none'}: ingest the slides with that recipe, or train on this store"
            )
        return key


def ask(heads: Sequence[Head], bag: Any) -> Prediction:
    """The mean of what several heads say of one bag; curves on the first head's times."""
    said = [head.predict(bag) for head in heads]
    times = np.asarray(heads[0].times, np.float64)
    curves = [
        curve(head, one, times) for head, one in zip(heads, said, strict=True) if one.survival is not None
    ]
    attention = [one.attention for one in said if one.attention is not None]
    scores = [one.tile_scores for one in said if one.tile_scores is not None]
    return Prediction(
        np.mean([one.values for one in said], axis=0),
        np.mean(curves, axis=0) if curves else None,
        np.mean(attention, axis=0) if attention else None,
        np.mean(scores, axis=0) if scores else None,
    )


def cases_of(run: TrainedRun, store: Store) -> tuple[FlatVectors, list[Case]]:
    """The store's vectors under the run's recipe, and its cases with a tile to read, by id.

    Slides belong to the case that they had in training, else to the one that the store recorded, else to their TCGA
    patient, else to themselves.
    """
    key = run.fits(store)
    members: dict[str, list[str]] = {}
    for row in store.rows(key):
        if row.status == "done" and row.tiles > row.unreadable:
            members.setdefault(run.case_for(row.slide_id, row.case_id), []).append(row.slide_id)
    return store.flat(key), [Case(case_id, tuple(slides)) for case_id, slides in sorted(members.items())]


def predict(
    run: TrainedRun, store: Store, *, progress: Callable[[int, int], None] | None = None
) -> pl.DataFrame:
    """One row a case of the store: probabilities of every class, or the log hazard (higher = worse).

    ``cases_of`` says which case a slide is of. ``held_out`` is True where no head that was asked had seen the case.
    """
    flat, cases = cases_of(run, store)
    packed = bags(flat, cases)
    rows = []
    for i, case in enumerate(cases):
        heads, blind = run.asked(case.case_id)
        said = ask(heads, packed.bag(i))
        rows.append(
            {"case_id": case.case_id, "slides": len(case.slide_ids), "tiles": packed.tiles(i)}
            | columns_of(run.classes, said)
            | {"held_out": blind, "heads": len(heads)}
        )
        if progress is not None:
            progress(i + 1, len(cases))
    return pl.DataFrame(rows)


def columns_of(classes: Sequence[str], said: Prediction) -> dict[str, float | str]:
    """A prediction as columns: ``predicted`` and ``p_<class>``, or ``log_hazard``."""
    if not classes:
        return {"log_hazard": float(said.values[0])}
    probabilities = {f"p_{name}": float(value) for name, value in zip(classes, said.values, strict=True)}
    return {"predicted": classes[int(np.argmax(said.values))], **probabilities}
