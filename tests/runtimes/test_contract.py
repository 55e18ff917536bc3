"""What every row of the table promises, in every precision: tested where it can be used, skipped by its own reason
where it cannot."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from beph_store.encoders import Bundle, load_bundle, probe_tiles
from beph_store.encoders.torch_side.quantise import quantise
from beph_store.engine.choosing import gate
from beph_store.errors import RuntimeUnavailable, UsageError
from beph_store.runtimes import RUNTIMES, RuntimeEntry, RuntimeOptions, open_runtime

ROWS = [(entry, precision) for entry in RUNTIMES for precision in entry.precisions]
BATCH = 8


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """beph-mini with an int8 graph. Read only."""
    return quantise("beph-mini", tmp_path_factory.mktemp("quantised") / "mini").bundle


@pytest.fixture(scope="module")
def bundle(row, request):
    return request.getfixturevalue("quantised") if row[1] == "int8" else load_bundle("beph-mini")


def start(entry: RuntimeEntry, precision: str, bundle: Bundle):
    """The row with beph-mini, or a skip that says why it cannot be used here."""
    if not bundle.has(precision):
        pytest.skip(f"beph-mini has no {precision} graph")
    if reason := entry.is_available():
        pytest.skip(f"{entry.name}: {reason}")
    spec = bundle.spec_for(precision)
    options = RuntimeOptions(threads=1, batch=BATCH, device=0)
    try:
        return open_runtime(entry, bundle.onnx_path(precision), spec, options)
    except RuntimeUnavailable as error:
        pytest.skip(f"{entry.name} {precision}: {error}")


@pytest.fixture(scope="module", params=ROWS, ids=[f"{entry.name}-{precision}" for entry, precision in ROWS])
def row(request):
    return request.param


@pytest.fixture(scope="module")
def runtime(row, bundle):
    opened = start(*row, bundle)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tiles():
    pixels = probe_tiles(count=3 * BATCH + 5)
    pixels.flags.writeable = False
    return pixels


@pytest.fixture(scope="module")
def vectors(runtime, tiles):
    return encode(runtime, tiles)


def encode(runtime, pixels):
    """As the engine does: batches of the runtime's size, the last one smaller."""
    parts = [runtime.encode(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    return np.concatenate(parts)


def test_it_says_what_it_is(row, runtime):
    entry, precision = row
    assert (runtime.name, runtime.spec.precision, runtime.batch) == (entry.name, precision, BATCH)
    assert runtime.spec.name == "beph-mini"
    assert runtime.device
    assert entry.version() == entry.version()


def test_tiles_in_vectors_out(runtime, tiles, vectors):
    assert (vectors.shape, vectors.dtype) == ((len(tiles), 512), np.float32)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) == len(tiles)
    none = runtime.encode(tiles[:0])
    assert (none.shape, none.dtype) == ((0, 512), np.float32)


def test_a_vector_is_the_callers_to_keep(runtime, tiles):
    first = runtime.encode(tiles[:2])
    kept = first.copy()
    runtime.encode(tiles[2:4])
    assert np.array_equal(first, kept)
    first[:] = 0
    assert np.array_equal(runtime.encode(tiles[:2]), kept)


@pytest.mark.parametrize("count", [1, 2, 3, 7, BATCH, BATCH + 3, 3 * BATCH + 5])
def test_the_bits_of_an_embedding_do_not_depend_on_its_batch(runtime, tiles, vectors, count):
    """Number of tiles, place and neighbours differ; more tiles than a batch are taken too."""
    rows = np.random.default_rng(count).permutation(len(tiles))[:count]
    assert np.array_equal(runtime.encode(tiles[rows]), vectors[rows])


def test_a_view_is_read_right(runtime, tiles, vectors):
    turned = np.ascontiguousarray(tiles[:4, :, ::-1])[:, :, ::-1]
    assert not turned.flags.c_contiguous
    assert np.array_equal(runtime.encode(turned), vectors[:4])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 224, 224, 3), np.float32),
        np.zeros((2, 3, 224, 224), np.uint8),
        np.zeros((2, 224, 224, 4), np.uint8),
        np.zeros((2, 225, 224, 3), np.uint8),
        np.zeros((224, 224, 3), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.dtype}-{'x'.join(map(str, pixels.shape))}",
)
def test_anything_else_is_refused(runtime, pixels):
    with pytest.raises(UsageError, match="takes uint8 RGB tiles"):
        runtime.encode(pixels)


def test_a_stream_gives_what_encode_gives(runtime, tiles, vectors):
    """Full and short batches, as many under way as the stream asks for; each buffer is overwritten after use."""
    stream, under_way, found = runtime.stream(), deque(), []
    assert stream.depth >= 1
    at = 0
    for count in (BATCH, BATCH, 1, BATCH, 4):
        buffer = stream.buffer()
        assert (buffer.shape, buffer.dtype) == ((BATCH, 224, 224, 3), np.uint8)
        buffer[:count] = tiles[at : at + count]
        stream.submit(count)
        under_way.append(slice(at, at + count))
        at += count
        while len(under_way) >= stream.depth:
            found.append((under_way.popleft(), stream.collect()))
    found += [(rows, stream.collect()) for rows in under_way]
    assert at == len(tiles)
    for rows, part in found:
        assert part.dtype == np.float32
        assert np.array_equal(part, vectors[rows])
    assert stream.busy > 0


def test_it_passes_the_gate(runtime, bundle):
    report = gate(runtime, bundle)
    assert report.passed, report


def test_a_closed_one_says_so(row, bundle, tiles):
    opened = start(*row, bundle)
    opened.close()
    opened.close()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        opened.encode(tiles[:1])


def test_a_graph_that_does_not_load_is_told_in_one_line(row, tmp_path):
    entry, precision = row
    if reason := entry.is_available():
        pytest.skip(f"{entry.name}: {reason}")
    graph = tmp_path / "encoder.onnx"
    graph.write_bytes(b"no graph")
    spec = replace(load_bundle("beph-mini").spec, precision=precision)
    with pytest.raises(RuntimeUnavailable) as told:
        entry.open(graph, spec, RuntimeOptions(threads=1))
    assert "\n" not in str(told.value)


def test_a_precision_that_it_lacks_is_refused(row):
    entry, _ = row
    bundle = load_bundle("beph-mini")
    with pytest.raises(RuntimeUnavailable, match=f"{entry.name} does not compute in fp8, only in"):
        open_runtime(entry, bundle.onnx_path(), replace(bundle.spec, precision="fp8"))
