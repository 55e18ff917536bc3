"""The slide under a heatmap, read from its own file: sharper than the overview that is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import SlideError, UsageError
from beph_store.objects import is_url
from beph_store.slides import open_slide
from beph_store.store import SlideRow

#: Of a picture, px: a heatmap of that size takes about a gigabyte while it is drawn.
WIDTHS = (64, 4000)
#: A reader averages whole blocks, and may come out coarser than asked by half as much again.
_FINER = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Backdrop:
    """``image`` (h, w, 3) uint8 RGB of what lies from (0, 0) to ``extent_l0`` (w, h) in level-0 px."""

    image: NDArray[np.uint8]
    extent_l0: tuple[float, float]


def read_backdrop(row: SlideRow, width: int) -> Backdrop:
    """The slide of a finished row, at least ``width`` px wide, or as wide as it is.

    Raises UsageError for a width out of `WIDTHS`, and where the file is gone, has changed or cannot be read.
    """
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        raise UsageError(f"--width is from {WIDTHS[0]} to {WIDTHS[1]} px, not {width}")
    path = row.path or ""
    if not is_url(path) and not Path(path).exists():
        raise _missing(row, "is not where it was")
    try:
        with open_slide(path, slide_id=row.slide_id, mpp=row.mpp_x, mpp_source="declared") as slide:
            if row.fingerprint is not None and slide.info.fingerprint != row.fingerprint:
                raise _missing(row, "has changed since it was ingested")
            (full, high), mpp = slide.info.size_l0, slide.info.mpp
            most = 4 * max(width, width * high // full)
            image, mpp_x, mpp_y = slide.overview(mpp * full / width / _FINER, most)
            extent = (image.shape[1] * mpp_x / slide.info.mpp_x, image.shape[0] * mpp_y / slide.info.mpp_y)
    except (SlideError, OSError) as error:
        raise _missing(row, f"cannot be read ({error})") from error
    return Backdrop(image, extent)


def _missing(row: SlideRow, why: str) -> UsageError:
    return UsageError(
        f"{row.slide_id}: the slide's file {why}; leave --width out for the overview that is stored"
    )
