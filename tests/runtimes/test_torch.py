"""torch on the CPU: operators against ONNX Runtime, encoders against their reference, and what it refuses."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper

from beph_store.encoders import compare, kind_of, load_bundle, probe_tiles
from beph_store.encoders.torch_side.export import ExportOptions, export_bundle
from beph_store.errors import RuntimeUnavailable
from beph_store.runtimes import RUNTIMES, RuntimeOptions, gpus, open_runtime
from beph_store.runtimes.torch import cuda_available
from beph_store.runtimes.torch.graph import rebuild, rebuild_model
from beph_store.runtimes.torch.operators import OPERATORS
from tests.encoders.conftest import checkpoint, exported  # noqa: F401 - fixtures

ROW = next(entry for entry in RUNTIMES if entry.name == "torch")
F, N = np.float32, np.int64
RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.standard_normal(shape).astype(F)


#: operator: (shape of the data, other inputs with "x" where the data go, attributes, outputs), one or several cases.
CASES = {
    "Abs": [((2, 3), ["x"], {}, 1)],
    "Add": [((2, 3), ["x", noise(3)], {}, 1)],
    "Attention": [
        ((2, 2, 5, 4), ["x", "x", "x", noise(1, 2, 5, 5)], {}, 1),
        ((2, 2, 5, 4), ["x", noise(2, 2, 5, 4), "x"], {"is_causal": 1, "scale": 0.3}, 1),
        ((2, 2, 5, 4), ["x", "x", "x", np.tri(5) > 0], {}, 1),
    ],
    "AveragePool": [
        ((2, 3, 8, 8), ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
        ((2, 3, 7, 7), ["x"], {"kernel_shape": [2, 2], "ceil_mode": 1, "count_include_pad": 1}, 1),
    ],
    "BatchNormalization": [
        ((2, 3, 4, 4), ["x", noise(3), noise(3), noise(3), noise(3) ** 2 + 1], {"epsilon": 1e-3}, 1)
    ],
    "Cast": [((2, 3), ["x"], {"to": TensorProto.FLOAT16}, 1), ((2, 3), ["x"], {"to": TensorProto.INT64}, 1)],
    "Clip": [((2, 3), ["x", F(-0.5), F(0.5)], {}, 1), ((2, 3), ["x", F(0)], {}, 1)],
    "Concat": [((2, 3), ["x", noise(2, 2)], {"axis": -1}, 1)],
    "Conv": [
        ((2, 4, 9, 9), ["x", noise(6, 4, 3, 3), noise(6)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
        ((2, 4, 9, 9), ["x", noise(4, 1, 3, 3)], {"group": 4, "dilations": [2, 2], "pads": [0, 0, 1, 1]}, 1),
    ],
    "Div": [((2, 3), ["x", noise(3) + 5], {}, 1)],
    "Erf": [((2, 3), ["x"], {}, 1)],
    "Exp": [((2, 3), ["x"], {}, 1)],
    "Expand": [((2, 1, 3), ["x", N([2, 4, 3])], {}, 1)],
    "Flatten": [((2, 3, 4), ["x"], {}, 1)],
    "Gather": [
        ((2, 5, 3), ["x", np.array(0, N)], {"axis": 1}, 1),
        ((2, 5, 3), ["x", N([3, -1])], {"axis": -2}, 1),
    ],
    "Gelu": [((2, 3), ["x"], {}, 1), ((2, 3), ["x"], {"approximate": "tanh"}, 1)],
    "Gemm": [((2, 3), ["x", noise(4, 3), noise(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 1)],
    "GlobalAveragePool": [((2, 3, 4, 4), ["x"], {}, 1)],
    "HardSigmoid": [((2, 3), ["x"], {"alpha": 0.3}, 1)],
    "HardSwish": [((2, 3), ["x"], {}, 1)],
    "Identity": [((2, 3), ["x"], {}, 1)],
    "LayerNormalization": [((2, 5, 8), ["x", noise(8), noise(8)], {"epsilon": 1e-6}, 1)],
    "LeakyRelu": [((2, 3), ["x"], {"alpha": 0.2}, 1)],
    "MatMul": [
        ((2, 5, 3), ["x", noise(3, 4)], {}, 1),
        ((2, 4, 4), ["x", "x"], {}, 1),
        ((2, 4, 4), [noise(2, 3, 4), "x"], {}, 1),
    ],
    "Max": [((2, 3), ["x", noise(3), noise(2, 1)], {}, 1)],
    "MaxPool": [
        ((2, 3, 9, 9), ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
        ((2, 3, 8, 8), ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, 1),
    ],
    "Min": [((2, 3), ["x", noise(3)], {}, 1)],
    "Mul": [((2, 3), ["x", noise(3)], {}, 1)],
    "Neg": [((2, 3), ["x"], {}, 1)],
    "Pad": [
        ((2, 3, 4, 5), ["x", N([0, 0, 1, 2, 0, 0, 0, 1]), F(0.5)], {}, 1),
        ((2, 3, 4, 5), ["x", N([0, 0, 1, 2, 0, 0, 0, 1])], {"mode": "reflect"}, 1),
        ((2, 3, 4, 5), ["x", N([0, 0, 1, 2, 0, 0, 0, 1])], {"mode": "edge"}, 1),
    ],
    "Pow": [((2, 3), ["x", F(2)], {}, 1)],
    "RMSNormalization": [((2, 5, 8), ["x", noise(8)], {"epsilon": 1e-6}, 1)],
    "Reciprocal": [((2, 3), ["x"], {}, 1)],
    "ReduceMax": [((2, 3, 4), ["x", N([-1])], {}, 1)],
    "ReduceMean": [((2, 3, 4), ["x", N([1, 2])], {"keepdims": 0}, 1)],
    "ReduceSum": [((2, 3, 4), ["x", N([1])], {}, 1), ((2, 3), ["x"], {"noop_with_empty_axes": 1}, 1)],
    "Relu": [((2, 3), ["x"], {}, 1)],
    "Reshape": [
        ((2, 3, 4), ["x", N([0, -1])], {}, 1),
        ((2, 3, 4), ["x", N([2, 4, 3])], {"allowzero": 1}, 1),
    ],
    "Sigmoid": [((2, 3), ["x"], {}, 1)],
    "Slice": [
        ((2, 9, 4), ["x", N([1]), N([2**62]), N([1]), N([2])], {}, 1),
        ((2, 9, 4), ["x", N([-3, 0]), N([-1, 2]), N([-1, 1])], {}, 1),
    ],
    "Softmax": [((2, 3, 4), ["x"], {"axis": 1}, 1)],
    "Split": [((2, 9), ["x", N([4, 5])], {"axis": 1}, 2), ((2, 9), ["x"], {"axis": 1, "num_outputs": 2}, 2)],
    "Sqrt": [((2, 3), ["x"], {}, 1)],
    "Squeeze": [((2, 1, 3, 1), ["x", N([1, -1])], {}, 1)],
    "Sub": [((2, 3), [noise(3), "x"], {}, 1)],
    "Tanh": [((2, 3), ["x"], {}, 1)],
    "Transpose": [((2, 3, 4), ["x"], {"perm": [0, 2, 1]}, 1)],
    "Unsqueeze": [((2, 3), ["x", N([1, 3])], {}, 1), ((2, 3), ["x", N([-1, -2])], {}, 1)],
    "Where": [((2, 3), [np.array([True, False, True]), "x", noise(3)], {}, 1)],
}
#: Those that say how large and where, and are gone once the graph is read: see the test of shapes.
FOLDED = {"Constant", "ConstantOfShape", "Equal", "GatherND", "Range", "Shape"}
EACH = [(op, case) for op, cases in CASES.items() for case in cases]


def model_of(nodes, constants, shape, *, output=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape[1:]])],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def by_onnxruntime(model, x):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize(("op", "case"), EACH, ids=[f"{op}-{i}" for i, (op, _) in enumerate(EACH)])
def test_an_operator_gives_what_onnx_runtime_gives(op, case):
    shape, inputs, attributes, outputs = case
    names = ["x" if isinstance(value, str) else f"c{i}" for i, value in enumerate(inputs)]
    constants = {n: v for n, v in zip(names, inputs, strict=True) if n != "x"}
    results = ["y"] if outputs == 1 else [f"part{i}" for i in range(outputs)]
    nodes = [helper.make_node(op, names, results, **attributes)]
    if outputs > 1:
        nodes.append(helper.make_node("Concat", list(reversed(results)), ["y"], axis=1))
    if op == "Cast":
        nodes[0].output[0] = "z"
        nodes.append(helper.make_node("Cast", ["z"], ["y"], to=TensorProto.FLOAT))
    model = model_of(nodes, constants, shape)
    x = np.abs(noise(*shape)) if op in ("Sqrt", "Reciprocal") else noise(*shape)
    found = rebuild_model(model, shape[0])(torch.from_numpy(x)).numpy()
    tolerance = 1e-3 if attributes.get("to") == TensorProto.FLOAT16 else 1e-5
    np.testing.assert_allclose(found, by_onnxruntime(model, x), rtol=tolerance, atol=tolerance)


def test_every_operator_is_tested():
    assert set(OPERATORS) - {"Linear"} == set(CASES) | FOLDED


def test_shape_arithmetic_is_gone_once_the_graph_is_read():
    """As exporters write a class token and a position table: all of it depends on the batch and on constants only."""
    node = helper.make_node
    table, index = noise(7), RNG.integers(0, 7, (3, 2, 1))
    nodes = [
        node("Shape", ["x"], ["batch"], start=0, end=1),
        node("Constant", [], ["two"], value=numpy_helper.from_array(N([2]))),
        node("Mul", ["batch", "two"], ["twice"]),
        node("Div", ["twice", "two"], ["once"]),
        node("Equal", ["once", "batch"], ["same"]),
        node("Where", ["same", "once", "two"], ["rows"]),
        node("Concat", ["rows", "one", "two"], ["sizes"], axis=0),
        node("ConstantOfShape", ["sizes"], ["ones"], value=numpy_helper.from_array(F([1]))),
        node("Range", ["from", "to", "by"], ["steps"]),
        node("GatherND", ["table", "index"], ["picked"]),
        node("Mul", ["picked", "steps"], ["scaled"]),
        node("Concat", ["x", "ones"], ["longer"], axis=1),
        node("Add", ["longer", "scaled"], ["y"]),
    ]
    constants = {"one": N([1]), "table": table, "index": index, "from": F(1), "to": F(3), "by": F(1)}
    model = model_of(nodes, constants, (4, 2, 2))
    x = noise(4, 2, 2)
    module = rebuild_model(model, 4)
    np.testing.assert_allclose(module(torch.from_numpy(x)).numpy(), by_onnxruntime(model, x), rtol=1e-6)
    calls = [n.target for n in module.graph.nodes if n.op == "call_function"]
    assert calls == [torch.cat, torch.add]


def test_a_product_and_its_bias_are_one_call():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["b", "p"], ["y"])]
    model = model_of(nodes, {"w": noise(3, 4), "b": noise(4)}, (2, 5, 3))
    module = rebuild_model(model, 2, torch.bfloat16)
    calls = [n.target for n in module.graph.nodes if n.op == "call_function"]
    assert calls == [torch.nn.functional.linear]
    assert {buffer.dtype for buffer in module.buffers()} == {torch.bfloat16}, "weights are cast once"


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("Celu", ["x"], ["y"]), "does not know Celu, which the graph uses"),
        (helper.make_node("Foo", ["x"], ["y"], domain="com.microsoft"), r"com\.microsoft\.Foo"),
        (helper.make_node("Flatten", ["x"], ["y"], axis=2), r"Flatten with axis 2 \(y\)"),
        (helper.make_node("Reshape", ["x", "x"], ["y"]), "Reshape with a shape or an index that depends"),
        (helper.make_node("Attention", ["x"] * 3, ["y"], q_num_heads=2), "Attention with softcap or heads"),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_what_it_does_not_know_is_named(node, said):
    with pytest.raises(RuntimeUnavailable, match=said) as told:
        rebuild_model(model_of([node], {}, (2, 3, 4)), 2)
    assert "--runtime" in str(told.value)


def timm_bundle(name, folder):
    """A timm model with random weights, fp32 only."""
    torch.manual_seed(0)
    torch.save(timm.create_model(name, num_classes=0).state_dict(), folder / "weights.pt")
    options = ExportOptions(fp16_twin=False)
    return export_bundle(f"timm:{name}", folder / "bundle", weights=folder / "weights.pt", options=options)[0]


SLOW = ["vit_tiny_patch16_224", "resnet18", "test_convnext", "test_efficientnet"]


@pytest.fixture(
    scope="session",
    params=[
        "beph-mini",
        "beph",
        "test_vit",
        "test_resnet",
        *(pytest.param(name, marks=pytest.mark.soak) for name in SLOW),
    ],
)
def bundle(request, tmp_path_factory):
    if request.param == "beph-mini":
        return load_bundle("beph-mini")
    if request.param == "beph":
        return request.getfixturevalue("exported")[0]
    return timm_bundle(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_is_reproduced(bundle, precision):
    """fp32 to 1e-4 of the reference's spread and better than the gate asks; bf16 within its gate."""
    runtime = open_runtime(
        ROW, bundle.onnx_path(precision), bundle.spec_for(precision), RuntimeOptions(threads=1)
    )
    reference = bundle.reference()
    found = runtime.encode(probe_tiles(bundle.spec.tile_px))
    report = compare(reference, found, kind_of(precision))
    assert report.passed, report
    if precision == "fp32":
        np.testing.assert_allclose(found, reference, atol=1e-4 * reference.std(), rtol=1e-4)
        assert report.mean > 1 - 1e-6


class Sums(torch.fx.Interpreter):
    """Notes what the additions give: in a ViT with its biases inside the products, the residual stream."""

    def __init__(self, module):
        super().__init__(module)
        self.dtypes = []

    def call_function(self, target, args, kwargs):
        result = super().call_function(target, args, kwargs)
        if target is torch.add:
            self.dtypes.append(result.dtype)
        return result


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_the_residual_stream_is_float32_from_either_graph(exported, precision, low):  # noqa: F811
    bundle, _ = exported
    tiles = torch.from_numpy(probe_tiles(bundle.spec.tile_px))
    sums = Sums(rebuild(bundle.onnx_path(precision), len(tiles), low))
    with torch.no_grad():
        report = compare(bundle.reference(), sums.run(tiles).numpy(), "half")
    assert report.passed, report
    assert sums.dtypes == [torch.float32] * 4, "two a block"


def test_a_graph_for_a_fixed_batch_gives_the_bits_of_one_tile_alone_to_a_digit(exported):  # noqa: F811
    bundle, _ = exported
    tiles = torch.from_numpy(probe_tiles(bundle.spec.tile_px, count=6))
    one, six = rebuild(bundle.onnx_path(), 1), rebuild(bundle.onnx_path(), 6)
    with torch.no_grad():
        alone = torch.cat([one(tiles[i : i + 1]) for i in range(6)])
        np.testing.assert_allclose(six(tiles), alone, rtol=1e-4, atol=1e-5)


def test_the_graph_is_compiled_whole(exported):  # noqa: F811
    """One graph for torch.compile, whatever then makes code of it: a break would keep a CUDA graph from holding it."""
    bundle, _ = exported
    tiles = torch.from_numpy(probe_tiles(bundle.spec.tile_px, count=4))
    module = rebuild(bundle.onnx_path(), 4, torch.bfloat16)
    compiled = torch.compile(module, fullgraph=True, dynamic=False, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(tiles), module(tiles))


def test_the_process_keeps_its_number_of_threads(exported):  # noqa: F811
    bundle, _ = exported
    before = torch.get_num_threads()
    runtime = open_runtime(ROW, bundle.onnx_path(), bundle.spec, RuntimeOptions(threads=before + 1))
    runtime.encode(probe_tiles(bundle.spec.tile_px, count=1))
    assert torch.get_num_threads() == before


def test_a_gpu_needs_a_driver_and_a_build_for_it(monkeypatch):
    monkeypatch.setattr(gpus, "_look", lambda: ((), "no driver"))
    assert cuda_available() == "no driver"
    monkeypatch.setattr(gpus, "_look", lambda: ((gpus.Gpu(0, "a GPU", (9, 0), 1),), None))
    monkeypatch.setattr("beph_store.runtimes.torch.version_of", lambda name: "2.14.1+cpu")
    assert "a build for the CPU" in (cuda_available() or "")
    monkeypatch.setattr("beph_store.runtimes.torch.version_of", lambda name: "2.14.1")
    assert cuda_available() is None


def test_a_gpu_that_the_driver_shows_and_torch_cannot_use_is_told(exported, monkeypatch):  # noqa: F811
    if torch.cuda.is_available():
        pytest.skip("this torch can use a GPU")
    monkeypatch.setattr(gpus, "_look", lambda: ((gpus.Gpu(0, "a GPU", (9, 0), 1),), None))
    bundle, _ = exported
    row = next(entry for entry in RUNTIMES if entry.name == "torch-cuda")
    with pytest.raises(RuntimeUnavailable, match="cannot use the GPU: install a build for a CUDA"):
        open_runtime(row, bundle.onnx_path(), bundle.spec_for("bf16"))
