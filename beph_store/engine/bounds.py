"""Where a slide's coordinates begin for a program that shows it cropped to its bounds, as QuPath does."""

from __future__ import annotations

from pathlib import Path

from beph_store.errors import UsageError
from beph_store.slides.openslide import bounds
from beph_store.store import SlideRow

Corner = tuple[int, int]


def origin_of(row: SlideRow, *, in_bounds: bool, corner: Corner | None) -> Corner:
    """The level-0 px at which such a program begins to count: ``corner`` if given, or what the slide's file states.

    (0, 0) where neither is asked for, and for a file that states no bounds. UsageError for both, and where the
    file is not there to ask.
    """
    if corner is not None:
        if in_bounds:
            raise UsageError("--bounds-origin says where the bounds begin: leave --in-bounds out")
        return corner
    if not in_bounds:
        return 0, 0
    path = Path(row.path or "")
    if not path.is_file():
        raise UsageError(
            f"--in-bounds asks the file of {row.slide_id}, which is not at {row.path}: pass --bounds-origin X,Y",
            path=row.path,
        )
    found = bounds(path)
    return (0, 0) if found is None else found[:2]
