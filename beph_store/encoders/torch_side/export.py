"""Export an encoder to a bundle: graphs, reference embeddings of the probe, and the parity gate.

torch's dynamo exporter at opset 23 gives native Attention nodes and a truly dynamic batch; older paths
freeze the batch or fail on BEiT's position bias.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from beph_store.encoders import bundle as layout
from beph_store.encoders import parity
from beph_store.encoders.bundle import Bundle, file_sha256, load_bundle
from beph_store.encoders.probe import TILES, VERSION, probe_tiles
from beph_store.encoders.table import TIMM, encoder_entry
from beph_store.encoders.torch_side import mini
from beph_store.encoders.torch_side.beph import load_beph
from beph_store.encoders.torch_side.loaded import Embedder, Loaded, tensors_sha256
from beph_store.encoders.torch_side.published import load_published
from beph_store.encoders.torch_side.timm_models import load_timm
from beph_store.encoders.weights import find
from beph_store.errors import MissingExtra, UsageError

OPSET = 23
INPUT, OUTPUT = "tiles", "embeddings"
_BATCH = 8
#: Initialisers shorter than this stay float32 when weights are stored as fp16.
_SMALL = 1024
#: Tensors go into the graph's own file while they fit protobuf's 2 GB, bytes.
_INSIDE_LIMIT = 1_800_000_000


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """``variant``, ``normalised_by`` and ``mpp`` None mean the encoder's own. ``fp16_twin`` adds the fp16 graph.
    ``compact`` rounds the weights to fp16 first and stores them so: half the size, still computed in fp32.
    ``force`` keeps a bundle that fails the gate.
    """

    variant: str | None = None
    normalised_by: str | None = None
    mpp: float | None = None
    fp16_twin: bool = True
    compact: bool = False
    force: bool = False


def load_encoder(name: str, weights: str | Path | None, options: ExportOptions) -> Loaded:
    """The encoder ``name`` with its ``weights``, None for those on this machine or on the hub; also any timm model."""
    if name.startswith(TIMM):
        if options.variant not in (None, "default"):
            raise UsageError(f"{name} has no variants")
        return load_timm(name, weights, mpp=options.mpp, normalised_by=options.normalised_by)
    entry = encoder_entry(name)
    if entry.network is not None:
        return load_published(
            entry, weights, variant=options.variant, normalised_by=options.normalised_by, mpp=options.mpp
        )
    if options.mpp is not None:
        raise UsageError(
            f"{entry.name} was trained at {entry.mpp} µm/px: --mpp is for timm models; ingest takes one"
        )
    if entry.name == mini.NAME:
        entry.variant(options.variant)
        if options.normalised_by not in (None, entry.variants[0].normalisation):
            raise UsageError(f"{entry.name} has one normalisation: {entry.variants[0].normalisation}")
        if weights is None:
            raise UsageError(f"{entry.name} needs its checkpoint: pass --weights")
        return mini.load_mini(weights)
    weights = find(entry) if weights is None else weights
    return load_beph(weights, name, variant=options.variant, normalised_by=options.normalised_by)


def export_bundle(
    name: str, out: str | Path, *, weights: str | Path | None = None, options: ExportOptions | None = None
) -> tuple[Bundle, tuple[str, ...]]:
    """Write the bundle folder ``out``; returns it and the names of tensors of the file that were not needed.

    Nothing is left at ``out`` when a graph fails the gate. Raises UsageError when ``out`` exists and is not
    empty, EncoderError as the loaders do, ParityFailed.
    """
    options = options or ExportOptions()
    _check_empty(Path(out))
    loaded = load_encoder(name, weights, options)
    return export_loaded(loaded, out, options), loaded.dropped


def export_loaded(loaded: Loaded, out: str | Path, options: ExportOptions | None = None) -> Bundle:
    """Write the bundle of an encoder in memory: ``fp16_twin``, ``compact`` and ``force`` of the options count.

    Raises as ``export_bundle``.
    """
    options, out = options or ExportOptions(), Path(out)
    _check_empty(out)
    if options.compact:
        loaded = _rounded(loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as work:
        folder = Path(work) / "bundle"
        folder.mkdir()
        _write(folder, loaded, options)
        load_bundle(folder)
        if out.exists():
            out.rmdir()
        shutil.move(folder, out)
    return load_bundle(out)


def _check_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: name a new folder")


def _write(folder: Path, loaded: Loaded, options: ExportOptions) -> None:
    tiles = probe_tiles(loaded.spec.tile_px)
    reference = _reference(loaded, tiles)
    np.savez(folder / layout.PROBE, embeddings=reference)
    figures: dict[str, Any] = {}
    for precision in ("fp32", "fp16")[: 1 + options.fp16_twin]:
        path = folder / layout.GRAPHS[precision]
        _export(loaded, path, half=precision == "fp16")
        if path.stat().st_size < _INSIDE_LIMIT:
            _slim(path, as_fp16=options.compact and precision == "fp32")
        report = parity.compare(reference, _run(path, tiles), parity.kind_of(precision))
        parity.require(report, f"the {precision} graph of {loaded.spec.name}", force=options.force)
        figures[precision] = report.to_json()
    names = [layout.PROBE, *(p.name for p in sorted(folder.glob("*.onnx*")))]
    manifest = {
        "format": layout.FORMAT,
        "spec": loaded.spec.to_json(),
        "files": {
            n: {"sha256": file_sha256(folder / n), "bytes": (folder / n).stat().st_size} for n in names
        },
        "input": {"name": INPUT, "dtype": "uint8", "layout": "NHWC", "colour": "RGB"},
        "output": {"name": OUTPUT, "dtype": "float32"},
        "probe": {"version": VERSION, "tiles": TILES},
        "parity": figures,
        "flop_per_tile": _flop(loaded),
        "written_by": {k: version(k) for k in ("beph-store", "torch", "timm", "onnx", "onnxruntime")},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / layout.MANIFEST).write_text(text, encoding="utf-8")


def _flop(loaded: Loaded) -> int:
    """Floating-point operations of the matrix products and convolutions of one tile, as torch counts them."""
    side = loaded.spec.tile_px
    counter = FlopCounterMode(display=False)
    # The unfused attention is made of products that the counter knows.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        loaded.model(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops())


@torch.inference_mode()
def _reference(loaded: Loaded, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    model = Embedder(loaded.model, loaded.spec).eval()
    parts = [model(torch.from_numpy(tiles[i : i + _BATCH])).numpy() for i in range(0, len(tiles), _BATCH)]
    return np.concatenate(parts)


def _export(loaded: Loaded, path: Path, *, half: bool) -> None:
    """Write one graph. The tensors go into the file itself while they fit protobuf's 2 GB, else beside it."""
    inner = copy.deepcopy(loaded.model).half() if half else loaded.model
    model = Embedder(inner, loaded.spec).eval()
    example = torch.zeros(2, loaded.spec.tile_px, loaded.spec.tile_px, 3, dtype=torch.uint8)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        # The other backends return a transposed layout, and the reshape after them then freezes into an illegal view.
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (example,),
                path,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=size > _INSIDE_LIMIT,
                verbose=False,
            )
    finally:
        noisy.setLevel(level)


def _slim(path: Path, *, as_fp16: bool) -> None:
    """Keep equal initialisers once (each block brings its own position index) and, if asked, large ones as fp16."""
    model = onnx.load(path)
    kept: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in list(model.graph.initializer):
        array = onnx.numpy_helper.to_array(tensor)
        content = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).digest()
        first = kept.setdefault(content, tensor.name)
        if first != tensor.name:
            same[tensor.name] = first
            model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    if as_fp16:
        _store_as_fp16(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _store_as_fp16(graph: Any) -> None:
    """Large float32 initialisers that fp16 holds exactly become fp16 ones with a Cast in the graph."""
    casts = []
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if (
            array.dtype != np.float32
            or array.size < _SMALL
            or not np.array_equal(array.astype(np.float16), array)
        ):
            continue
        full, stored = tensor.name, f"{tensor.name}.fp16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [full], to=onnx.TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _rounded(loaded: Loaded) -> Loaded:
    """The same encoder with its weights rounded to fp16 and held in fp32; its own weights, so its own hash."""
    model: nn.Module = copy.deepcopy(loaded.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    state: dict[str, Tensor] = {k.removeprefix("trunk."): v for k, v in model.state_dict().items()}
    return Loaded(model, replace(loaded.spec, weights_sha256=tensors_sha256(state)), loaded.dropped)


def _run(path: Path, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings of the probe by ONNX Runtime on the CPU, the runtime that every machine has."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(
            "exporting checks the graph with ONNX Runtime: pip install 'beph-store[cpu]'"
        ) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run([OUTPUT], {INPUT: tiles[i : i + _BATCH]})[0] for i in range(0, len(tiles), _BATCH)]
    return np.concatenate(parts)
