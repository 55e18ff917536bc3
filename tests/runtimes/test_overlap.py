"""What may overtake what: a device whose lanes run in every order that their holds allow must still give the truth."""

import random

import numpy as np
import pytest

from beph_store.errors import RuntimeUnavailable, UsageError
from beph_store.runtimes.overlap import Overlapped, Streamed
from tests.runtimes.conftest import DIM, SIDE
from tests.runtimes.test_stream import run

BATCH = 4


def embed(tiles):
    """A stand-in encoder: each vector tells the first pixel, the last one, and their sum."""
    flat = tiles.reshape(len(tiles), SIDE * SIDE * 3).astype(np.float32)
    return np.stack([flat[:, 0], flat[:, -1], flat[:, 0] + flat[:, -1]] * (DIM // 3), axis=1)


class Adversary:
    """Lanes in which each piece of work is done as late as allowed, or sooner, whichever does most harm.

    Nothing happens when it is queued. Work is done when a ``finish`` waits for it, and before that some of the rest
    that its lane and its holds allow, drawn at random.
    """

    def __init__(self, slots, seed):
        self.slots = slots
        self.random = random.Random(seed)
        self.host = [np.zeros((BATCH, SIDE, SIDE, 3), np.uint8) for _ in range(slots)]
        self.device = [np.zeros((BATCH, SIDE, SIDE, 3), np.uint8) for _ in range(slots)]
        self.vectors = [np.zeros((BATCH, DIM), np.float32) for _ in range(slots)]
        self.out = [np.zeros((BATCH, DIM), np.float32) for _ in range(slots)]
        self.lanes = {"upload": [], "compute": [], "download": []}
        self.done = {}
        self.last = {}
        self.most = 0

    def _queue(self, lane, slot, work):
        number = self.last.get((lane, slot), (lane, slot, 0))[2] + 1
        self.last[lane, slot] = (lane, slot, number)
        self.lanes[lane].append(("work", self.last[lane, slot], work))

    def tiles(self, slot):
        return self.host[slot]

    def upload(self, slot, count):
        self._queue("upload", slot, lambda: np.copyto(self.device[slot][:count], self.host[slot][:count]))
        self.most = max(self.most, sum(kind == "work" for kind, *_ in self.lanes["upload"]))

    def compute(self, slot):
        self._queue("compute", slot, lambda: np.copyto(self.vectors[slot], embed(self.device[slot])))

    def download(self, slot, count):
        self._queue("download", slot, lambda: np.copyto(self.out[slot][:count], self.vectors[slot][:count]))

    def hold(self, lane, after, slot):
        self.lanes[lane].append(("hold", self.last[after, slot], None))

    def _step(self, lane):
        """Do the first thing of a lane, if nothing holds it."""
        kind, what, work = self.lanes[lane][0]
        if kind == "hold" and what not in self.done:
            return False
        self.lanes[lane].pop(0)
        if kind == "work":
            work()
            self.done[what] = True
        return True

    def finish(self, slot, count):
        wanted = self.last["download", slot]
        while wanted not in self.done:
            ready = [lane for lane, queue in self.lanes.items() if queue]
            assert ready, "nothing left to do, and the download is not done"
            self.random.shuffle(ready)
            assert any(self._step(lane) for lane in ready), "the lanes wait for each other"
        return self.out[slot][:count].copy(), 0.5


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    sizes = [4, 4, 1, 4, 3, 2, 4, 4, 4, 1, 4, 4]
    return [rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8) for n in sizes]


@pytest.mark.parametrize("slots", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(8))
def test_vectors_are_right_in_every_order_that_the_holds_allow(batches, slots, seed):
    lanes = Adversary(slots, seed)
    stream = Overlapped(lanes)
    assert stream.depth == slots - 1
    found = run(stream, batches)
    for vectors, pixels in zip(found, batches, strict=True):
        np.testing.assert_array_equal(vectors, embed(pixels))
    assert stream.busy == 0.5 * len(batches)


def test_batches_are_queued_without_waiting_for_any(batches):
    lanes = Adversary(4, 0)
    run(Overlapped(lanes), batches)
    assert lanes.most == 3


@pytest.mark.parametrize("forgotten", ["compute", "download"])
def test_the_adversary_finds_a_missing_hold(batches, forgotten):
    class Careless(Adversary):
        def hold(self, lane, after, slot):
            if lane != forgotten:
                super().hold(lane, after, slot)

    def wrong(seed):
        found = run(Overlapped(Careless(4, seed)), batches)
        return any(not np.array_equal(v, embed(p)) for v, p in zip(found, batches, strict=True))

    assert any(wrong(seed) for seed in range(8))


def test_a_buffer_is_given_until_it_is_submitted_and_never_while_under_way(batches):
    stream = Overlapped(Adversary(3, 0))
    assert stream.buffer() is stream.buffer()
    given = []
    for pixels in batches[:3]:
        given.append(stream.buffer())
        given[-1][: len(pixels)] = pixels
        stream.submit(len(pixels))
    assert len({id(buffer) for buffer in given}) == 3
    with pytest.raises(RuntimeError, match="collect the oldest"):
        stream.buffer()
    np.testing.assert_array_equal(stream.collect(), embed(batches[0]))
    assert stream.buffer() is given[0]


def test_a_runtime_made_of_streams_keeps_the_protocol(spec, batches):
    closed = []
    runtime = Streamed(
        "fake", "a fake", spec, BATCH, lambda: Overlapped(Adversary(4, 1)), lambda: closed.append(True)
    )
    many = np.concatenate(batches)
    for count in (0, 1, 4, 5, len(many)):
        np.testing.assert_array_equal(runtime.encode(many[:count]), embed(many[:count]))
    with pytest.raises(UsageError, match="takes uint8 RGB tiles"):
        runtime.encode(many.astype(np.float32))
    runtime.close()
    runtime.close()
    assert closed == [True]
    with pytest.raises(RuntimeUnavailable, match="fake was closed"):
        runtime.encode(many[:1])
