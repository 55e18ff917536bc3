"""The slides themselves, where an import is told where they lie: size, mpp, thumbnail; and a manifest's word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from beph_store.engine.reader_process import OVERVIEW_MPP, thumbnail
from beph_store.errors import SlideError, UsageError
from beph_store.objects import require_disk
from beph_store.records import Rasters, SlideInfo
from beph_store.regular import require_regular
from beph_store.slides import find_slides, is_slide, open_slide
from beph_store.tissue import find_tissue

_TISSUE = "otsu-saturation"
_ALIASES = {
    "slide_id": ("slide_id", "sample_id", "wsi", "filename", "path"),
    "mpp": ("mpp", "slide_mpp", "spacing", "spacing_at_level_0"),
    "case_id": ("case_id", "patient_id", "patient"),
}


@dataclass(frozen=True, slots=True)
class SlideAtHand:
    """What is known of a slide beside its features. ``info`` and ``path`` are None where the slide is not there."""

    slide_id: str
    path: Path | None = None
    info: SlideInfo | None = None
    mpp: float | None = None
    case_id: str | None = None

    def rasters(self) -> Rasters | None:
        """Thumbnail and tissue mask, read from the slide; None where it is not there."""
        if self.path is None:
            return None
        with open_slide(self.path, slide_id=self.slide_id, mpp=self.mpp) as slide:
            overview, mpp_x, mpp_y = slide.overview(OVERVIEW_MPP)
            return Rasters(thumbnail(overview), find_tissue(overview, mpp_x, mpp_y, _TISSUE))


@dataclass(frozen=True, slots=True)
class Hand:
    """Slides and rows of a manifest by the name that features go by: the file's, without its suffix."""

    slides: Mapping[str, list[tuple[str, Path]]] = field(default_factory=dict)
    rows: Mapping[str, tuple[float | None, str | None]] = field(default_factory=dict)
    given: bool = False

    @classmethod
    def find(cls, folder: Path | None, manifest: Path | None) -> Hand:
        """The slides under ``folder`` and the rows of ``manifest``; UsageError where either cannot be read."""
        require_disk(folder, "--slides are read")
        require_disk(manifest, "a manifest is read")
        slides: dict[str, list[tuple[str, Path]]] = {}
        for slide_id, path in find_slides(folder) if folder is not None else []:
            names = {name_of(slide_id), name_of(path.name)}
            for name in names:
                slides.setdefault(name, []).append((slide_id, path.absolute()))
        return cls(slides, {} if manifest is None else _rows(manifest), folder is not None)

    def ids(self, name: str) -> tuple[str, ...]:
        """The ids under which a store may have the slide whose features go by ``name``."""
        return (*(slide_id for slide_id, _ in self.slides.get(name, [])), name)

    def __call__(self, name: str) -> SlideAtHand:
        """What is known of the slide whose features go by ``name``. SlideError where two slides do, or it is broken."""
        mpp, case_id = self.rows.get(name, (None, None))
        found = self.slides.get(name, [])
        if not found:
            return SlideAtHand(name, mpp=mpp, case_id=case_id)
        if len(found) > 1:
            listed = ", ".join(slide_id for slide_id, _ in found[:3])
            raise SlideError(f"{len(found)} slides go by this name: {listed}", slide_id=name)
        slide_id, path = found[0]
        with open_slide(path, slide_id=slide_id, mpp=mpp) as slide:
            return SlideAtHand(slide_id, path, slide.info, mpp, case_id)


def name_of(slide_id: str) -> str:
    """The id without the suffix of a slide's file; other dots belong to it (TCGA's ids have them)."""
    return str(Path(slide_id).with_suffix("")) if is_slide(slide_id) else slide_id


def _rows(manifest: Path) -> dict[str, tuple[float | None, str | None]]:
    try:
        require_regular(manifest)
        table = pl.read_csv(manifest, infer_schema_length=0)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"the manifest {manifest} cannot be read: {str(error).splitlines()[0]}") from error
    names = {name.strip().lower(): name for name in table.columns}
    columns = {
        ours: next((names[a] for a in aliases if a in names), None) for ours, aliases in _ALIASES.items()
    }
    key = columns["slide_id"]
    if key is None:
        raise UsageError(f"the manifest {manifest} needs a column 'slide_id' (also: mpp, case_id)")
    rows: dict[str, tuple[float | None, str | None]] = {}
    for row in table.iter_rows(named=True):
        text = row[columns["mpp"]] if columns["mpp"] else None
        try:
            mpp = float(text) if text else None
        except ValueError:
            raise UsageError(f"mpp {text!r} in the manifest {manifest} is not a number") from None
        name = name_of(str(row[key] or "").strip())
        rows[name] = rows[Path(name).name] = (mpp, row[columns["case_id"]] if columns["case_id"] else None)
    return rows
