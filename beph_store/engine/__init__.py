"""Where the rooms meet: the jobs that the command line offers."""

from beph_store.engine.demo import DemoReport, demo
from beph_store.engine.doctor import Finding, examine
from beph_store.engine.embed import embed, find_images
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.report import IngestReport, Progress

__all__ = [
    "DemoReport",
    "Finding",
    "IngestOptions",
    "IngestReport",
    "Progress",
    "demo",
    "embed",
    "examine",
    "find_images",
    "ingest",
]
