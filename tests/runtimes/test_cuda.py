"""CUDA's side of the overlap, on a GPU; skipped by name where there is none."""

import numpy as np
import pytest
import torch

from beph_store.runtimes import gpus
from tests.runtimes.conftest import SIDE
from tests.runtimes.test_stream import run

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason=f"torch cannot use a GPU here: {gpus.why_none() or 'no CUDA build'}"
)
BATCH = 16


def embed(tiles):
    """A few products that take a while, whose result each tile alone decides."""
    flat = tiles.reshape(len(tiles), -1).to(torch.float32) / 255
    weight = torch.linspace(-1, 1, flat.shape[1] * 8, device=flat.device).reshape(flat.shape[1], 8)
    return torch.cat([(flat @ weight).sin(), flat[:, :1] * 255, flat[:, -1:] * 255], 1)


@pytest.fixture(scope="module", params=[True, False], ids=["captured", "eager"])
def engine(request):
    from beph_store.runtimes import cuda

    place = cuda.Place(0, (BATCH, SIDE, SIDE, 3), (BATCH, 10))
    made = cuda.Engine(embed, place.tiles, place.stream, capture=request.param)
    assert not made.note
    yield made
    made.release()


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    sizes = [16, 16, 1, 16, 7, 16, 16, 16, 3, 16] * 5
    return [rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8) for n in sizes]


def test_many_batches_under_way_come_back_right_and_in_order(engine, batches):
    stream = engine.open_stream()
    assert stream.depth >= 3
    found = run(stream, batches)
    for vectors, pixels in zip(found, batches, strict=True):
        np.testing.assert_array_equal(vectors[:, -2], pixels[:, 0, 0, 0])
        np.testing.assert_array_equal(vectors[:, -1], pixels[:, -1, -1, -1])
    assert stream.busy > 0


def test_the_bits_do_not_depend_on_the_batch(engine, batches):
    stream = engine.open_stream()
    many = np.concatenate(batches)[:64]
    cut = [run(stream, [many[i : i + n] for i in range(0, 64, n)]) for n in (16, 5, 1)]
    for parts in cut[1:]:
        np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(cut[0]))


def test_two_streams_of_one_engine_do_not_disturb_each_other(engine, batches):
    first, second = engine.open_stream(), engine.open_stream()
    for pixels in batches[:2]:
        for stream in (first, second):
            stream.buffer()[: len(pixels)] = pixels if stream is first else 255 - pixels
            stream.submit(len(pixels))
    for pixels in batches[:2]:
        np.testing.assert_array_equal(first.collect()[:, -2], pixels[:, 0, 0, 0])
        np.testing.assert_array_equal(second.collect()[:, -2], 255 - pixels[:, 0, 0, 0])


def test_buffers_are_pinned(engine):
    assert torch.from_numpy(engine.open_stream().buffer()).is_pinned()
