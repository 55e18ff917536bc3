"""TensorRT without a GPU: the reasons, the engine's place on disk, and what is asked of the builder."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest

from beph_store.errors import RuntimeUnavailable
from beph_store.runtimes import gpus, tensorrt, tensorrt_rtx

H100 = gpus.Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), 1)
ONE = ((H100,), None)


@pytest.fixture
def present(monkeypatch):
    """Pretend that TensorRT and a GPU are there; the probe is not run unless a test says how it ends."""
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: name)
    monkeypatch.setattr(gpus, "_look", lambda: ONE)
    monkeypatch.setattr(tensorrt, "_version", lambda: "11.4.0.106")
    monkeypatch.setattr(tensorrt, "probe", lambda: None)


def test_the_first_thing_missing_is_named(present, monkeypatch):
    assert tensorrt.available() is None
    monkeypatch.setattr(tensorrt, "_version", lambda: "10.9.0.34")
    assert "TensorRT 10.9.0.34 is too old: install 10.14" in (tensorrt.available() or "")
    monkeypatch.setattr(gpus, "_look", lambda: ((), "no NVIDIA driver"))
    assert tensorrt.available() == "no NVIDIA driver"
    monkeypatch.setattr(tensorrt, "find_spec", lambda name: None)
    assert "pip install 'beph-store[tensorrt]'" in (tensorrt.available() or "")


@pytest.mark.parametrize("version", ["10.14.1.48", "11.0.0", "11.4.0.106", ""])
def test_versions_that_know_attention_are_taken(version):
    assert tensorrt._too_old(version) is None


def test_a_crash_of_tensorrt_is_a_reason_and_not_ours():
    """Without a driver its Runtime() ends the process by SIGSEGV."""
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert tensorrt.probe(crash) == (
        "TensorRT crashes when it starts (signal 11): driver and TensorRT may not fit"
    )
    assert tensorrt.probe("raise ImportError('libnvinfer.so.11 is missing')") == (
        "TensorRT does not start: ImportError: libnvinfer.so.11 is missing"
    )
    assert tensorrt.probe("pass") is None


def test_an_engine_is_kept_under_all_that_it_depends_on(tmp_path, monkeypatch):
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path / "cache"))
    graph, other = tmp_path / "a.onnx", tmp_path / "b.onnx"
    graph.write_bytes(b"one graph")
    other.write_bytes(b"another")
    first = (graph, "fp16", 128, H100, "11.4")
    l4 = dataclasses.replace(H100, name="NVIDIA L4", capability=(8, 9))
    changes = [(0, other), (1, "fp32"), (2, 64), (3, l4), (4, "11.5")]
    files = {tensorrt.plan_file(*first)}
    for place, value in changes:
        files.add(tensorrt.plan_file(*(value if i == place else old for i, old in enumerate(first))))
    assert len(files) == 1 + len(changes)
    assert tensorrt.plan_file(*first) in files
    assert {file.parent for file in files} == {tmp_path / "cache" / "tensorrt"}
    second_of_its_kind = dataclasses.replace(H100, number=1)
    assert tensorrt.plan_file(graph, "fp16", 128, second_of_its_kind, "11.4") in files


def test_an_engine_is_written_whole_or_not_at_all(tmp_path):
    tensorrt.keep(b"plan", tmp_path / "x.plan")
    assert (tmp_path / "x.plan").read_bytes() == b"plan"
    with pytest.raises(TypeError):
        tensorrt.keep("no bytes", tmp_path / "y.plan")  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["x.plan"]


class Recorder:
    """TensorRT's names, the flag of 10.14 or none as in a later 11, noting what is asked."""

    __version__ = "11.4"
    BuilderFlag = SimpleNamespace(TF32=7)

    def __init__(self, *, strong=True, parses=True, builds=True):
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**({"STRONGLY_TYPED": 1} if strong else {}))
        self.parses, self.builds, self.asked = parses, builds, []

    def Builder(self, logger):
        return SimpleNamespace(
            create_network=lambda flags: self.asked.append(("network", flags)),
            create_builder_config=lambda: SimpleNamespace(
                clear_flag=lambda flag: self.asked.append(("clear", flag)),
                add_optimization_profile=lambda profile: self.asked.append(("profile", profile)),
            ),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda *shapes: self.asked.append(("shape", *shapes))
            ),
            build_serialized_network=lambda network, config: memoryview(b"plan") if self.builds else None,
        )

    def OnnxParser(self, network, logger):
        return SimpleNamespace(
            parse_from_file=lambda path: self.parses,
            num_errors=1,
            get_error=lambda i: "In node 3: no such op\nmore",
        )


@pytest.mark.parametrize(("strong", "flags"), [(True, 2), (False, 0)])
def test_the_network_is_strongly_typed_and_no_precision_is_asked_for(tmp_path, spec, strong, flags):
    """A builder flag that this double lacks, such as FP16, which 11 has no more, would be an error."""
    trt = Recorder(strong=strong)
    assert tensorrt._build(trt, None, tmp_path / "encoder.fp16.onnx", spec, 128) == b"plan"
    assert trt.asked[:2] == [("network", flags), ("clear", 7)]
    assert trt.asked[2] == ("shape", "tiles", (1, 16, 16, 3), (128, 16, 16, 3), (128, 16, 16, 3))
    assert [what for what, *_ in trt.asked] == ["network", "clear", "shape", "profile"]


@pytest.mark.parametrize(
    ("trt", "said"),
    [
        (Recorder(parses=False), r"TensorRT 11\.4 does not take g\.onnx: In node 3: no such op$"),
        (Recorder(builds=False), r"TensorRT 11\.4 cannot build g\.onnx$"),
    ],
)
def test_a_graph_that_it_does_not_take_is_told(tmp_path, spec, trt, said):
    with pytest.raises(RuntimeUnavailable, match=said):
        tensorrt._build(trt, None, tmp_path / "g.onnx", spec, 128)


def test_for_rtx_the_first_thing_missing_is_named(monkeypatch):
    monkeypatch.setattr(tensorrt_rtx, "find_spec", lambda name: None)
    assert "pip install 'beph-store[cpu,tensorrt-rtx]'" in (tensorrt_rtx.available() or "")
    monkeypatch.setattr(tensorrt_rtx, "find_spec", lambda name: name)
    monkeypatch.setattr(gpus, "_look", lambda: ((), "no NVIDIA driver"))
    assert tensorrt_rtx.available() == "no NVIDIA driver"
    monkeypatch.setattr(gpus, "_look", lambda: ONE)
    assert tensorrt_rtx.available() is None


def test_for_rtx_a_library_that_does_not_load_is_told_in_one_line(monkeypatch, graph, spec):
    """What the plug-in really says where there is no driver, from a library that is none."""
    plugin = SimpleNamespace(get_ep_name=lambda: "NvTensorRTRTX", get_library_path=lambda: "/nowhere/lib.so")
    monkeypatch.setitem(sys.modules, tensorrt_rtx.PACKAGE, plugin)
    tensorrt_rtx._register.cache_clear()
    with pytest.raises(RuntimeUnavailable, match=r"TensorRT for RTX does not take encoder\.onnx: ") as told:
        tensorrt_rtx._session(graph, 8, 16, 0, {})
    assert "\n" not in str(told.value)
    assert "/nowhere/lib.so" in str(told.value)
