"""Which int8 keeps what a transformer sees, and how fast is it?

    python benchmarks/int8_choices.py [--work FOLDER] [--count 32]

Fixed scales against scales of the batch at hand, with and without the convolutions, in OpenVINO (the rest in bf16 or
fp32) and in ONNX Runtime; on beph-mini, whose weights are trained, and on a ViT-B/16 with drawn weights whose
LayerNorms amplify six channels tenfold, to imitate the outliers of trained ones: one guess, not a survey. One core;
rates a CPU second, since the machine may be shared; centred cosine against fp32 on other tiles than the calibration's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from common import command_line, conditions, write
from numpy.typing import NDArray
from onnxruntime import quantization as q
from onnxruntime.quantization.shape_inference import quant_pre_process
from vit_base import make_bundle

from beph_store.encoders import compare, load_bundle, probe_tiles
from beph_store.records import EncoderSpec
from beph_store.runtimes import RuntimeOptions, cache_folder, openvino

CALIBRATE, BATCH, LOUD = 8, 8, 6
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def amplified(model: Any, dim: int) -> Any:
    """The same model with ``LOUD`` channels of every LayerNorm ten times as large."""
    channels = np.random.default_rng(1).permutation(dim)[:LOUD]
    # LayerNorms that are alike share one tensor: each is amplified once.
    scales = {node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            scale = onnx.numpy_helper.to_array(tensor).copy()
            scale[channels] *= 10
            tensor.CopyFrom(onnx.numpy_helper.from_array(scale, tensor.name))
    return model


class Reader(q.CalibrationDataReader):  # type: ignore[misc]
    """The calibration tiles, once."""

    def __init__(self, tiles: NDArray[np.uint8]) -> None:
        self._batches = iter([tiles])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch by the name of the input."""
        batch = next(self._batches, None)
        return None if batch is None else {"tiles": batch}


def quantised(plain: Path, tiles: NDArray[np.uint8]) -> Iterator[tuple[str, Path]]:
    """Name and file of each int8 graph."""
    out = plain.with_name("dynamic.onnx")
    signed = {"weight_type": q.QuantType.QInt8, "per_channel": True}
    q.quantize_dynamic(plain, out, op_types_to_quantize=["MatMul"], **signed)
    yield "scales of the batch", out
    for name, kinds in (
        ("fixed scales", ["MatMul"]),
        ("fixed scales, convolutions too", ["MatMul", "Conv"]),
    ):
        out = plain.with_name(f"fixed{len(kinds)}.onnx")
        extra = {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": kinds,
        }
        kept = {"op_types_to_quantize": kinds, "activation_type": q.QuantType.QInt8, "extra_options": extra}
        q.quantize_static(plain, out, Reader(tiles), **kept, **signed)
        yield name, out


def by_ort(graph: Path) -> Encode:
    """The graph in ONNX Runtime on one core."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
    return lambda tiles: np.asarray(session.run(None, {"tiles": tiles})[0])


def by_openvino(graph: Path, spec: EncoderSpec, precision: str) -> Encode:
    """The graph in OpenVINO on one core, what is not int8 in that precision."""
    one = EncoderSpec.from_json({**spec.to_json(), "precision": precision})
    return openvino.open_cpu(graph, one, RuntimeOptions(threads=1)).encode


def row(
    encode: Encode, tiles: NDArray[np.uint8], reference: NDArray[np.float32], batch: int
) -> dict[str, Any]:
    """Rate and figures of one way."""
    encode(tiles[:batch])
    start = time.process_time()
    found = np.concatenate([encode(tiles[i : i + batch]) for i in range(0, len(tiles), batch)])
    rate = len(tiles) / (time.process_time() - start)
    report = compare(reference, found, "int8")
    # Beside another tile, and in a batch of two: of one alone ONNX Runtime computes other last digits in any case.
    elsewhere = encode(tiles[:1] if batch == 1 else tiles[[0, -1]])[:1]
    return {
        "batch": batch,
        "tiles_per_cpu_second": round(rate, 1),
        "centred_cosine": round(report.mean, 4),
        "least": round(report.minimum, 4),
        "same_neighbours": round(report.neighbours, 3),
        "depends_on_neighbours": not np.array_equal(elsewhere, found[:1]),
    }


def choices(plain: Path, spec: EncoderSpec, count: int) -> dict[str, Any]:
    """Every way of computing one graph."""
    tiles = probe_tiles(spec.tile_px, count + CALIBRATE)
    tiles, calibration = tiles[:count], tiles[count:]
    ort = by_ort(plain)
    reference = np.concatenate([ort(tiles[i : i + BATCH]) for i in range(0, count, BATCH)])
    found = {"fp32, ONNX Runtime": row(ort, tiles, reference, BATCH)}
    for precision in ("fp32", "bf16"):
        encode = by_openvino(plain, spec, precision)
        found[f"{precision}, OpenVINO"] = row(encode, tiles, reference, BATCH)
    for name, graph in quantised(plain, calibration):
        found[f"int8, {name}, ONNX Runtime"] = row(by_ort(graph), tiles, reference, BATCH)
        if name == "scales of the batch":  # alone in its batch, a tile has scales of its own
            found[f"int8, {name}, ONNX Runtime, tile by tile"] = row(by_ort(graph), tiles, reference, 1)
            continue
        for precision in ("fp32", "bf16"):
            encode = by_openvino(graph, spec, precision)
            found[f"int8, {name}, OpenVINO, rest {precision}"] = row(encode, tiles, reference, BATCH)
    return found


def main() -> None:
    """Command line."""
    parser = command_line(__doc__, "int8_choices")
    parser.add_argument("--work", type=Path, help="where the ViT-B is kept [the cache folder]")
    parser.add_argument("--count", type=int, default=32)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name in ("beph-mini", "vit-base"):
        bundle = load_bundle(name) if name == "beph-mini" else make_bundle(args.work or cache_folder("bench"))
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.onnx"
            quant_pre_process(
                str(bundle.onnx_path()), str(plain), skip_symbolic_shape=True, skip_onnx_shape=True
            )
            if name == "vit-base":
                onnx.save(amplified(onnx.load(plain), bundle.spec.dim), plain)
            found[name] = choices(plain, bundle.spec, args.count)
    packages = ("onnxruntime", "openvino", "onnx")
    write(args.name, {"conditions": conditions(*packages), "tiles": args.count, "encoders": found})


if __name__ == "__main__":
    main()
