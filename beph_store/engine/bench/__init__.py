"""Rates on this machine: of an encoder in every runtime, and of a whole ingest beside it."""
