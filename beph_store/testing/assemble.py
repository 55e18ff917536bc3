"""Slides assembled from fields of view: real tissue and real labels where no whole slide is at hand.

An assembled slide is camera fields laid on white. Its tissue is as the microscope saw it; where the fields lay in
the specimen, and how large a pixel is, nobody knows: **its mpp is declared and arbitrary**. Outcomes from
``plant_survival`` are **simulated**, in columns that say so. None of this may be reported as a result on patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from beph_store.errors import CohortError, UsageError
from beph_store.geometry import Size
from beph_store.testing.pyramid import WHITE, write_pyramid
from beph_store.testing.tiff import Coding, TiledTiff

__all__ = ["SEVERITY", "assemble", "assemble_ebhi", "field_origins", "plant_survival"]

Pixels = NDArray[np.uint8]

#: Classes of EBHI-Seg from harmless to worst: a convention of ours (a serrated adenoma and a low-grade neoplasia have
#: no agreed order), used only to give a case with several classes one label.
SEVERITY = ("normal", "polyp", "serrated_adenoma", "low_grade_in", "high_grade_in", "adenocarcinoma")

_REGION = 256
#: Below this many px a side a further level shows nothing.
_SMALLEST_LEVEL = 64
#: JPEG that an encoder hardly sees: no subsampling of colour, quality 95.
FIELDS = Coding(quality=95, subsampling="444")
_MEDIAN_DAYS = 1000.0


def field_origins(n: int, cell: Size, gap_px: int, columns: int | None = None) -> NDArray[np.int64]:
    """(n, 2) top-left (x, y) in level-0 px of fields in cells of ``cell`` (width, height), row by row.

    ``gap_px`` lies between the cells and around them all; ``columns`` a row, by default as square as it gets.
    """
    columns = columns or int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n, dtype=np.int64), columns)
    return np.stack([gap_px + column * (cell[0] + gap_px), gap_px + row * (cell[1] + gap_px)], axis=1)


def assemble(
    fields: Sequence[str | Path | Pixels],
    path: str | Path,
    *,
    mpp: float,
    gap_px: int | None = None,
    columns: int | None = None,
    coding: Coding = FIELDS,
) -> Path:
    """Lay fields, (h, w, 3) uint8 RGB or image files, on white and write a pyramidal tiled TIFF.

    ``mpp`` µm/px is what the file will state of level 0. ``gap_px`` of white lies between the fields and around
    them. Any whole multiple of a field's width, 0 too, makes a grid of tiles as large as a field, at the same mpp,
    fall exactly on the fields; the default is two widths, because a tissue mask reaches a little over the edge of
    the tissue, and a gap of one is then often taken for a tile. Fields of several sizes lie at the top left of
    equal cells.
    The whole canvas is held in memory. Raises UsageError without a field, or for one that is no RGB picture.
    """
    pictures = [_pixels(field) for field in fields]
    if not pictures:
        raise UsageError("an assembled slide needs at least one field")
    if (gap_px or 0) < 0 or (columns is not None and columns < 1):
        raise UsageError("a gap is at least 0 px and a row at least one field")
    cell = max(p.shape[1] for p in pictures), max(p.shape[0] for p in pictures)
    gap = 2 * cell[0] if gap_px is None else gap_px
    origins = field_origins(len(pictures), cell, gap, columns)
    width, height = (int(origins[:, axis].max()) + cell[axis] + gap for axis in (0, 1))
    canvas = np.full((_whole(height), _whole(width), 3), WHITE, np.uint8)
    for (x, y), picture in zip(origins.tolist(), pictures, strict=True):
        canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with TiledTiff(part, mpp, description="assembled from fields; mpp declared, arbitrary") as tiff:
        write_pyramid(
            tiff,
            (width, height),
            tuple(d for d in (1, 4, 16, 64) if d == 1 or min(width, height) // d >= _SMALLEST_LEVEL),
            coding,
            lambda x, y: canvas[y : y + _REGION, x : x + _REGION],
        )
    part.replace(path)
    return path


def assemble_ebhi(
    root: str | Path, out: str | Path, *, mpp: float = 0.5, limit: int | None = None
) -> pl.DataFrame:
    """Assemble the fields of EBHI-Seg under ``root`` (with its ``manifest.csv``) into one TIFF a slide and class.

    Writes ``labels.csv`` beside them, which also serves as a manifest, and returns it: ``slide_id`` (the file's
    name), ``case_id``, ``label``, ``case_label``, ``path``, ``fields`` (how many), ``optical_density`` (mean of the
    fields, a property of the pixels alone), ``source_slide_id``, ``note``.

    A slide whose fields are of two classes becomes two, ``…-a`` and ``…-b``, so that ``label`` is true of every
    tile of a bag. Cases keep all their slides and must not be split; a case with slides of several classes has its
    worst (`SEVERITY`) as ``case_label``, the one to use where the case is what is labelled. The true mpp of the
    fields is unknown: ``mpp`` is declared, arbitrary. ``limit``: so many slides, evenly spread over the ids.
    Tiled at the declared mpp with the default tissue method, 993 of the 994 fields are found, one tile each (one is
    too pale), and no gap is. Ids are put in upper case: EBHI spells three of its cases in two ways.
    Raises UsageError for a folder that is not EBHI-Seg.
    """
    root, out = Path(root), Path(out)
    table = _slides_of(_manifest(root))
    if limit is not None:
        table = table[np.linspace(0, len(table) - 1, min(limit, len(table))).round().astype(int).tolist()]
    densities = []
    for row in table.iter_rows(named=True):
        pictures = [_pixels(root / name) for name in row["files"]]
        assemble(pictures, out / row["slide_id"], mpp=mpp)
        densities.append(float(np.mean([_optical_density(picture) for picture in pictures])))
    labels = table.select(
        "slide_id",
        "case_id",
        "label",
        "case_label",
        pl.col("slide_id").alias("path"),
        pl.col("files").list.len().cast(pl.Int64).alias("fields"),
        pl.Series("optical_density", densities, pl.Float64).round(6),
        "source_slide_id",
        pl.lit(f"assembled from fields; mpp {mpp:g} declared, arbitrary").alias("note"),
    )
    labels.write_csv(out / "labels.csv")
    return labels


def plant_survival(
    labels: pl.DataFrame,
    *,
    by: str = "case_label",
    strength: float = 1.0,
    censored: float = 0.3,
    seed: int = 0,
) -> pl.DataFrame:
    """``labels`` with **simulated** outcomes: a check that a survival head finds what is there, and nothing else.

    Adds ``simulated_time_days`` (whole days, at least 1), ``simulated_event`` (bool) and the truth behind them,
    ``simulated_log_hazard``: ``strength`` × the standardised property ``by``, one value a case. A number is
    averaged over the rows of a case; a text must be the same in all of them and counts by its place in `SEVERITY`,
    else in the alphabet. ``strength`` 0 plants nothing: the control. Times are exponential, censoring is
    independent of the hazard; ``censored`` 0–1 is the share of cases without an event. Rows may come in any order.

    Raises UsageError for a column or value that cannot be used, CohortError for a case with two texts.
    """
    if by not in labels.columns or "case_id" not in labels.columns:
        raise UsageError(f"the table needs the columns case_id and {by}: it has {', '.join(labels.columns)}")
    if not 0 <= censored < 1:
        raise UsageError("the censored share is from 0 to below 1")
    cases, score = _score_of_cases(labels, by)
    spread = float(score.std())
    log_hazard = strength * (score - score.mean()) / spread if spread > 0 else np.zeros(len(score))
    rng = np.random.default_rng(seed)
    death = rng.exponential(_MEDIAN_DAYS / np.log(2), len(cases)) * np.exp(-log_hazard)
    window = rng.uniform(0.05, 1, len(cases))
    # Seen where death <= c · window: this c leaves the wanted share unseen.
    order = np.sort(death / window)
    seen = max(1, round((1 - censored) * len(order))) if len(order) else 0
    end = window * (order[seen - 1] if seen else 0.0)
    event = death / window <= (order[seen - 1] if seen else 0.0)
    outcomes = pl.DataFrame(
        {
            "case_id": cases,
            "simulated_time_days": np.maximum(1, np.ceil(np.where(event, death, end))).astype(np.int64),
            "simulated_event": event,
            "simulated_log_hazard": log_hazard,
        },
        schema_overrides={"case_id": labels.schema["case_id"]},
    )
    return labels.join(outcomes, on="case_id", how="left", maintain_order="left")


def _score_of_cases(labels: pl.DataFrame, by: str) -> tuple[list[str], NDArray[np.float64]]:
    """Case ids in order, and a number for each."""
    if labels[by].null_count() or labels["case_id"].null_count():
        raise UsageError(f"column {by} or case_id has empty cells: fill them or drop the rows")
    grouped = labels.group_by("case_id").agg(
        pl.col(by).mean() if labels[by].dtype.is_numeric() else pl.col(by)
    )
    grouped = grouped.sort("case_id")
    cases = grouped["case_id"].to_list()
    if labels[by].dtype.is_numeric():
        score = grouped[by].to_numpy().astype(np.float64)
        if not np.isfinite(score).all():
            raise UsageError(f"column {by} has values that are not finite")
        return cases, score
    values = [sorted({str(value) for value in cell}) for cell in grouped[by].to_list()]
    for case, own in zip(cases, values, strict=True):
        if len(own) > 1:
            raise CohortError(
                f"case {case} has more than one {by} ({', '.join(own)}): plant by a column of cases"
            )
    names = {own[0] for own in values}
    ladder = SEVERITY if names <= set(SEVERITY) else tuple(sorted(names))
    return cases, np.array([ladder.index(own[0]) for own in values], np.float64)


def _manifest(root: Path) -> pl.DataFrame:
    path = root / "manifest.csv"
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError(f"{path} cannot be read: {error}", path=path) from error
    missing = {"path", "label", "case_id", "slide_id"} - set(table.columns)
    if missing:
        raise UsageError(f"{path} lacks the columns {', '.join(sorted(missing))}", path=path)
    strange = set(table["label"].unique()) - set(SEVERITY)
    if strange:
        raise UsageError(
            f"{path} has a class that is none of EBHI's: {', '.join(map(str, strange))}", path=path
        )
    # The same patient is spelled GTXC… and GTxc…: apart, they could straddle a split, and their files
    # could overwrite each other where names do not differ by case.
    return table.with_columns(pl.col("case_id", "slide_id").str.to_uppercase())


def _slides_of(manifest: pl.DataFrame) -> pl.DataFrame:
    """One row a slide to assemble: slide_id, source_slide_id, case_id, label, case_label, files."""
    severity = pl.col("label").replace_strict({name: i for i, name in enumerate(SEVERITY)})
    worst = manifest.with_columns(severity.max().over("case_id").alias("worst"))
    slides = (
        worst.sort("slide_id", "label", "path")
        .group_by("slide_id", "label", maintain_order=True)
        .agg(pl.col("case_id").first(), pl.col("worst").first(), pl.col("path").alias("files"))
    )
    rank = pl.col("label").rank("ordinal").over("slide_id").cast(pl.Int64)
    letter = pl.when(pl.len().over("slide_id") > 1).then(
        pl.lit("-") + rank.replace_strict({i: chr(96 + i) for i in range(1, len(SEVERITY) + 1)})
    )
    return slides.select(
        (pl.col("slide_id") + letter.otherwise(pl.lit("")) + ".tif").alias("slide_id"),
        pl.col("slide_id").alias("source_slide_id"),
        "case_id",
        "label",
        pl.col("worst").replace_strict(dict(enumerate(SEVERITY))).alias("case_label"),
        "files",
    )


def _pixels(field: str | Path | Pixels) -> Pixels:
    if isinstance(field, np.ndarray):
        if field.ndim != 3 or field.shape[2] != 3 or field.dtype != np.uint8 or not field.size:
            raise UsageError(f"a field is (h, w, 3) uint8 RGB, not {field.shape} {field.dtype}")
        return field
    try:
        with Image.open(field) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UsageError(f"{field} cannot be read as a picture: {error}", path=field) from error


def _optical_density(pixels: Pixels) -> float:
    """Mean over pixels and channels of −log10(value / 255)."""
    levels = -np.log10(np.maximum(np.arange(256), 1) / 255)
    return float(levels[pixels].mean())


def _whole(px: int) -> int:
    return -(-px // _REGION) * _REGION
