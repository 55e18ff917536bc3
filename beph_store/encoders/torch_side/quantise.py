"""Add an int8 graph to a bundle: the products with weights in int8, all else as it was.

Scales are fixed beforehand, one for a weight's column and one for all activations that enter a product. Scales drawn
from the batch at hand are a little truer, but then a tile's embedding depends on its neighbours. They are symmetric,
because OpenVINO made something else of asymmetric ones. Convolutions stay: in int8 they cost beph-mini a third of its
geometry in OpenVINO and time in ONNX Runtime. Where quantising every product loses too much, the most sensitive ones
stay as well.

Ranges, ranking and the decision use drawn tiles beyond those of the probe, so that the gate judges tiles never seen.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from beph_store.encoders import bundle as layout
from beph_store.encoders import onnxfile, parity
from beph_store.encoders.bundle import Bundle, file_sha256, load_bundle
from beph_store.encoders.parity import ParityReport
from beph_store.encoders.probe import TILES, probe_tiles
from beph_store.errors import MissingExtra, ParityFailed, UsageError

#: Mean centred cosine to reach on the calibration tiles: halfway between the gate and perfection.
TARGET = 0.99
_CALIBRATE, _RANK, _BATCH = 32, 16, 8

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Quantised:
    """``bundle`` with its int8 graph; ``products`` that are int8 now, and names of those ``left`` as they were;
    ``report`` of the gate, by ONNX Runtime on this machine.
    """

    bundle: Bundle
    products: int
    left: tuple[str, ...]
    report: ParityReport


def quantise(encoder: str | Path, out: str | Path, *, progress: Progress | None = None) -> Quantised:
    """Copy a bundle to the new folder ``out`` and add ``encoder.int8.onnx`` to it.

    Nothing is left at ``out`` when the gate is not passed. Raises UsageError where ``out`` is not empty or nothing
    can be quantised, EncoderError for a bundle that is none, ParityFailed, MissingExtra.
    """
    bundle, out = load_bundle(encoder), Path(out)
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: name a new folder")
    if onnxfile.external_locations(bundle.onnx_path()):
        raise UsageError(f"{bundle.spec.name} keeps tensors outside its graph: too large to quantise")
    say = progress or (lambda _: None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".quantise-") as work:
        graphs = _Graphs(bundle, Path(work), say)
        left = graphs.choose()
        folder = Path(work) / "bundle"
        folder.mkdir()
        graph = folder / layout.GRAPHS["int8"]
        onnx.save(graphs.leaving(left), graph)
        say("the gate, on tiles that none of this has seen")
        report = parity.compare(bundle.reference(), _run(graph, probe_tiles(bundle.spec.tile_px)), "int8")
        parity.require(report, f"{bundle.spec.name} in int8")
        _copy(bundle, folder, report, left)
        load_bundle(folder)
        if out.exists():
            out.rmdir()
        shutil.move(folder, out)
    return Quantised(load_bundle(out), len(graphs.products) - len(left), tuple(left), report)


class _Graphs:
    """The float graph, its fully quantised twin, and anything between them."""

    def __init__(self, bundle: Bundle, work: Path, say: Progress) -> None:
        self._say = say
        self._name = bundle.spec.name
        # Calibration starts where the probe ends.
        self._tiles = probe_tiles(bundle.spec.tile_px, TILES + _CALIBRATE)[TILES:]
        plain = work / "plain.onnx"
        _fold(bundle.onnx_path(), plain)
        self._plain = onnx.load(plain)
        self.products = _products(self._plain)
        if not self.products:
            raise UsageError(
                f"{self._name} has no products with weights but convolutions, which stay as they are: use bf16"
            )
        say(f"ranges of {len(self.products)} products over {_CALIBRATE} tiles")
        _quantise_all(plain, work / "full.onnx", self.products, self._tiles)
        self._full = onnx.load(work / "full.onnx")
        self._wanted = _run(plain, self._tiles)

    def choose(self) -> list[str]:
        """The fewest products, most sensitive first, that must stay for the rest to reach TARGET. ParityFailed."""
        reached = self._cosine([])
        if reached >= TARGET:
            return []
        self._say(f"all in int8 reach {reached:.4f}: which of {len(self.products)} products lose most?")
        order = sorted(self.products, key=lambda name: self._cosine([p for p in self.products if p != name]))
        low, high = (
            0,
            len(order),
        )  # ``low`` left are too few, ``high`` are enough: all of them is the float graph
        while high - low > 1:
            middle = (low + high) // 2
            reached = self._cosine(order[:middle])
            self._say(f"{middle} left as they were: {reached:.4f}")
            low, high = (low, middle) if reached >= TARGET else (middle, high)
        if high == len(order):
            raise ParityFailed(f"no product of {self._name} can be int8 at centred cosine {TARGET}: use bf16")
        return order[:high]

    def leaving(self, left: Collection[str]) -> Any:
        """The quantised model with the products named ``left`` as they were."""
        model = onnx.ModelProto()
        model.CopyFrom(self._full)
        before = {node.name: node for node in self._plain.graph.node if node.name in left}
        for node in model.graph.node:
            if node.name in before:
                node.input[:] = before[node.name].input
        held = {tensor.name for tensor in model.graph.initializer}
        needed = {name for node in before.values() for name in node.input} - held
        model.graph.initializer.extend(t for t in self._plain.graph.initializer if t.name in needed)
        _prune(model.graph)
        return model

    def _cosine(self, left: Collection[str]) -> float:
        # Ranking takes one run a product: fewer tiles, which tell the products apart just as well.
        tiles, wanted = self._tiles[:_RANK], self._wanted[:_RANK]
        found = _run(self.leaving(left).SerializeToString(), tiles)
        return parity.compare(wanted, found, "int8").mean


def _products(model: Any) -> list[str]:
    """Names of the matrix products whose second factor is a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]


def _fold(source: Path, target: Path) -> None:
    """The same graph with constants worked out: weights stored as fp16 or transposed become plain initialisers."""
    try:
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtra("quantising needs ONNX Runtime: pip install 'beph-store[cpu]'") from error
    quant_pre_process(str(source), str(target), skip_symbolic_shape=True, skip_onnx_shape=True)


def _quantise_all(source: Path, target: Path, products: list[str], tiles: NDArray[np.uint8]) -> None:
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[NDArray[np.uint8]] = iter(np.split(tiles, len(tiles) // _BATCH))

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"tiles": batch}

    kinds = ["MatMul", "Gemm"]
    q.quantize_static(
        str(source),
        str(target),
        Reader(),
        op_types_to_quantize=kinds,
        nodes_to_quantize=products,
        per_channel=True,
        activation_type=q.QuantType.QInt8,
        weight_type=q.QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": kinds,
            "QuantizeBias": False,
        },
    )


def _prune(graph: Any) -> None:
    """Drop nodes and initialisers that nothing uses."""
    while True:
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        dead = [node for node in graph.node if not used.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _run(graph: Path | bytes, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    source = graph if isinstance(graph, bytes) else str(graph)
    session = onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"tiles": tiles[i : i + _BATCH]})[0] for i in range(0, len(tiles), _BATCH)]
    return np.concatenate(parts)


def _copy(bundle: Bundle, folder: Path, report: ParityReport, left: list[str]) -> None:
    """The other files of the bundle, and its manifest with the new graph in it."""
    manifest = json.loads((bundle.path / layout.MANIFEST).read_text(encoding="utf-8"))
    name = layout.GRAPHS["int8"]
    for file in manifest["files"]:
        if file != name:
            shutil.copy2(bundle.path / file, folder / file)
    graph = folder / name
    manifest["files"][name] = {"sha256": file_sha256(graph), "bytes": graph.stat().st_size}
    manifest["parity"]["int8"] = report.to_json()
    manifest["int8_left"] = left
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / layout.MANIFEST).write_text(text, encoding="utf-8")
