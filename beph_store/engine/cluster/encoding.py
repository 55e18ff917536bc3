"""An encoder on a node: the pipeline of one machine, with readers that are tasks, and parts in the store for a sink.

It is one actor, alive for the whole run. The driver gives it spans and listens to what it wrote; what it has in hand is
all that is lost with it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.engine import pipeline
from beph_store.engine.choosing import Choice, choose
from beph_store.engine.cluster.bundles import Shipped, unpack
from beph_store.engine.cluster.reading import AHEAD, SpanPool, Work, read_span
from beph_store.engine.cluster.seats import Seat
from beph_store.engine.messages import Closed, Failed
from beph_store.engine.pipeline import Encoded, Stored
from beph_store.engine.provenance import WRITTEN_BY
from beph_store.engine.report import Computing, ReadStats
from beph_store.errors import BephStoreError, ClusterUnavailable
from beph_store.runtimes import RuntimeOptions
from beph_store.store.layout import Layout
from beph_store.store.staging import FLUSH_SECONDS, write_part


@dataclass(frozen=True, slots=True)
class Orders:
    """What an encoder computes; ``written_by`` the version of the driver on ``host``, which must be everybody's."""

    bundle: Shipped
    runtime: str
    precision: str | None
    batch: int | None
    written_by: str
    host: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where vectors of ``dim`` go: the recipe ``key`` of a store in which the run ``run`` is recorded."""

    layout: Layout
    key: str
    run: str
    dim: int


@dataclass(frozen=True, slots=True, eq=False)
class Wrote:
    """The vectors of these (n,) tiles are in the store's staging folder; ``good`` of them could be read."""

    slide_id: str
    tile_index: NDArray[np.int32]
    good: int


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """``news`` since the last time; all else since the beginning: what was read, seconds of encoding and of writing,
    and those between the first batch and the last.
    """

    news: tuple[Wrote | Failed, ...]
    stats: ReadStats
    encode: float
    write: float
    steady: float


@dataclass(slots=True, eq=False)
class _Slide:
    left: int = 0
    pending: list[Encoded] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


class PartSink:
    """Writes what was encoded of a slide every few seconds, and when no more of it is expected; ``tell`` hears it."""

    def __init__(self, target: Target, tell: Callable[[Wrote | Failed], None]) -> None:
        self._target = target
        self._tell = tell
        self._slides: dict[str, _Slide] = {}
        self._lock = threading.RLock()
        self.stats = ReadStats()

    def expect(self, slide_id: str, tiles: int) -> None:
        """So many more tiles of a slide will come."""
        with self._lock:
            self._slides.setdefault(slide_id, _Slide()).left += tiles

    def take(self, item: Stored) -> None:
        """Handle one item. A slide's own trouble ends that slide; trouble of the store is raised."""
        with self._lock:
            if isinstance(item, Encoded):
                self._encoded(item)
            elif isinstance(item, Closed | Failed):
                self.stats.add(item.stats)
                if isinstance(item, Failed):
                    self._fail(item.slide_id, item.error)

    def flush(self) -> None:
        """Write whatever is in memory."""
        with self._lock:
            for slide_id in list(self._slides):
                self._write(slide_id)

    def _encoded(self, item: Encoded) -> None:
        slide = self._slides.get(item.slide_id)
        if slide is None:  # it failed meanwhile
            return
        if not slide.pending:
            slide.since = time.monotonic()
        slide.pending.append(item)
        slide.left -= len(item.tile_index)
        if not slide.left or time.monotonic() - slide.since > FLUSH_SECONDS:
            self._write(item.slide_id)
        if not slide.left:
            self._slides.pop(item.slide_id, None)

    def _fail(self, slide_id: str, why: str) -> None:
        if slide_id in self._slides:
            self._write(slide_id)  # it stays for the next run
            self._slides.pop(slide_id, None)
        self._tell(Failed(slide_id, why, ReadStats()))

    def _write(self, slide_id: str) -> None:
        items, self._slides[slide_id].pending = self._slides[slide_id].pending, []
        if not items:
            return
        index = np.concatenate([item.tile_index for item in items])
        ok = np.concatenate([item.ok for item in items])
        vectors = np.concatenate([item.vectors for item in items])
        folder = self._target.layout.slide_staging(self._target.key, slide_id)
        try:
            write_part(folder, index, ok, vectors, slide_id=slide_id)
        except BephStoreError as error:
            if isinstance(error, OSError):
                raise
            self._slides.pop(slide_id, None)
            self._tell(Failed(slide_id, str(error), ReadStats()))
        else:
            self._tell(Wrote(slide_id, index, int(ok.sum())))


class Encoder:
    """The actor. ``open``, ``begin``, then ``give`` and ``hear`` again and again, in threads of their own."""

    def __init__(self, seat: Seat) -> None:
        # Ray sets it to the cores it was asked for, which leave some to readers that mostly wait.
        os.environ["OMP_NUM_THREADS"] = str(seat.threads)
        self._seat = seat
        self._choice: Choice | None = None
        self._news: list[Wrote | Failed] = []
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._clocks = pipeline.Clocks()
        self._pool: SpanPool
        self._sink: PartSink

    def open(self, orders: Orders) -> Computing:
        """Load the encoder. Raises RuntimeUnavailable, ParityFailed, and ClusterUnavailable for another version."""
        host = socket.gethostname()
        if orders.written_by != WRITTEN_BY:
            raise ClusterUnavailable(
                f"{host} has {WRITTEN_BY}, {orders.host} has {orders.written_by}: install one version everywhere"
            )
        try:
            self._choice = self._choose(orders)
        except BephStoreError as error:
            raise type(error)(str(error) if host == orders.host else f"{host}: {error}") from error
        return self._choice.computing

    def _choose(self, orders: Orders) -> Choice:
        options = RuntimeOptions(batch=orders.batch, threads=None if self._seat.gpus else self._seat.threads)
        bundle = unpack(orders.bundle)
        return choose(bundle, runtime=orders.runtime, precision=orders.precision, options=options)

    def placed(self) -> None:
        """Answers as soon as there is room for it."""

    def begin(self, target: Target) -> None:
        """Start to encode what will be given. ClusterUnavailable where this node does not see the store."""
        record = target.layout.runs / f"{target.run}.json"
        if not record.exists():
            raise ClusterUnavailable(
                f"{socket.gethostname()} does not see the store at {target.layout.root}: put it on a disk that all "
                "machines share under one path, or into object storage (s3://)"
            )
        self._pool = SpanPool(_ray(), self._reader(), near=self._seat.readers, far=self._seat.far)
        self._sink = PartSink(target, self._tell)
        threading.Thread(target=self._run, args=(target.dim,), name="pipeline", daemon=True).start()

    def give(self, works: Sequence[Work]) -> None:
        """Encode these, too."""
        for work in works:
            self._sink.expect(work.task.slide_id, len(work.tile_index))
        self._pool.give(works)

    def drop(self, slide_id: str) -> None:
        """Nothing more of this slide is wanted."""
        self._pool.drop(slide_id)

    def hear(self, seconds: float) -> Heard:
        """What happened since the last time; waits so long for something to happen. Raises what ended the pipeline."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._error, seconds)
            news, self._news = self._news, []
        if self._error is not None and not news:
            raise self._error
        clocks = self._clocks
        steady = (clocks.last or 0.0) - (clocks.first or 0.0)
        return Heard(tuple(news), self._sink.stats, clocks.encode, clocks.write.busy, steady)

    def finish(self) -> None:
        """Read no more, and write what is encoded."""
        self._pool.stop()
        self._sink.flush()

    def _run(self, dim: int) -> None:
        assert self._choice is not None
        try:
            stream = self._choice.runtime.stream()
            pipeline.run(self._pool, stream, self._sink, dim=dim, clocks=self._clocks)
        except BaseException as error:  # noqa: BLE001 - carried to whoever listens
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _tell(self, news: Wrote | Failed) -> None:
        with self._changed:
            self._news.append(news)
            self._changed.notify_all()

    def _reader(self) -> Callable[[Work, bool], Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._seat.node_id, soft=True)
        task = _ray().remote(read_span)

        def start(work: Work, near: bool) -> Any:
            return task.options(
                num_cpus=self._seat.reader_cpus,
                num_returns="streaming",
                max_retries=0,
                scheduling_strategy=here if near else "DEFAULT",
                _generator_backpressure_num_objects=AHEAD,
            ).remote(work)

        return start


def _ray() -> Any:
    import ray

    return ray
