"""The GPUs as the driver tells of them, from a driver written here."""

import ctypes

import pytest

from beph_store.runtimes import gpus

GIB = 2**30


class Driver:
    """The functions of libcuda that are asked, for GPUs of the names given."""

    def __init__(self, *names, code=0):
        self.names, self.code = names, code

    def cuInit(self, flags):
        return self.code

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.names)

    def cuDeviceGet(self, device, number):
        device._obj.value = 10 + number

    def cuDeviceGetName(self, name, size, device):
        text = self.names[device.value - 10].encode()
        assert len(text) < size
        ctypes.memmove(name, text + b"\0", len(text) + 1)

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = 80 * GIB

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 9, 76: 0}[attribute]


@pytest.fixture
def two(monkeypatch):
    found = gpus.ask(Driver("NVIDIA H100 80GB HBM3", "NVIDIA L4"))
    monkeypatch.setattr(gpus, "_look", lambda: found)


def test_the_driver_is_read_right(two):
    assert gpus.why_none() is None
    assert gpus.count() == 2
    first, second = gpus.visible_gpus()
    assert first == gpus.Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), 80 * GIB)
    assert str(second) == "GPU 1, NVIDIA L4"
    assert gpus.gpu(None) == first
    assert gpus.gpu(1) == second


def test_a_number_too_high_is_told(two):
    with pytest.raises(LookupError, match="there is no GPU 2: this process sees 2, counted from 0"):
        gpus.gpu(2)


def test_why_there_is_none():
    assert gpus.ask(Driver()) == ((), "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES may hide it)")
    found, why = gpus.ask(Driver("NVIDIA L4", code=999))
    assert found == ()
    assert "cuInit says 999" in why
