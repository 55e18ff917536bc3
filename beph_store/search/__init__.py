"""Finding what looks alike: tiles by exact or approximate search, slides by their mosaics, and how good that is."""

from beph_store.search.ann import Candidates, IndexInfo, IndexPlan, TileIndex
from beph_store.search.exact import TopK, top_k
from beph_store.search.retrieval import RetrievalScores, evaluate, neighbours
from beph_store.search.searcher import FlatTable, Searcher
from beph_store.search.slides import (
    Mosaic,
    RankedSlides,
    diverse,
    mean_vectors,
    mosaic,
    rank_by_mean,
    rank_by_mosaic,
)

__all__ = [
    "Candidates",
    "FlatTable",
    "IndexInfo",
    "IndexPlan",
    "Mosaic",
    "RankedSlides",
    "RetrievalScores",
    "Searcher",
    "TileIndex",
    "TopK",
    "diverse",
    "evaluate",
    "mean_vectors",
    "mosaic",
    "neighbours",
    "rank_by_mean",
    "rank_by_mosaic",
    "top_k",
]
