"""The columnar store: one row a tile in Lance, a keyed registry that decides, rasters in zarr."""

from beph_store.store.cache import FlatVectors, bags
from beph_store.store.compact import CompactReport, compact
from beph_store.store.kept import KeptTiles, Shard
from beph_store.store.pixels import Packed, pack
from beph_store.store.query import query, write_parquet
from beph_store.store.reader import RecipeRecord, RecipeSummary, Store
from beph_store.store.registry import SlideRow
from beph_store.store.verify import VerifyReport, verify
from beph_store.store.writer import ClaimedSlide, RecipeWriter

__all__ = [
    "ClaimedSlide",
    "CompactReport",
    "FlatVectors",
    "KeptTiles",
    "Packed",
    "RecipeRecord",
    "RecipeSummary",
    "RecipeWriter",
    "Shard",
    "SlideRow",
    "Store",
    "VerifyReport",
    "bags",
    "compact",
    "pack",
    "query",
    "verify",
    "write_parquet",
]
