"""A map of a store: an even sample of its tiles laid out in the plane by likeness, coloured by a column."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.search.colouring import Colouring, colour_by
from beph_store.engine.search.table import SearchTable
from beph_store.errors import SearchError
from beph_store.halves import widened
from beph_store.search.projection import (
    MIN_TILES,
    MapQuality,
    MethodRow,
    default_method,
    judge,
    method_row,
    project,
    sample_evenly,
    version_of,
)


@dataclass(frozen=True, slots=True)
class MapOptions:
    """``where`` keeps rows before ``sample`` of them are taken, evenly over slides; ``colour`` names a column."""

    colour: str = "slide"
    sample: int = 5000
    seed: int = 0
    where: str | None = None
    method: str = field(default_factory=default_method)


@dataclass(frozen=True, slots=True, eq=False)
class TileMap:
    """``rows`` (n,) int64 of the table, ascending; ``points`` (n, 2) float32 within 0–1, y upwards.

    ``tiles`` is how many rows there were to sample from, ``slides`` how many slides these are of.
    """

    table: SearchTable
    options: MapOptions
    rows: NDArray[np.int64]
    points: NDArray[np.float32]
    colouring: Colouring
    quality: MapQuality
    tiles: int
    slides: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def method(self) -> MethodRow:
        """How the points were laid out."""
        return method_row(self.options.method)

    @property
    def slides_seen(self) -> int:
        """Slides with a tile on the map."""
        return len(np.unique(self.table.slide_of[self.rows]))

    @property
    def title(self) -> str:
        """What the map shows."""
        return (
            f"{len(self):,} tiles of {self.table.store.layout.root.resolve().name}, by {self.options.colour}"
        )

    @property
    def subtitle(self) -> str:
        """How it was made."""
        recipe = self.table.record.recipe
        slides = f"{self.slides_seen:,}" + (f" of {self.slides:,}" if self.slides_seen < self.slides else "")
        what = (
            f"all {self.tiles:,} tiles"
            if len(self) == self.tiles
            else f"{len(self):,} of {self.tiles:,} tiles, evenly"
        )
        kept = f" where {self.options.where}" if self.options.where else ""
        return (
            f"{self.method.title} of {recipe.encoder.name} ({recipe.encoder.variant}), {recipe.tile.tile_px} px at "
            f"{recipe.tile.mpp:g} µm/px · {what} from {slides} slide{'s' * (self.slides_seen != 1)}{kept} · "
            f"seed {self.options.seed}"
        )

    @property
    def trust(self) -> str:
        """How far to believe it."""
        q = self.quality
        return (
            f"Trustworthiness {q.trustworthiness:.3f} (1 is best, a random layout has 0.5): of a tile's {q.neighbours} "
            f"nearest here, {q.kept:.0%} are among its {q.neighbours} nearest embeddings. {self.method.caution}"
        )

    def to_json(self) -> dict[str, Any]:
        """The facts beside the picture."""
        shown = self.colouring
        return {
            "tiles": len(self),
            "tiles_to_choose_from": self.tiles,
            "slides": self.slides_seen,
            "recipe": self.table.record.recipe.key,
            "method": self.options.method,
            "package": version_of(self.method),
            "seed": self.options.seed,
            "where": self.options.where,
            "quality": asdict(self.quality),
            "colour": {
                "column": shown.column,
                "kind": "classes" if shown.scale is None else "numbers",
                "low": None if shown.scale is None else shown.low,
                "high": None if shown.scale is None else shown.high,
                "legend": [asdict(row) for row in shown.legend],
                "grouped": shown.grouped,
            },
        }


def draw_map(table: SearchTable, options: MapOptions | None = None) -> TileMap:
    """Sample, lay out, colour and judge.

    SearchError for too few tiles, QueryError for a ``where`` or a column that cannot be understood, MissingExtra where
    the method's package is absent: that is said before anything is computed.
    """
    options = options or MapOptions()
    method_row(options.method).check()
    allowed = (
        np.arange(len(table.flat)) if options.where is None else np.flatnonzero(table.where(options.where))
    )
    if len(allowed) < MIN_TILES:
        kept = f" with --where {options.where!r}" if options.where else ""
        raise SearchError(
            f"a map needs {MIN_TILES} tiles, there are {len(allowed)}{kept}: ingest more or ask for more"
        )
    rows = allowed[sample_evenly(table.slide_of[allowed], options.sample, options.seed)]
    colouring = colour_by(table, rows, options.colour)
    vectors = widened(table.flat.vectors[rows])
    points = project(vectors, options.method, options.seed)
    quality = judge(vectors, points)
    slides = len(np.unique(table.slide_of[allowed]))
    return TileMap(table, options, rows, points, colouring, quality, len(allowed), slides)
