"""ONNX Runtime on the CPU: the protocol, and that a tile's bits depend on nothing but the tile."""

import numpy as np
import pytest

from beph_store.encoders import load_bundle, probe_tiles
from beph_store.errors import RuntimeUnavailable, UsageError
from beph_store.runtimes import RuntimeOptions, select_runtime
from tests.runtimes.conftest import DIM, SIDE


@pytest.fixture(scope="module")
def toy(graph, spec):
    return select_runtime("onnxruntime", graph, spec, RuntimeOptions(threads=1))


def tiles(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 33])
def test_tiles_in_vectors_out(toy, count):
    pixels = tiles(count)
    vectors = toy.encode(pixels)
    assert (vectors.shape, vectors.dtype) == ((count, DIM), np.float32)
    np.testing.assert_allclose(vectors[:, :3], pixels.mean((1, 2)), rtol=1e-5)
    assert np.array_equal(vectors[:, 3:], pixels[:, SIDE // 2, SIDE // 2])


def test_a_view_is_read_right(toy):
    pixels = tiles(4)[:, :, ::-1]
    assert not pixels.flags.c_contiguous
    assert np.array_equal(toy.encode(pixels)[:, 3:], pixels[:, SIDE // 2, SIDE // 2])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, SIDE, SIDE, 3), np.float32),
        np.zeros((2, 3, SIDE, SIDE), np.uint8),
        np.zeros((2, SIDE, SIDE, 4), np.uint8),
        np.zeros((2, SIDE + 1, SIDE, 3), np.uint8),
        np.zeros((SIDE, SIDE, 3), np.uint8),
    ],
)
def test_anything_else_is_refused(toy, pixels):
    with pytest.raises(UsageError, match="takes uint8 RGB tiles"):
        toy.encode(pixels)


def test_it_says_what_it_is_and_can_be_closed(graph, spec):
    runtime = select_runtime("onnxruntime", graph, spec, RuntimeOptions(threads=1, batch=5))
    assert (runtime.name, runtime.device, runtime.batch, runtime.spec) == (
        "onnxruntime",
        "1 CPU core",
        5,
        spec,
    )
    runtime.close()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        runtime.encode(tiles(1))


@pytest.fixture(scope="module")
def mini():
    bundle = load_bundle("beph-mini")
    return lambda threads: select_runtime(
        "onnxruntime", bundle.onnx_path(), bundle.spec, RuntimeOptions(threads=threads)
    )


def test_the_bits_of_an_embedding_do_not_depend_on_its_batch(mini):
    """Number of tiles, place, neighbours and threads all differ; a resumed ingest relies on this."""
    pixels = probe_tiles(count=33)
    rng = np.random.default_rng(0)
    reference = mini(1).encode(pixels)
    for threads in (1, 2):
        runtime = mini(threads)
        for count in (1, 2, 3, 5, 8, 13, 16, 32):
            rows = rng.permutation(33)[:count]
            assert np.array_equal(runtime.encode(pixels[rows]), reference[rows]), (threads, count)


@pytest.mark.soak
def test_the_bits_of_an_embedding_do_not_depend_on_its_batch_at_any_size(mini):
    pixels = probe_tiles(count=33)
    rng = np.random.default_rng(0)
    reference = mini(1).encode(pixels)
    for threads in (1, 2):
        runtime = mini(threads)
        for count in range(1, 34):
            rows = rng.permutation(33)[:count]
            assert np.array_equal(runtime.encode(pixels[rows]), reference[rows]), (threads, count)
