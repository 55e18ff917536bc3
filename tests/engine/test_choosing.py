"""Which runtime runs: the first that works and passes the gate, and why the others do not."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from beph_store.encoders import load_bundle
from beph_store.engine import choosing
from beph_store.engine.choosing import choose
from beph_store.errors import ParityFailed, RuntimeUnavailable, UsageError
from beph_store.runtimes import RuntimeEntry, table
from beph_store.runtimes.onnxruntime import ENTRIES, open_cpu

CPU = ENTRIES[-1]


class Blind:
    """ONNX Runtime whose vectors lost nearly all that tells tiles apart, as naive fp16 engines do."""

    _seen: ClassVar = {}  # the probe is the same in every test, and takes seconds

    def __init__(self, inner):
        self._inner = inner
        self.name, self.device, self.batch, self.spec = "blind", "nowhere", 8, inner.spec
        self.encoded = 0

    def encode(self, pixels):
        self.encoded += len(pixels)
        key = pixels.tobytes()
        vectors = (
            self._seen[key] if key in self._seen else self._seen.setdefault(key, self._inner.encode(pixels))
        )
        noise = np.random.default_rng(len(pixels)).normal(size=vectors.shape) * vectors.std()
        return (vectors.mean(0) + 0.2 * noise).astype(np.float32)

    def close(self):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def rows(cache, monkeypatch):
    made = []

    def blind(graph, spec, options):
        made.append(Blind(open_cpu(graph, spec, options)))
        return made[-1]

    fast = RuntimeEntry("blind", "", lambda: None, blind, ("fp16", "fp32"), version=lambda: "1")
    absent = RuntimeEntry("absent", "", lambda: "not installed: get it", blind)
    monkeypatch.setattr(table, "RUNTIMES", (absent, fast, CPU))
    return made


@pytest.fixture(scope="module")
def mini():
    return load_bundle("beph-mini")


def with_fp16(bundle):
    return replace(bundle, graphs={**bundle.graphs, "fp16": bundle.graphs["fp32"]})


def test_a_fast_runtime_that_sees_less_is_passed_over(rows, mini):
    choice = choose(mini)
    assert choice.runtime.name == "onnxruntime"
    assert choice.parity == mini.parity
    (first, why_not), (second, why) = choice.passed_over
    assert (first, why_not) == ("absent fp32", "not installed: get it")
    assert second == "blind fp32"
    assert "does not reproduce its fp32 reference: centred cosine" in why


def test_its_verdict_is_kept(rows, mini):
    choose(mini)
    choose(mini)
    assert [one.encoded for one in rows] == [64, 0]


def test_by_name_it_is_refused(rows, mini):
    with pytest.raises(ParityFailed, match=r"beph-mini in blind, fp32, does not reproduce"):
        choose(mini, runtime="blind")
    with pytest.raises(RuntimeUnavailable, match="get it"):
        choose(mini, runtime="absent")
    with pytest.raises(RuntimeUnavailable, match="does not compute in fp16, only in fp32"):
        choose(with_fp16(mini), runtime="absent", precision="fp16")


def test_a_verdict_that_cannot_be_read_is_made_again(rows, mini, cache):
    choose(mini)
    (kept,) = (cache / "parity").iterdir()
    kept.write_text("{")
    choose(mini)
    assert [one.encoded for one in rows] == [64, 64]


def test_a_sound_runtime_brings_its_figures(cache, mini, monkeypatch):
    other = RuntimeEntry("other", "", lambda: None, open_cpu, version=lambda: "2")
    monkeypatch.setattr(table, "RUNTIMES", (other, CPU))
    choice = choose(mini)
    assert choice.parity["other fp32"]["passed"]
    assert choice.parity["other fp32"]["mean"] > 0.9999
    assert not choice.passed_over


def test_a_precision_is_a_choice_of_its_own(cache, mini):
    assert choose(mini, runtime="onnxruntime").runtime.spec == mini.spec
    with pytest.raises(UsageError, match="no precision 'fp8': choose from fp32"):
        choose(mini, precision="fp8")
    with pytest.raises(UsageError, match="encoder quantise"):
        choose(mini, precision="int8")


def test_auto_precision_takes_each_runtimes_own_order(cache, mini, monkeypatch):
    """beph-mini has no fp16 graph, and int8 is never chosen silently."""
    half = RuntimeEntry("half", "", lambda: None, open_cpu, ("int8", "fp16", "bf16", "fp32"))
    monkeypatch.setattr(table, "RUNTIMES", (half,))
    choice = choose(mini, precision="auto")
    assert choice.runtime.spec.precision == "bf16"
    assert choice.parity["half bf16"]["kind"] == "half"


def test_the_gate_is_on_the_probe(mini):
    assert choosing.gate(CPU.open(mini.onnx_path(), mini.spec, choosing.RuntimeOptions()), mini).passed
