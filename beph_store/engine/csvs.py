"""A table as CSV for people: no cell of text is a formula to a spreadsheet."""

from __future__ import annotations

import polars as pl

from beph_store.cells import escaped


def as_csv(frame: pl.DataFrame) -> str:
    """The frame as CSV, its text cells and column names escaped (see `cells`); numbers are not touched."""
    text = pl.col(pl.String).map_elements(escaped, return_dtype=pl.String, skip_nulls=True)
    return frame.with_columns(text).rename({name: escaped(name) for name in frame.columns}).write_csv()
