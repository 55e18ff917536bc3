"""What a backend is: one file that opens one kind of slide and paints regions of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from beph_store.geometry import Size
from beph_store.records import MppSource
from beph_store.slides.tiffdir import TiffLayout

UInt8 = NDArray[np.uint8]
Kind = Literal["tiff", "dicom", "image", "other"]

#: Decoded macro-tiles a reader may hold.
CACHE_BYTES = 256 << 20


class Declined(Exception):
    """Not a file for this backend; the next one in the table is asked."""


@dataclass(frozen=True, slots=True)
class StatedMpp:
    """Level-0 pixel size in µm as the file states it, and which part of the file does."""

    x: float
    y: float
    source: MppSource


class Fetcher(Protocol):
    """What brings the bytes of a file that is not all there."""

    def want(self, spans: Sequence[tuple[int, int]]) -> None:
        """Have these (offset, bytes) on disk."""

    def want_soon(self, spans: Sequence[tuple[int, int]]) -> None:
        """The same in a thread; who asks for some of them meanwhile waits until they are there."""

    def ensure(self, offset: int, count: int) -> None:
        """The same for one; quick where it is there."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A regular file, looked at but not opened: its ``kind`` by content, and its TIFF layout, checked.

    ``fetcher`` where the file is a copy that is not all there; what is to be read has to be asked for.
    """

    path: Path
    kind: Kind
    tiff: TiffLayout | None = None
    cache_bytes: int = CACHE_BYTES
    fetcher: Fetcher | None = None


class Backend(ABC):
    """An open file. Translates every foreign error into SlideUnreadable with a one-line reason.

    ``read`` may be called from several threads.
    """

    name: ClassVar[str]
    level_sizes: tuple[Size, ...]
    stated_mpp: StatedMpp | None = None
    #: Off while something else than tiles is read; see ``counts``.
    counting: bool = True
    #: Decoded macro-tiles that are held.
    cache_bytes: int = CACHE_BYTES
    #: What the user should know about the choice of this backend; one line.
    note: str = ""

    @abstractmethod
    def read(self, level: int, x: int, y: int, out: UInt8) -> None:
        """Paint ``out`` (h, w, 3) uint8 RGB with the region at (x, y), all of it inside ``level``, in its px.

        Where the slide has no pixels the result is white. Raises SlideUnreadable, and the
        reader stays usable for other regions.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    def macro_tile(self, level: int) -> Size | None:
        """(width, height) of what the file compresses as one; None where this backend does not know."""
        return None

    def hold(self, most_bytes: int) -> None:  # noqa: B027 - most backends hold nothing
        """Hold at most so many bytes of decoded macro-tiles from now on, and never more than ``cache_bytes``."""

    def trim(self, keep_bytes: int) -> None:  # noqa: B027 - most backends hold nothing
        """Drop decoded macro-tiles until at most ``keep_bytes`` are held."""

    def want(  # noqa: B027 - most files are all there
        self, level: int, macro_tiles: Iterable[tuple[int, int]] | None = None, *, wait: bool = True
    ) -> None:
        """Fetch (column, row) of a level, all of them if None, before they are read one by one; or begin to.

        Of use only where the file is a copy that is not all there.
        """

    @property
    def counts(self) -> tuple[int, int] | None:
        """(macro-tiles decoded, distinct ones among them) while ``counting``; None where it cannot know."""
        return None

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
