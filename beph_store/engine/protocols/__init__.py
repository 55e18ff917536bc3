"""The experiments of the BEPH paper as recipes: given slides and tables, from ingest to a table beside the paper's."""
