"""What a slide's name says of it, and what of its bytes tells it from another, wherever it lies."""

from __future__ import annotations

from pathlib import Path

#: Formats that are slides wherever they lie.
SLIDE_SUFFIXES = frozenset(
    [
        ".svs",
        ".tif",
        ".tiff",
        ".btf",
        ".ndpi",
        ".scn",
        ".mrxs",
        ".bif",
        ".svslide",
        ".vms",
        ".vmu",
        ".czi",
        ".dcm",
    ]
)
#: Formats that may be a picture of anything: taken from a folder only where it holds no slide.
IMAGE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg"])

#: What a fingerprint reads of a large file: so many blocks of so many bytes.
BLOCK, BLOCKS = 64 << 10, 16


def is_slide(path: str | Path) -> bool:
    """Whether the suffix is one that ``open_slide`` may read; the file is not looked at."""
    return Path(path).suffix.lower() in SLIDE_SUFFIXES | IMAGE_SUFFIXES
