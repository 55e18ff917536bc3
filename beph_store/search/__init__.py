"""Finding what looks alike: tiles by exact or approximate search, slides by their mosaics, and how good that is."""

from beph_store.search.ann import Candidates, IndexInfo, IndexPlan, TileIndex
from beph_store.search.exact import TopK, top_k
from beph_store.search.searcher import FlatTable, Searcher

__all__ = ["Candidates", "FlatTable", "IndexInfo", "IndexPlan", "Searcher", "TileIndex", "TopK", "top_k"]
