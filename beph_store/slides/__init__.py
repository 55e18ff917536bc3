"""Whole slides: find them, open them, read regions and tiles of them.

``open_slide`` walks an ordered table of backends (`table`), one file each; `reader` is what it returns,
`tiles` reads the tiles of a `TileSet` from it. Every region is uint8 RGB on white.

A slide in object storage (`remote`) is read through a copy on local disk (`copies`) in a bounded `ring`.
"""

from beph_store.slides.copies import local_copy
from beph_store.slides.find import find_slides, fingerprint
from beph_store.slides.names import is_slide
from beph_store.slides.opening import open_slide
from beph_store.slides.reader import SlideReader
from beph_store.slides.remote import Reads, Remote, Staging
from beph_store.slides.table import BACKENDS
from beph_store.slides.tiles import TileReader

__all__ = [
    "BACKENDS",
    "Reads",
    "Remote",
    "SlideReader",
    "Staging",
    "TileReader",
    "find_slides",
    "fingerprint",
    "is_slide",
    "local_copy",
    "open_slide",
]
