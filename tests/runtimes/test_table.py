"""Choosing a runtime, and saying why one cannot be used."""

import dataclasses

import onnxruntime as ort
import pytest

from beph_store.errors import RuntimeUnavailable, UsageError
from beph_store.runtimes import (
    RUNTIMES,
    RuntimeEntry,
    RuntimeOptions,
    gpus,
    list_runtimes,
    onnxruntime,
    select_runtime,
    table,
)

#: What ``gpus`` finds on a machine with one.
ONE_GPU = ((gpus.Gpu(0, "a GPU that is pretended", (9, 0), 1),), None)


@pytest.fixture
def packages(monkeypatch):
    """Pretend that just these distributions are installed."""

    def pretend(*names):
        monkeypatch.setattr(onnxruntime, "installed", lambda name: name in names)

    return pretend


def test_the_table_is_ordered_and_named_once():
    names = [entry.name for entry in RUNTIMES]
    assert names == [
        "tensorrt",
        "tensorrt-rtx",
        "torch-cuda",
        "onnxruntime-cuda",
        "openvino",
        "onnxruntime",
        "torch",
    ], "every GPU before the CPU, the faster runtime first"
    assert len(set(names)) == len(names)
    assert [state.name for state in list_runtimes()] == names


def test_auto_opens_the_first_that_works(graph, spec, monkeypatch):
    def broken(*_):
        raise RuntimeUnavailable("it broke on opening")

    bad = RuntimeEntry("bad", "", lambda: None, broken)
    absent = RuntimeEntry("absent", "", lambda: "not installed", broken)
    monkeypatch.setattr(table, "RUNTIMES", (bad, absent, *RUNTIMES))
    works = next(entry.name for entry in RUNTIMES if entry.is_available() is None)
    assert select_runtime("auto", graph, spec).name == works
    monkeypatch.setattr(table, "RUNTIMES", (bad, absent))
    with pytest.raises(RuntimeUnavailable, match="bad: it broke on opening; absent: not installed"):
        select_runtime("auto", graph, spec)
    with pytest.raises(RuntimeUnavailable, match=r"^not installed$"):
        select_runtime("absent", graph, spec)


def test_an_unknown_name_is_answered_with_the_names(graph, spec):
    with pytest.raises(UsageError, match=f"choose from auto, {', '.join(e.name for e in RUNTIMES)}"):
        select_runtime("onnx", graph, spec)


@pytest.mark.parametrize("field", ["threads", "batch"])
def test_options_must_make_sense(field):
    with pytest.raises(UsageError):
        RuntimeOptions(**{field: 0})


def test_both_builds_of_onnx_runtime_are_refused_with_the_cure(graph, spec, packages):
    packages("onnxruntime", "onnxruntime-gpu")
    for name in ("onnxruntime", "onnxruntime-cuda"):
        with pytest.raises(RuntimeUnavailable, match="pip uninstall both"):
            select_runtime(name, graph, spec)


def test_none_installed_is_told(packages):
    packages()
    assert "pip install 'beph-store[cpu]'" in (onnxruntime.cpu_available() or "")


def test_cuda_needs_the_gpu_build_and_a_driver(packages, monkeypatch):
    packages("onnxruntime")
    assert "beph-store[gpu]" in (onnxruntime.cuda_available() or "")
    packages("onnxruntime-gpu")
    monkeypatch.setattr(gpus, "_look", lambda: ((), "no NVIDIA driver"))
    assert onnxruntime.cuda_available() == "no NVIDIA driver"
    monkeypatch.setattr(gpus, "_look", lambda: ONE_GPU)
    assert onnxruntime.cuda_available() is None


def test_a_silent_fall_back_to_the_cpu_is_an_error(graph, spec, packages, monkeypatch):
    """A session asked for CUDA that reports only the CPU, as ONNX Runtime does when a library is missing."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this machine has CUDA")
    packages("onnxruntime-gpu")
    monkeypatch.setattr(gpus, "_look", lambda: ONE_GPU)
    with (
        pytest.warns(UserWarning, match="CUDA"),
        pytest.raises(RuntimeUnavailable, match="fell back to the CPU"),
    ):
        select_runtime("onnxruntime-cuda", graph, spec)


def test_a_graph_that_does_not_load_is_told(tmp_path, spec):
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeUnavailable, match=r"cannot load encoder\.onnx"):
        select_runtime("onnxruntime", tmp_path / "encoder.onnx", spec)


def test_entries_are_plain_records():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUNTIMES[0].name = "x"  # type: ignore[misc]
