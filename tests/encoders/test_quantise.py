"""Quantising: what goes into the graph, how sensitive products are left out, and that nothing unsound is kept."""

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from beph_store.encoders import load_bundle, probe_tiles
from beph_store.encoders.torch_side import quantise as module
from beph_store.encoders.torch_side.quantise import quantise
from beph_store.errors import ParityFailed, UsageError
from beph_store_cli.main import app
from tests.encoders.conftest import DEPTH, TILE


@pytest.fixture(scope="module")
def done(exported, tmp_path_factory):
    return quantise(exported[0].path, tmp_path_factory.mktemp("quantised") / "tiny")


def in_int8(bundle):
    """Names of the products that have two quantised factors."""
    graph = onnx.load(bundle.onnx_path("int8")).graph
    made = {node.output[0]: node.op_type for node in graph.node}
    return [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm")
        and [made.get(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2
    ]


def test_every_product_with_a_weight_is_int8_where_that_is_good_enough(done):
    assert (done.products, done.left) == (4 * DEPTH, ())
    assert len(in_int8(done.bundle)) == 4 * DEPTH
    assert done.report.passed
    assert done.report.kind == "int8"
    assert done.report.mean < 1 - 1e-7, "it computes in int8, so it cannot be exact"


def test_the_copy_is_a_whole_bundle_and_the_original_is_as_it_was(done, exported):
    original, bundle = exported[0], done.bundle
    assert "int8" not in original.graphs
    assert "int8" not in load_bundle(original.path).graphs
    assert set(bundle.graphs) == {*original.graphs, "int8"}
    assert bundle.parity == {**original.parity, "int8": done.report.to_json()}
    assert bundle.spec == original.spec
    assert bundle.spec_for("int8").precision == "int8"
    np.testing.assert_array_equal(bundle.reference(), original.reference())


def test_it_can_be_done_again_from_the_copy(done, tmp_path):
    again = quantise(done.bundle.path, tmp_path / "again")
    assert again.bundle.onnx_path("int8").read_bytes() == done.bundle.onnx_path("int8").read_bytes()


def test_scales_are_symmetric_and_fixed(done):
    """Scales of the batch at hand would make a tile's embedding depend on its neighbours."""
    graph = onnx.load(done.bundle.onnx_path("int8")).graph
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    quantisers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantisers
    for node in quantisers:
        assert node.input[1] in tensors
        assert not tensors[node.input[2]].any()
    assert not {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"} & {n.op_type for n in graph.node}


def test_sensitive_products_stay_until_enough_is_reached(exported, tmp_path, monkeypatch):
    graphs = module._Graphs(exported[0], tmp_path, lambda _: None)
    everything = graphs._cosine([])
    assert graphs._cosine(graphs.products) > 1 - 1e-9
    monkeypatch.setattr(module, "TARGET", (1 + everything) / 2)
    left = graphs.choose()
    assert 0 < len(left) < len(graphs.products)
    assert graphs._cosine(left) >= module.TARGET
    assert graphs._cosine(left[:-1]) < module.TARGET
    model = graphs.leaving(left)
    onnx.checker.check_model(model)
    used = {name for node in model.graph.node for name in node.input}
    assert {t.name for t in model.graph.initializer} <= used
    found = module._run(model.SerializeToString(), probe_tiles(TILE, 3))
    assert found.shape == (3, exported[0].spec.dim)


def test_an_int8_that_loses_too_much_is_not_kept(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TARGET", 1.1)
    with pytest.raises(ParityFailed, match="can be int8"):
        quantise(exported[0].path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_gate_has_the_last_word(exported, tmp_path, monkeypatch):
    """Calibration that was content does not count: nothing that the probe refuses is kept."""
    monkeypatch.setattr(module.parity, "THRESHOLDS", {**module.parity.THRESHOLDS, "int8": 1.1})
    with pytest.raises(ParityFailed, match="in int8 does not reproduce"):
        quantise(exported[0].path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused(exported, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        quantise(exported[0].path, tmp_path)


def test_the_command(exported, tmp_path):
    out = tmp_path / "q"
    told = CliRunner().invoke(
        app, ["encoder", "quantise", str(exported[0].path), "--out", str(out), "--json"]
    )
    assert told.exit_code == 0, told.output
    data = json.loads(told.stdout)
    assert data["bundle"] == str(out)
    assert (data["products"], data["left"], data["parity"]["passed"]) == (4 * DEPTH, [], True)
