"""Into the store without a slide: what other tools or laboratories have computed."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np

from beph_store.engine.importing_features import import_features
from beph_store.engine.importing_options import ImportOptions, ImportReport
from beph_store.engine.provenance import WRITTEN_BY
from beph_store.errors import UsageError
from beph_store.interop import FeatureTable, read_feature_table
from beph_store.records import (
    EncoderSpec,
    Rasters,
    Recipe,
    SlideInfo,
    SlideOutcome,
    TileSet,
    TileSpec,
    TissueMask,
)
from beph_store.store import RecipeWriter, SlideRow, Store

__all__ = ["ImportOptions", "ImportReport", "import_features", "import_table"]

#: A vector without a place on a slide is stored as one tile of one pixel.
_NOWHERE = TileSpec(tile_px=1, mpp=1.0, stride_px=1, tissue_min=0.0, tissue_method="none")


def import_table(
    path: str | Path,
    store: str | Path,
    *,
    columns: str,
    id_column: str = "slide_id",
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """One vector a slide from a CSV or Parquet table; the same file again adds nothing.

    ``columns`` is a regular expression for the names of the feature columns. The recipe is named after the file's
    content and those columns, so that two tables never share a feature space.
    """
    table = read_feature_table(Path(path), columns=columns, id_column=id_column)
    if not table.slide_ids:
        raise UsageError(
            f"no row of {path} can be used: {table.refused[0][1] if table.refused else 'it is empty'}"
        )
    opened = Store.create(store, written_by=WRITTEN_BY)
    recipe = Recipe(_NOWHERE, _encoder(table))
    run = f"import-{uuid.uuid4().hex[:12]}"
    writer = opened.writer(recipe, run=run, encoder_source=f"imported from {table.path.name}", parity={})
    known = writer.known()
    outcomes = [SlideOutcome(slide_id, "failed", error=why) for slide_id, why in table.refused]
    try:
        for at, (slide_id, vector) in enumerate(zip(table.slide_ids, table.vectors, strict=True)):
            if slide_id in known and known[slide_id].complete:
                outcome = SlideOutcome(slide_id, "skipped", 1)
            else:
                outcome = _one(writer, table, slide_id, vector)
            outcomes.append(outcome)
            if progress is not None:
                progress(at + 1, len(table.slide_ids))
    finally:
        writer.close()
    return ImportReport(recipe.key, table.dim, tuple(outcomes))


def _encoder(table: FeatureTable) -> EncoderSpec:
    return EncoderSpec(
        name=f"table:{table.path.name.split('.')[0]}",
        variant="imported",
        weights_sha256=table.sha256,
        tile_px=1,
        mpp=1.0,
        dim=table.dim,
        pooling="one vector a slide",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        precision="fp32",
        licence="that of the table",
    )


def _one(writer: RecipeWriter, table: FeatureTable, slide_id: str, vector: np.ndarray) -> SlideOutcome:
    claim = writer.claim(slide_id)
    if claim is None:
        return SlideOutcome(slide_id, "failed", error="another process is importing this slide")
    row = SlideRow(writer.key, slide_id, "done", reader="table")
    if writer.recover(claim) is None:
        info = SlideInfo(slide_id, str(table.path), (1, 1), 1.0, 1.0, "declared", ((1, 1),), table.sha256)
        tiles = TileSet(slide_id, _NOWHERE, np.zeros((1, 2), np.int32), 1, np.ones(1, np.float32))
        spool = writer.open_spool(claim, info, tiles)
        spool.add(np.zeros(1, np.int32), np.ones(1, bool), vector[None])
        mask = TissueMask(np.ones((1, 1), bool), 1.0, 1.0, "none")
        writer.seal(claim, Rasters(np.full((1, 1, 3), 255, np.uint8), mask), row)
    writer.publish()
    return SlideOutcome(slide_id, "done", 1)
