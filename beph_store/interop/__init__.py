"""Other tools' files, read into plain data and written from it. One file a format, one row each in ``FORMATS``.

The engine puts the data into a store and takes it out again.
"""

from beph_store.interop.features import FORMATS, Format, Found, SlideFeatures, check_rows, format_named
from beph_store.interop.table import FeatureTable, read_feature_table

__all__ = [
    "FORMATS",
    "FeatureTable",
    "Format",
    "Found",
    "SlideFeatures",
    "check_rows",
    "format_named",
    "read_feature_table",
]
