"""A small graph made by hand: uint8 tiles in, the mean and the centre pixel of each channel out."""

import onnx
import pytest
from onnx import TensorProto, helper

from beph_store.records import EncoderSpec

SIDE, DIM = 16, 6


@pytest.fixture(scope="session")
def spec():
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return EncoderSpec("toy", "v", "0" * 64, SIDE, 0.5, DIM, "mean", zero, one, "fp32", "CC0-1.0")


@pytest.fixture(scope="session")
def graph(tmp_path_factory):
    half = SIDE // 2
    constants = {"start": [half, half], "stop": [half + 1, half + 1], "axes": [1, 2]}
    nodes = [
        helper.make_node("Cast", ["tiles"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Slice", ["x", "start", "stop", "axes"], ["middle"]),
        helper.make_node("Squeeze", ["middle", "axes"], ["centre"]),
        helper.make_node("Concat", ["mean", "centre"], ["embeddings"], axis=1),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "toy",
            [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", DIM])],
            [helper.make_tensor(k, TensorProto.INT64, [len(v)], v) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    path = tmp_path_factory.mktemp("graph") / "encoder.onnx"
    onnx.save(model, path)
    return path
