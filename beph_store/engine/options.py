"""How to ingest, and the feature space that comes of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from beph_store.encoders import Bundle
from beph_store.errors import UsageError
from beph_store.geometry import MPP_HINT
from beph_store.records import EncoderSpec, Recipe, TileSpec
from beph_store.slides import Reads, Staging

#: Tissue is found at this scale, µm/px; tiles coarser than that are a magnification by mistake.
MPP_MAX = 8.0


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How to ingest; None means the encoder's own value, or as many as suit the machine.

    ``keep_tiles`` keeps the tiles' pixels beside their embeddings; it is no part of the recipe. Of slides in object
    storage ``slide_cache_gb`` of local disk may hold copies (None: a quarter of what is free), ``slides_ahead`` are
    fetched before their turn, and ``slide_reads`` says whether whole, by ranges, or as is quicker ("auto").
    ``reader_memory_gb`` bounds what a reader process takes for one slide (None: BEPH_STORE_READER_MEMORY_GB, or 4).
    ``ray_address`` spreads the work over a cluster, see `cluster.session.connect`; None is this machine alone.
    """

    encoder: str = "beph-mini"
    mpp: float | None = None
    tile_px: int | None = None
    stride_px: int | None = None
    tissue_min: float = 0.25
    tissue_method: str = "otsu-saturation"
    limit_tiles: int | None = None
    runtime: str = "auto"
    precision: str | None = None
    workers: int | None = None
    batch: int | None = None
    replace: bool = False
    keep_tiles: bool = False
    slide_cache_gb: float | None = None
    slides_ahead: int = 2
    slide_reads: Reads = "auto"
    reader_memory_gb: float | None = None
    ray_address: str | None = None

    def staging(self) -> Staging:
        """How slides come from object storage. Raises UsageError for a cache of no size."""
        if self.slide_cache_gb is not None and not self.slide_cache_gb > 0:
            raise UsageError(f"--slide-cache-gb {self.slide_cache_gb:g}: slides need room")
        return Staging(
            None if self.slide_cache_gb is None else int(self.slide_cache_gb * 1e9), self.slide_reads
        )


def make_recipe(bundle: Bundle, options: IngestOptions) -> Recipe:
    """The feature space that the options name.

    Raises UsageError for a tile the encoder does not take, and for a scale above ``MPP_MAX``.
    """
    spec = bundle.spec_for(options.precision)
    mpp = spec.mpp if options.mpp is None else options.mpp  # 0 is a mistake to refuse, not the default
    tile_px = spec.tile_px if options.tile_px is None else options.tile_px
    if mpp > MPP_MAX:
        raise UsageError(f"--mpp {mpp:g}: tiles are cut at {MPP_MAX:g} at most, in {MPP_HINT}")
    tile = TileSpec(
        tile_px=tile_px,
        mpp=mpp,
        stride_px=tile_px if options.stride_px is None else options.stride_px,
        tissue_min=options.tissue_min,
        tissue_method=options.tissue_method,
        limit=options.limit_tiles,
    )
    if tile_px != spec.tile_px:
        same = _same_tissue(spec, tile, strides=options.stride_px is not None)
        raise UsageError(f"{spec.name} takes tiles of {spec.tile_px} px, not {tile_px}: {same}")
    return Recipe(tile, spec)


def _same_tissue(spec: EncoderSpec, tile: TileSpec, *, strides: bool) -> str:
    """What to pass so that the encoder sees the tissue of tiles of another side."""
    scale = tile.tile_px / spec.tile_px
    step = f" --stride-px {round(tile.stride_px / scale)}" if strides else ""
    width = tile.tile_px * tile.mpp
    return f"for the same {width:g} µm of tissue pass --mpp {tile.mpp * scale:.4g}{step} and no --tile-px"


def default_workers() -> int:
    """Reader processes: one for every four cores is more than a CPU encoder can use, eight feed a GPU."""
    return max(1, min(8, (os.cpu_count() or 1) // 4))
