"""OpenVINO on the CPU, beyond the contract: what it computes in, on which cores, and that it tells nobody."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from beph_store.encoders import load_bundle, probe_tiles
from beph_store.errors import RuntimeUnavailable
from beph_store.runtimes import RuntimeOptions, openvino, select_runtime

pytestmark = pytest.mark.skipif(openvino.available() is not None, reason=str(openvino.available()))


@pytest.fixture(scope="module")
def start():
    bundle = load_bundle("beph-mini")

    def open_it(precision, threads):
        spec = bundle.spec_for(precision)
        try:
            return select_runtime(
                "openvino", bundle.onnx_path(precision), spec, RuntimeOptions(threads=threads)
            )
        except RuntimeUnavailable as error:
            pytest.skip(str(error))

    return open_it


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_threads_change_no_bit(start, precision):
    pixels = probe_tiles(count=13)
    one, two = start(precision, 1), start(precision, 2)
    assert (one.device, two.device) == ("1 CPU core", "2 CPU cores")
    np.testing.assert_array_equal(one.encode(pixels), two.encode(pixels))


def test_fp32_is_fp32_and_bf16_is_not(start):
    """Left alone, OpenVINO would compute both in bf16."""
    pixels = probe_tiles(count=8)
    bundle = load_bundle("beph-mini")
    reference = bundle.reference()[:8]
    far = {p: np.abs(start(p, 1).encode(pixels) - reference).max() for p in ("fp32", "bf16")}
    assert far["fp32"] < 1e-4 < 1e-3 < far["bf16"]


def test_bf16_is_refused_where_the_processor_lacks_it():
    old = SimpleNamespace(
        get_property=lambda _, name: ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else "Old CPU "
    )
    with pytest.raises(RuntimeUnavailable, match=r"^Old CPU has no bf16 .*: use --precision fp32$"):
        openvino._hint(old, "bf16")
    assert (openvino._hint(old, "fp32"), openvino._hint(old, "int8")) == ("f32", "f32")


def test_threads_may_share_it(start):
    pixels = probe_tiles(count=12)
    runtime = start("fp32", 2)
    whole = runtime.encode(pixels)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(runtime.encode, [pixels] * 8):
            np.testing.assert_array_equal(found, whole)


def test_a_request_that_was_not_collected_is_not_used_again(start):
    stream = start("fp32", 1).stream()
    for _ in range(stream.depth):
        stream.submit(1)
    with pytest.raises(RuntimeError, match="collect one before"):
        stream.submit(1)
    for _ in range(stream.depth):
        stream.collect()
    stream.submit(1)
    stream.collect()


@pytest.mark.soak
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_bits_of_an_embedding_do_not_depend_on_its_batch_at_any_size(start, precision):
    pixels = probe_tiles(count=33)
    rng = np.random.default_rng(0)
    reference = start(precision, 1).encode(pixels)
    for threads in (1, 2):
        runtime = start(precision, threads)
        for count in range(1, 34):
            rows = rng.permutation(33)[:count]
            assert np.array_equal(runtime.encode(pixels[rows]), reference[rows]), (threads, count)


def test_nothing_is_sent(run_python, tmp_path):
    """Importing openvino imports its telemetry, which sends an event: here that package must never be looked for."""
    (tmp_path / "openvino_telemetry.py").write_text("print('telemetry was imported')")
    told = run_python(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from beph_store.encoders import load_bundle\n"
        "from beph_store.runtimes import select_runtime\n"
        "bundle = load_bundle('beph-mini')\n"
        "runtime = select_runtime('openvino', bundle.onnx_path(), bundle.spec)\n"
        "print(runtime.name, 'openvino_telemetry' in sys.modules)",
        tmp_path,
    )
    assert told.splitlines() == ["openvino False"]


def test_a_runtime_let_go_of_by_another_thread_leaves_signals_working(run_python):
    """Its plugin takes the signal stack of the thread that made it along when it goes: so it must never go."""
    told = run_python(
        "import gc, signal, threading\n"
        "from beph_store.encoders import load_bundle\n"
        "from beph_store.runtimes import select_runtime\n"
        "bundle = load_bundle('beph-mini')\n"
        "held = [select_runtime('openvino', bundle.onnx_path(), bundle.spec)]\n"
        "def let_go():\n"
        "    held.pop().close()\n"
        "    gc.collect()\n"
        "thread = threading.Thread(target=let_go)\n"
        "thread.start()\n"
        "thread.join()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('heard'))\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
    )
    assert told.splitlines() == ["heard"]
