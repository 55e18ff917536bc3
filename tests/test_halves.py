"""float16 and back: the bits of NumPy's casts, whoever makes them."""

import numpy as np
import pytest

from beph_store import halves
from beph_store.halves import narrowed, widened

EVERY = np.arange(2**16, dtype=np.uint16).view(np.float16)


@pytest.fixture(params=["numkong", "numpy"])
def hands(request, monkeypatch):
    """Who casts."""
    if request.param == "numpy":
        monkeypatch.setattr(halves, "fast_numkong", lambda: None)
    elif halves.fast_numkong() is None:
        pytest.skip("numkong is not installed, or has no fast code for this processor")


def same(ours, numpys):
    """Equal bits, but for those of a NaN."""
    nan = np.isnan(numpys)
    assert ours.dtype == numpys.dtype
    assert ours.shape == numpys.shape
    assert np.array_equal(np.isnan(ours), nan)
    assert ours[~nan].tobytes() == numpys[~nan].tobytes()


def test_every_half_is_widened_to_itself(hands):
    same(widened(EVERY), EVERY.astype(np.float32))
    same(narrowed(widened(EVERY)), EVERY)


def test_what_lies_between_two_halves_goes_to_the_nearer_and_of_equals_to_the_even(hands):
    finite = np.sort(EVERY[np.isfinite(EVERY)]).astype(np.float32)
    middle = (finite[:-1] + finite[1:]) / 2
    up, down = np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))
    drawn = np.random.default_rng(0).integers(0, 2**32, 1 << 20, np.uint32).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for values in (middle, up, down, drawn, np.array([65519.996, 65520, 1e30, -1e30], np.float32)):
            same(narrowed(values), values.astype(np.float16))


@pytest.mark.parametrize("shape", [(), (0, 5), (3, 0), (7, 5)])
def test_of_any_shape_order_and_dtype(hands, shape):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    same(narrowed(values), values.astype(np.float16))
    same(narrowed(values.T), values.T.astype(np.float16))
    for dtype in (np.float64, ">f4", np.int16):
        same(narrowed(values.astype(dtype)), values.astype(dtype).astype(np.float16))
    same(widened(values), values)
    assert not np.shares_memory(widened(values), values)


def test_into_memory_at_hand_and_from_memory_that_cannot_be_written(hands):
    values = np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32)
    values.flags.writeable = False
    out = np.empty((8, 6), np.float16)
    assert np.shares_memory(narrowed(values, out=out[2:6]), out)
    same(out[2:6], values.astype(np.float16))


def test_numkong_is_used_only_where_it_is_fast(monkeypatch):
    class Slow:
        def get_capabilities(self):
            return {"serial": True, "haswell": False}

    def absent(name):
        raise ImportError(name)

    fast = type("Fast", (), {"get_capabilities": lambda self: {"serial": True, "haswell": True}})()
    for found, used in ((lambda name: Slow(), False), (absent, False), (lambda name: fast, True)):
        monkeypatch.setattr(halves, "import_module", found)
        assert (halves.fast_numkong.__wrapped__() is not None) == used
