"""A discrete-event simulation of `ingest --ray`: archives, fleets, costs, and one run.

The board that cuts slides into spans is the product's own; around it the driver's loop is replayed as
`engine/cluster/dispatch.py` has it: one thread that admits slides, hears what was written, hands out spans and commits.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from beph_store.engine.cluster.spans import FEWEST_TILES, MOST_TILES, Board
from beph_store.store.staging import FLUSH_SECONDS
from beph_store.store.writer import _COMMITS_LISTED as LISTED_A_COMMIT
from beph_store.store.writer import SECONDS_PER_COMMIT, SLIDES_PER_COMMIT


@dataclass(frozen=True)
class Archive:
    """``slides`` of exp(N(log median, sigma)) tiles, of which the share ``giants`` is ``times`` as large."""

    slides: int
    median: float = 9_000.0
    sigma: float = 0.6
    giants: float = 0.01
    times: float = 10.0
    seed: int = 0

    def tiles(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(slides,) int64."""
        rng = np.random.default_rng(self.seed)
        size = self.median * np.exp(self.sigma * rng.normal(size=self.slides))
        size *= np.where(rng.random(self.slides) < self.giants, self.times, 1.0)
        return np.maximum(1, size).astype(np.int64)


@dataclass(frozen=True)
class Fleet:
    """``workers`` encoders of ``rate`` tiles/s, each ± ``spread``; ``spans`` in hand; ``life_s`` mean seconds until one
    is taken away (0: never), ``noticed_s`` until that is known, ``replaced_s`` until another is at work.
    """

    workers: int
    rate: float
    spread: float = 0.1
    spans: int = 10
    life_s: float = 0.0
    noticed_s: float = 10.0
    replaced_s: float = 180.0


@dataclass(frozen=True)
class Costs:
    """Seconds. On the driver: ``admit`` a slide, ``open`` its spool, take in one piece of ``news``, hand out a
    ``span``, and ``wake`` once (a part that does not depend on the fleet, and one an encoder). ``publish`` (slides
    listed, seconds) of one commit. On the machines: ``survey`` of a slide, ``seal`` a slide and a tile, ``span_open``.
    """

    admit: float = 0.011
    open: float = 0.002
    news: float = 0.0005
    span: float = 0.0002
    wake: tuple[float, float] = (0.0003, 1.2e-6)
    publish: tuple[tuple[int, float], ...] = ((1_000, 0.15), (10_000, 0.3))
    survey: float = 1.0
    seal: tuple[float, float] = (0.05, 1e-5)
    span_open: float = 0.05

    def commit(self, listed: int) -> float:
        """Seconds of a commit while so many slides are listed: a straight line between what was measured, and on."""
        sizes, taken = np.array(self.publish, float).T
        if listed > sizes[-1] and len(sizes) > 1:
            slope = (taken[-1] - taken[-2]) / (sizes[-1] - sizes[-2])
            return float(taken[-1] + slope * (listed - sizes[-1]))
        return float(np.interp(listed, sizes, taken))


@dataclass
class Worker:
    """One encoder: ``free`` when it has done all that it was given; ``life`` counts its incarnations."""

    name: str
    rate: float
    free: float = 0.0
    life: int = 0
    works: bool = True
    busy: float = 0.0
    began: float = np.inf
    written: list[float] = field(default_factory=list)  # when its parts are on the disk


@dataclass
class Simulation:
    """One run. ``listed`` slides are in the store already."""

    archive: Archive
    fleet: Fleet
    costs: Costs
    listed: int = 0
    most: int = MOST_TILES
    fewest: int = FEWEST_TILES
    sizes: np.ndarray[Any, np.dtype[np.int64]] | None = None  # instead of drawn ones

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.archive.seed + 1)
        fleet = self.fleet
        self.rng = rng
        if self.sizes is None:
            self.sizes = self.archive.tiles()
        self.workers = [
            Worker(f"w{i}", fleet.rate * float(rng.uniform(1 - fleet.spread, 1 + fleet.spread)))
            for i in range(fleet.workers)
        ]
        self.by_name = {worker.name: worker for worker in self.workers}
        self.board = Board(most=self.most, fewest=self.fewest)
        self.inbox: list[tuple[float, int, str, Any]] = []
        self.count = 0
        self.left: dict[str, int] = {}
        self.ready: list[str] = []
        self.published = 0.0
        self.surveys = self.done = self.waiting = 0
        self.hungry = dict.fromkeys(
            self.by_name
        )  # those with less in hand than they should have, in their order
        self.told = {"driver_busy_s": 0.0, "commits": 0, "commit_s": 0.0, "lost_workers": 0, "tiles_twice": 0}
        for worker in self.workers:
            self._fate(worker, 0.0)

    def send(self, at: float, kind: str, what: Any) -> None:
        """Something reaches the driver's inbox."""
        self.count += 1
        heapq.heappush(self.inbox, (at, self.count, kind, what))

    def _fate(self, worker: Worker, now: float) -> None:
        if self.fleet.life_s:
            end = now + float(self.rng.exponential(self.fleet.life_s))
            self.send(end + self.fleet.noticed_s, "lost", (worker, worker.life, end))

    # ---- the driver's loop, as Dispatch.run ------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Until all slides are committed; the figures."""
        todo = deque(range(len(self.sizes)))
        now = 0.0
        while self.done < len(self.sizes):
            spent = self.costs.wake[0] + self.costs.wake[1] * len(self.workers)
            while self.inbox and self.inbox[0][0] <= now:
                _, _, kind, what = heapq.heappop(self.inbox)
                spent += self._handle(now, kind, what)
            while (
                todo
                and self.surveys <= len(self.workers)
                and len(self.left) < 4 * len(self.workers) + 8
                and self.waiting < 2 * len(self.workers) * self.board.most
            ):
                slide = todo.popleft()
                self.surveys += 1
                spent += self.costs.admit
                self.send(now + spent + self.costs.survey, "surveyed", slide)
            spent += self._feed(now + spent, last=not todo and not self.surveys)
            whole = self.done + len(self.ready) == len(self.sizes)
            spent += self._commit(now + spent, forced=whole)
            self.told["driver_busy_s"] += spent
            now += spent
            if self.done < len(self.sizes):
                now = max(now, min(self.inbox[0][0], now + 1.0) if self.inbox else now + 1.0)
        return self._figures(now)

    def _handle(self, now: float, kind: str, what: Any) -> float:
        if kind == "surveyed":
            self.surveys -= 1
            name = f"s{what}"
            self.left[name] = int(self.sizes[what])
            self.board.add(name, np.arange(self.sizes[what], dtype=np.int32))
            self.waiting += int(self.sizes[what])
            return self.costs.open
        if kind == "news":
            worker, life, slide, index = what
            if worker.life != life or slide not in self.left:
                return 0.0
            fresh = self.board.encoded(worker.name, slide, index)
            self.hungry[worker.name] = None
            self.left[slide] -= len(fresh)
            if not self.left[slide]:
                fixed, each = self.costs.seal
                self.send(now + fixed + each * int(self.sizes[int(slide[1:])]), "sealed", slide)
            return self.costs.news
        if kind == "sealed":
            del self.left[what]
            self.ready.append(what)
            return self.costs.news
        worker, life, end = what
        if kind == "lost" and worker.life == life:
            # What it did after its last part was written, and all that it still had, waits again.
            worker.life += 1
            worker.works = False
            worker.busy -= max(0.0, worker.free - end)
            before = max((at for at in worker.written if at <= end), default=end)
            self.told["tiles_twice"] += round(min(end - before, FLUSH_SECONDS) * worker.rate)
            self.told["lost_workers"] += 1
            worker.written.clear()
            self.waiting += self.board.lost(worker.name)
            self.hungry.pop(worker.name, None)
            self.send(end + self.fleet.replaced_s, "back", (worker, worker.life, 0.0))
        elif kind == "back":
            worker.works, worker.free = True, now
            self.hungry[worker.name] = None
            self._fate(worker, now)
        return self.costs.news

    def _feed(self, now: float, *, last: bool) -> float:
        """One span to each in turn, as the driver does; here only those are looked at who may want one."""
        spent = 0.0
        sharers = sum(worker.works for worker in self.workers) if last and self.waiting else None
        count = 0
        while self.waiting and self.hungry and count < self.fleet.spans:
            for name in list(self.hungry):
                have = len(self.board.hand(name))
                if have >= self.fleet.spans:
                    del self.hungry[name]
                elif have <= count and self.waiting:
                    span = self.board.take(name, sharers=sharers)
                    if span is None:
                        return spent
                    self.waiting -= len(span.tile_index)
                    spent += self.costs.span
                    self._encode(self.by_name[name], now + spent, span.slide_id, span.tile_index)
            count += 1
        return spent

    def _encode(self, worker: Worker, now: float, slide: str, index: Any) -> None:
        """The span in the worker's queue: a part is written, and told of, every few seconds and at its end."""
        start = max(now, worker.free)
        if start == now:
            start += self.costs.span_open  # else it was opened while the one before was encoded
        worker.free = start + len(index) / worker.rate
        worker.busy += len(index) / worker.rate
        worker.began = min(worker.began, start)
        step = max(1, int(FLUSH_SECONDS * worker.rate))
        for at in range(0, len(index), step):
            part = index[at : at + step]
            end = start + (at + len(part)) / worker.rate
            worker.written.append(end)
            self.send(end, "news", (worker, worker.life, slide, part))

    def _commit(self, now: float, *, forced: bool) -> float:
        if not self.ready:
            return 0.0
        due = now - self.published > SECONDS_PER_COMMIT or len(self.ready) >= max(
            SLIDES_PER_COMMIT, self.listed // LISTED_A_COMMIT
        )
        if not (due or forced):
            return 0.0
        taken = self.costs.commit(self.listed)
        self.listed += len(self.ready)
        self.done += len(self.ready)
        self.ready.clear()
        self.published = now
        self.told["commits"] += 1
        self.told["commit_s"] += taken
        return taken

    def _figures(self, seconds: float) -> dict[str, Any]:
        tiles = int(self.sizes.sum())
        ideal = tiles / sum(worker.rate for worker in self.workers)
        return {
            "archive": asdict(self.archive),
            "fleet": asdict(self.fleet),
            "tiles": tiles,
            "largest_slide_tiles": int(self.sizes.max()),
            "seconds": round(seconds, 1),
            "steady_seconds": round(max(w.free - w.began for w in self.workers if w.busy), 1),
            "ideal_seconds": round(ideal, 1),
            "efficiency": round(ideal / seconds, 4),
            "encoders_busy": round(sum(w.busy for w in self.workers) / len(self.workers) / seconds, 4),
            "driver_busy": round(self.told["driver_busy_s"] / seconds, 4),
            "commits": self.told["commits"],
            "seconds_in_commits": round(self.told["commit_s"], 1),
            "slides_a_second": round(len(self.sizes) / seconds, 2),
            "lost_workers": self.told["lost_workers"],
            "tiles_encoded_twice": self.told["tiles_twice"],
            "listed_after": self.listed,
        }
