"""Streams: what is submitted comes back in order, whichever device computed it."""

import numpy as np
import pytest

from beph_store.runtimes import Direct, RuntimeOptions, Several, select_runtime
from tests.runtimes.conftest import DIM, SIDE


def run(stream, batches):
    """What an engine does with a stream: fill, submit, collect the oldest when enough are under way."""
    found, under_way = [], 0
    for pixels in batches:
        stream.buffer()[: len(pixels)] = pixels
        stream.submit(len(pixels))
        under_way += 1
        while under_way >= stream.depth:
            found.append(stream.collect())
            under_way -= 1
    found += [stream.collect() for _ in range(under_way)]
    return found


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8) for n in (4, 4, 1, 4, 3)]


@pytest.fixture(scope="module")
def toy(graph, spec):
    return select_runtime("onnxruntime", graph, spec, RuntimeOptions(threads=1, batch=4))


def test_a_stream_gives_what_encode_gives(toy, batches):
    stream = toy.stream()
    assert stream.buffer().shape == (4, SIDE, SIDE, 3)
    assert stream.buffer() is stream.buffer()
    found = run(stream, batches)
    assert [len(vectors) for vectors in found] == [4, 4, 1, 4, 3]
    for vectors, pixels in zip(found, batches, strict=True):
        np.testing.assert_array_equal(vectors, toy.encode(pixels))
    assert stream.busy > 0


class Late:
    """A device that computes only when it is asked for the result, three batches deep."""

    depth = 3
    busy = 1.0

    def __init__(self, mark):
        self.mark, self.queue, self.most = mark, [], 0
        self.pixels = np.zeros((4, SIDE, SIDE, 3), np.uint8)

    def buffer(self):
        return self.pixels

    def submit(self, count):
        self.queue.append(self.pixels[:count].copy())
        self.most = max(self.most, len(self.queue))

    def collect(self):
        pixels = self.queue.pop(0)
        first = pixels.reshape(len(pixels), -1)[:, :1].astype(np.float32)
        return np.repeat(np.concatenate([first, np.full_like(first, self.mark)], 1), DIM // 2, axis=1)


def test_several_devices_share_the_batches_and_keep_their_order(batches):
    devices = [Late(0), Late(1)]
    several = Several(devices)
    assert several.depth == 6
    many = batches * 4
    found = run(several, many)
    for vectors, pixels in zip(found, many, strict=True):
        np.testing.assert_array_equal(vectors[:, 0], pixels[:, 0, 0, 0])
    used = {int(vectors[0, -1]) for vectors in found}
    assert used == {0, 1}
    assert all(device.most <= 3 and not device.queue for device in devices)


def test_a_quick_device_takes_more(batches):
    """One device computes at once, the other never ahead of its turn: the quick one is not held back by its share."""
    slow = Late(1)
    quick = Direct(lambda tiles: np.zeros((len(tiles), DIM), np.float32), (4, SIDE, SIDE, 3))
    several = Several([slow, quick])
    found = run(several, batches * 4)
    from_slow = sum(bool(vectors[0, -1]) for vectors in found)
    assert 0 < from_slow < len(found)
