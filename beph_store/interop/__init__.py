"""Other tools' files, read into plain data. One file a format; the engine puts the data into a store."""

from beph_store.interop.table import FeatureTable, read_feature_table

__all__ = ["FeatureTable", "read_feature_table"]
