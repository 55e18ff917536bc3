"""A bundle: a folder with an exported encoder and all that is needed to use and to check it.

    encoder.onnx         fp32 graph: uint8 tiles (B, H, W, 3) RGB in, float32 embeddings (B, D) out
    encoder.fp16.onnx    its fp16 twin with the same ends; may be absent
    encoder.int8.onnx    some products in int8, by `encoder quantise`; may be absent
    probe.npz            ``embeddings`` (64, D) float32 of the probe tiles by the fp32 torch reference
    encoder.json         format version, EncoderSpec, files with their SHA-256, probe, parity

Needs no torch and no onnx. A bundle holds no code: JSON, ONNX and plain arrays only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders import onnxfile, probe
from beph_store.encoders.table import ENCODERS, TIMM, unknown
from beph_store.errors import BundleInvalid, UnknownEncoder, UsageError
from beph_store.records import EncoderSpec
from beph_store.regular import require_regular

FORMAT = 1
MANIFEST = "encoder.json"
PROBE = "probe.npz"
#: Bytes; 64 embeddings of 8,192 numbers are 2 MB.
_LARGEST_PROBE = 64 << 20
#: File of the graph of each precision.
GRAPHS: Mapping[str, str] = {
    "fp32": "encoder.onnx",
    "fp16": "encoder.fp16.onnx",
    "int8": "encoder.int8.onnx",
}
#: Precisions without a graph of their own: the runtime computes the fp32 graph in them.
COMPUTED: Mapping[str, str] = {"bf16": "fp32"}
PRECISIONS: tuple[str, ...] = (*GRAPHS, *COMPUTED)


@dataclass(frozen=True, slots=True)
class Bundle:
    """An encoder ready to run, its files verified.

    ``path`` the folder; ``spec`` of the fp32 graph; ``graphs`` file by precision; ``parity`` the gate's
    figures by precision, as measured at export; ``probe`` version and count of the probe tiles; ``flop_per_tile`` of
    its matrix products and convolutions, None where the export did not count them.
    """

    path: Path
    spec: EncoderSpec
    graphs: Mapping[str, Path]
    parity: dict[str, Any]
    probe: Mapping[str, int]
    flop_per_tile: float | None = None

    def onnx_path(self, precision: str | None = None) -> Path:
        """The graph to compute that precision from (fp32 for None); UsageError names those there are."""
        precision = precision or "fp32"
        if precision not in PRECISIONS:
            raise UsageError(f"no precision {precision!r}: choose from {', '.join(PRECISIONS)}")
        source = COMPUTED.get(precision, precision)
        if source not in self.graphs:
            cure = (
                "`beph-store encoder quantise` makes it" if source == "int8" else "export the encoder again"
            )
            has = ", ".join(self.graphs)
            raise UsageError(f"{self.spec.name} has no {source} graph, only {has}: {cure}")
        return self.graphs[source]

    def has(self, precision: str) -> bool:
        """Whether there is a graph to compute that precision from."""
        return COMPUTED.get(precision, precision) in self.graphs

    def spec_for(self, precision: str | None = None) -> EncoderSpec:
        """The spec in that precision: each precision is a feature space of its own."""
        self.onnx_path(precision)
        return dataclasses.replace(self.spec, precision=precision or "fp32")

    def reference(self) -> NDArray[np.float32]:
        """Embeddings (N, D) float32 of the probe tiles by the fp32 torch reference; BundleInvalid if there are none."""
        if self.probe["version"] != probe.VERSION:
            raise BundleInvalid(
                f"{self.path} was made with probe {self.probe['version']}, this version draws {probe.VERSION}: "
                "export the encoder again",
                path=self.path,
            )
        try:
            with zipfile.ZipFile(self.path / PROBE) as packed:
                if sum(item.file_size for item in packed.infolist()) > _LARGEST_PROBE:
                    raise ValueError("it unpacks to more than any probe has")
            with np.load(self.path / PROBE, allow_pickle=False) as data:
                vectors = np.asarray(data["embeddings"], np.float32)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise BundleInvalid(f"{PROBE} of {self.path} cannot be read: {error}", path=self.path) from error
        if vectors.shape != (self.probe["tiles"], self.spec.dim):
            raise BundleInvalid(f"{PROBE} has embeddings of shape {vectors.shape}", path=self.path)
        return vectors


def load_bundle(name: str | Path) -> Bundle:
    """Open a bundle by encoder name or by folder, and verify every file against its SHA-256.

    A name of the table comes before a folder of the same name (write ``./name`` for the folder). Raises
    UnknownEncoder, or BundleInvalid when the folder is not a bundle, was altered, or was written by a version
    that this one does not know.
    """
    path = _find(name)
    data = _manifest(path)
    try:
        spec = EncoderSpec.from_json(data["spec"])
        files = {str(file): str(entry["sha256"]) for file, entry in data["files"].items()}
        drawn = {"version": int(data["probe"]["version"]), "tiles": int(data["probe"]["tiles"])}
        parity = dict(data["parity"])
        flop = None if data.get("flop_per_tile") is None else float(data["flop_per_tile"])
    except (KeyError, TypeError, AttributeError, ValueError, UsageError) as error:
        raise BundleInvalid(f"{MANIFEST} of {path} is incomplete: {error!r}", path=path) from error
    graphs = {p: path / file for p, file in GRAPHS.items() if file in files}
    if "fp32" not in graphs or PROBE not in files:
        raise BundleInvalid(f"{MANIFEST} of {path} does not list encoder.onnx and {PROBE}", path=path)
    for file, sha256 in files.items():
        _verify(path, file, sha256)
    for graph in graphs.values():
        _no_strays(graph, files)
    return Bundle(path, spec, graphs, parity, drawn, flop)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find(name: str | Path) -> Path:
    if str(name) in ENCODERS:
        entry = ENCODERS[str(name)]
        if entry.bundle is not None:
            return entry.bundle
        pull = (
            "" if entry.source is None else f"`beph-store encoder pull {entry.name}` if you have none, then "
        )
        raise UnknownEncoder(
            f"{entry.name} ships without weights: run {pull}`beph-store encoder export {entry.name} --weights FILE "
            "--out FOLDER` (pulled ones need no --weights), and pass FOLDER as the encoder"
        )
    if str(name).startswith(TIMM):
        raise UnknownEncoder(
            f"{name} must be exported first: run `beph-store encoder export {name} --out FOLDER`, and pass FOLDER "
            "as the encoder"
        )
    path = Path(name)
    if path.is_dir():
        return path.resolve()
    raise UnknownEncoder(unknown(str(name)))


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        require_regular(file)
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleInvalid(f"{path} is not an encoder bundle: it has no {MANIFEST}", path=path) from error
    except (OSError, ValueError) as error:
        raise BundleInvalid(f"{file} cannot be read: {error}", path=path) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else None
        raise BundleInvalid(
            f"{path} has bundle format {found}, this version knows {FORMAT}: update beph-store or export again",
            path=path,
        )
    return data


def _verify(path: Path, file: str, sha256: str) -> None:
    if Path(file).name != file or file in ("", ".", ".."):
        raise BundleInvalid(f"{MANIFEST} of {path} names a file outside the folder: {file!r}", path=path)
    if not (path / file).is_file():
        raise BundleInvalid(f"{path} lacks {file}: copy the whole folder, or export again", path=path)
    if file_sha256(path / file) != sha256:
        raise BundleInvalid(f"{path / file} was altered after the export: its SHA-256 differs", path=path)


def _no_strays(graph: Path, files: Mapping[str, str]) -> None:
    strays = sorted(onnxfile.external_locations(graph) - set(files))
    if strays:
        raise BundleInvalid(
            f"{graph} keeps tensors in files that {MANIFEST} does not list: {strays[:3]}", path=graph
        )
