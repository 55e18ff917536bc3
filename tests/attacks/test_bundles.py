"""Encoder bundles as attackers: tensors outside of the folder, records that lie about their graph, bombs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from beph_store.encoders import load_bundle
from beph_store.encoders.bundle import MANIFEST
from beph_store.engine.choosing import choose
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.errors import BephStoreError, BundleInvalid, RuntimeUnavailable
from beph_store.runtimes import RuntimeOptions

SIDE, DIM = 16, 3


def graph(folder, *, dim=DIM, side=SIDE, kind=TensorProto.UINT8, external=None, value=1.0):
    """The mean of each colour, times a weight; ``external`` is where the weight says that it lies."""
    weight = numpy_helper.from_array(np.full((3, dim), value, np.float32), "w")
    if external is not None:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=external)
    nodes = [
        helper.make_node("Cast", ["tiles"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["out"]),
    ]
    tiles = helper.make_tensor_value_info("tiles", kind, ["n", side, side, 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", dim])
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    made = helper.make_graph(nodes, "g", [tiles], [out], [weight, axes])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "encoder.onnx").write_bytes(model.SerializeToString())


def seal(folder, *, files=None, parity=None, **spec):
    """A record whose digests are right, whatever it says: what an attacker would write."""
    about = {
        "name": "toy", "variant": "v", "weights_sha256": "0" * 64, "tile_px": SIDE, "mpp": 8.0, "dim": DIM,
        "pooling": "mean", "mean": [0, 0, 0], "std": [1, 1, 1], "precision": "fp32", "licence": "CC0",
    } | spec  # fmt: skip
    names = ["encoder.onnx", "probe.npz", *(files or [])]
    digests = {name: {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()} for name in names}
    data = {"format": 1, "spec": about, "files": digests, "probe": {"version": 1, "tiles": 64}}
    figures = {"fp32": {"kind": "exact", "mean": 1.0, "minimum": 1.0, "passed": True}}
    (folder / MANIFEST).write_text(json.dumps(data | {"parity": figures if parity is None else parity}))


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "toy"
    folder.mkdir()
    np.savez(folder / "probe.npz", embeddings=np.zeros((64, DIM), np.float32))
    graph(folder)
    seal(folder)
    return folder


def opened(folder):
    return choose(load_bundle(folder), runtime="onnxruntime", options=RuntimeOptions(threads=1)).runtime


def test_the_sound_one_works(bundle):
    assert opened(bundle).encode(np.full((2, SIDE, SIDE, 3), 7, np.uint8)).tolist() == [[21.0] * 3] * 2


# --- tensors elsewhere ----------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path):
    """36 bytes of somebody's."""
    path = tmp_path / "secret.bin"
    path.write_bytes(np.arange(9, dtype=np.float32).tobytes())
    return path


@pytest.mark.parametrize(
    "location", ["../secret.bin", "SECRET", "sub/../../secret.bin", "./../secret.bin", "unlisted.bin"]
)
def test_tensors_outside_of_the_bundle_are_refused_before_a_runtime_sees_them(bundle, secret, location):
    graph(bundle, external=str(secret) if location == "SECRET" else location)
    seal(bundle)
    with pytest.raises(BundleInvalid, match="does not list"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["../secret.bin", "SECRET", "sub/w.bin", "..", ""])
def test_a_record_that_lists_a_file_outside_is_refused(bundle, secret, name):
    name = str(secret) if name == "SECRET" else name
    data = json.loads((bundle / MANIFEST).read_text())
    data["files"][name] = {"sha256": hashlib.sha256(secret.read_bytes()).hexdigest()}
    (bundle / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleInvalid, match="outside the folder"):
        load_bundle(bundle)


@pytest.mark.parametrize("how", ["symlink", "hard link"])
def test_a_link_shows_nothing_that_its_author_did_not_know(bundle, secret, how):
    """The record must name the digest of what it links to, so a link can only bring what the author had already."""
    (bundle / "w.bin").symlink_to(secret) if how == "symlink" else os.link(secret, bundle / "w.bin")
    graph(bundle, external="w.bin")
    data = json.loads((bundle / MANIFEST).read_text())
    data["files"]["w.bin"] = {"sha256": hashlib.sha256(b"a guess").hexdigest()}
    data["files"]["encoder.onnx"] = {
        "sha256": hashlib.sha256((bundle / "encoder.onnx").read_bytes()).hexdigest()
    }
    (bundle / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleInvalid, match="altered"):
        load_bundle(bundle)


def test_a_symlink_is_refused_by_the_runtime_too(bundle, secret):
    (bundle / "w.bin").symlink_to(secret)
    graph(bundle, external="w.bin")
    seal(bundle, files=["w.bin"])
    with pytest.raises(RuntimeUnavailable):
        opened(bundle)


@pytest.mark.parametrize(
    ("key", "value"), [("offset", "99999999999"), ("length", "1000000000000"), ("offset", "-4")]
)
def test_tensors_beyond_their_file_are_refused(bundle, key, value):
    graph(bundle, external="w.bin")
    model = onnx.load(str(bundle / "encoder.onnx"), load_external_data=False)
    model.graph.initializer[0].external_data.add(key=key, value=value)
    (bundle / "encoder.onnx").write_bytes(model.SerializeToString())
    (bundle / "w.bin").write_bytes(bytes(36))
    seal(bundle, files=["w.bin"])
    with pytest.raises(BephStoreError):
        opened(bundle)


# --- records that lie -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [{"dim": 4}, {"dim": 1}, {"dim": 10**9}, {"tile_px": 32}], ids=str)
def test_a_record_that_lies_about_its_graph_is_told_before_a_slide_is_read(bundle, spec):
    seal(bundle, **spec)
    with pytest.raises(BundleInvalid, match="its record says"):
        opened(bundle)


@pytest.mark.parametrize(
    "made", [{"dim": 1}, {"kind": TensorProto.FLOAT}, {"value": np.nan}, {"value": np.inf}], ids=str
)
def test_a_graph_that_gives_something_else_is_told(bundle, made):
    graph(bundle, **made)
    seal(bundle)
    with pytest.raises(BundleInvalid, match="its record says"):
        opened(bundle)


@pytest.mark.parametrize(
    "spec",
    [
        {"tile_px": 0},
        {"tile_px": -5},
        {"tile_px": 10**7},
        {"dim": 0},
        {"dim": -1},
        {"mpp": 0},
        {"mpp": -1},
        {"mpp": 1e9},
    ],
    ids=str,
)
def test_numbers_that_cannot_be_meant_end_in_one_line(bundle, tmp_path, spec):
    seal(bundle, **spec)
    with pytest.raises(BephStoreError) as caught:
        ingest(
            [_slide(tmp_path)],
            tmp_path / "S",
            options=IngestOptions(str(bundle), runtime="onnxruntime", workers=1),
        )
    assert len(str(caught.value).splitlines()) == 1


def _slide(tmp_path):
    from PIL import Image

    path = tmp_path / "slide.png"
    Image.new("RGB", (64, 64), (200, 100, 150)).save(path)
    return path


def test_parity_figures_that_are_claimed_do_not_spare_another_runtime_the_gate(bundle):
    """The record says 1.0; the probe in the bundle says otherwise, and what computes here is compared with that."""
    from beph_store.engine.choosing import gate

    assert gate(opened(bundle), load_bundle(bundle)).passed is False


# --- damage and bombs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, 0.99])
def test_a_graph_that_is_cut_off_is_refused(bundle, keep):
    data = (bundle / "encoder.onnx").read_bytes()
    (bundle / "encoder.onnx").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    seal(bundle)
    with pytest.raises(BephStoreError):
        opened(bundle)


def test_a_probe_that_unpacks_to_gigabytes_is_refused(bundle):
    """Measured by what its directory says: nothing is unpacked."""
    with (
        zipfile.ZipFile(bundle / "probe.npz", "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("embeddings.npy", "w") as f,
    ):
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (1 << 26,)})
        for _ in range(256):
            f.write(bytes(1 << 20))
    seal(bundle)
    assert (bundle / "probe.npz").stat().st_size < 1 << 20
    with pytest.raises(BundleInvalid, match="cannot be read"):
        load_bundle(bundle).reference()


def test_a_bundle_that_is_a_fifo_or_a_loop_does_not_hang(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "other")
    (bundle / "encoder.onnx").unlink()
    os.mkfifo(bundle / "encoder.onnx")
    with pytest.raises(BundleInvalid):
        load_bundle(bundle)
    (tmp_path / "other" / "encoder.onnx").unlink()
    (tmp_path / "other" / "encoder.onnx").symlink_to("encoder.onnx")
    with pytest.raises(BundleInvalid):
        load_bundle(tmp_path / "other")
