"""What is still to be read of which slide, and who has it: plain data, nothing of Ray.

The tiles of a slide, in the order in which they are read best, are cut into spans when somebody asks for work. So a
giant slide is read by all who have nothing else, and towards the end of a run the spans become smaller, that all may
end together. What a lost worker had in hand goes back to where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Most and fewest tiles of a span. A span costs the opening of its slide, and some macro-tiles decoded twice at its
#: ends; a lost worker costs the spans that it had in hand.
MOST_TILES = 2048
FEWEST_TILES = 128
#: Tiles read just before a span: those on whose macro-tiles its own may lie, too. A row of tiles of a large slide.
BEFORE_TILES = 512


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """``tile_index`` (n,) int32 of a slide, in reading order; ``before`` (m,) those that come before them in it."""

    slide_id: str
    tile_index: NDArray[np.int32]
    before: NDArray[np.int32]


@dataclass(slots=True, eq=False)
class _Slide:
    order: NDArray[np.int32]  # all tiles to read, in reading order
    done: NDArray[np.bool_]  # by tile index
    waiting: NDArray[np.int32]  # those that nobody has
    touched: bool = False


@dataclass(slots=True)
class Board:
    """The slides that are open, and the spans that each worker has in hand.

    A worker goes on with the slide it had last, then begins one that nobody reads, then helps with the one of which
    most is left.
    """

    most: int = MOST_TILES
    fewest: int = FEWEST_TILES
    _slides: dict[str, _Slide] = field(default_factory=dict)
    _hands: dict[str, list[Span]] = field(default_factory=dict)
    _last: dict[str, str] = field(default_factory=dict)

    def add(self, slide_id: str, order: NDArray[np.int32]) -> None:
        """A slide of which the tiles ``order`` (n,) int32 are to be read, best in this order; without any, nothing."""
        if not len(order):
            return
        done = np.zeros(int(order.max()) + 1, bool)
        self._slides[slide_id] = _Slide(order, done, order)

    @property
    def waiting(self) -> int:
        """Tiles that nobody has."""
        return sum(len(slide.waiting) for slide in self._slides.values())

    @property
    def open(self) -> int:
        """Slides of which something is left, waiting or in hand."""
        return len(self._slides)

    def hand(self, worker: str) -> list[Span]:
        """The spans that a worker has."""
        return self._hands.get(worker, [])

    def take(self, worker: str, *, sharers: int | None = None) -> Span | None:
        """The next span for a worker, None where nothing waits.

        ``sharers`` workers share what waits, and no slide will be added: spans are cut so small that each gets some.
        None while slides are still to come.
        """
        slide_id = self._choice(worker)
        if slide_id is None:
            return None
        slide = self._slides[slide_id]
        size = self.most if sharers is None else self._small(sharers)
        cut, slide.waiting = slide.waiting[:size], slide.waiting[size:]
        slide.touched = True
        self._last[worker] = slide_id
        span = Span(slide_id, cut, self._before(slide, cut))
        self._hands.setdefault(worker, []).append(span)
        return span

    def encoded(self, worker: str, slide_id: str, tile_index: NDArray[np.int32]) -> NDArray[np.int32]:
        """These tiles of a worker's spans are done. Returns those that were not before; none of a dropped slide."""
        slide = self._slides.get(slide_id)
        if slide is None:
            return tile_index[:0]
        fresh = tile_index[~slide.done[tile_index]]
        slide.done[fresh] = True
        self._hands[worker] = [span for span in self.hand(worker) if not self._over(span)]
        if slide.done[slide.order].all():
            self.drop(slide_id)
        return fresh

    def lost(self, worker: str) -> int:
        """A worker is gone: what it had and had not done waits again, before the rest. Returns how many tiles."""
        count = 0
        for span in reversed(self._hands.pop(worker, [])):
            slide = self._slides.get(span.slide_id)
            if slide is not None:
                left = span.tile_index[~slide.done[span.tile_index]]
                slide.waiting = np.concatenate([left, slide.waiting])
                count += len(left)
        self._last.pop(worker, None)
        return count

    def drop(self, slide_id: str) -> None:
        """Nothing more of this slide is wanted."""
        self._slides.pop(slide_id, None)
        for worker, spans in self._hands.items():
            self._hands[worker] = [span for span in spans if span.slide_id != slide_id]

    def _over(self, span: Span) -> bool:
        slide = self._slides.get(span.slide_id)
        return slide is None or bool(slide.done[span.tile_index].all())

    def _choice(self, worker: str) -> str | None:
        last = self._last.get(worker)
        if last is not None and last in self._slides and len(self._slides[last].waiting):
            return last
        fresh = next((name for name, slide in self._slides.items() if not slide.touched), None)
        return fresh or max(self._left(), key=lambda name: len(self._slides[name].waiting), default=None)

    def _left(self) -> Iterator[str]:
        return (name for name, slide in self._slides.items() if len(slide.waiting))

    def _small(self, sharers: int) -> int:
        """A half of an even share, so that who is quicker takes more often."""
        share = -(-self.waiting // (2 * sharers)) if sharers > 1 else self.most
        return max(self.fewest, min(self.most, share))

    def _before(self, slide: _Slide, cut: NDArray[np.int32]) -> NDArray[np.int32]:
        start = int(np.flatnonzero(slide.order == cut[0])[0])
        return slide.order[max(0, start - BEFORE_TILES) : start]
