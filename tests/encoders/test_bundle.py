"""Bundles: what is verified, and what is refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from beph_store.encoders import ENCODERS, load_bundle
from beph_store.encoders.bundle import FORMAT, MANIFEST
from beph_store.encoders.onnxfile import external_locations
from beph_store.errors import BundleInvalid, UnknownEncoder, UsageError


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    low, value = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(value) if value else bytes([low])


def tensor_at(location: str) -> bytes:
    return field(13, field(1, b"location") + field(2, location.encode())) + bytes([14 << 3, 1])


def graph_with(tensor: bytes) -> bytes:
    """ir_version 10, then a graph with one initialiser."""
    return bytes([8, 10]) + field(7, field(2, b"g") + field(5, tensor))


@pytest.fixture
def toy(tmp_path):
    """A folder that passes for a bundle; ``seal`` writes its manifest again after a change."""
    return make_toy(tmp_path / "toy")


def make_toy(folder):
    folder.mkdir()
    (folder / "encoder.onnx").write_bytes(graph_with(field(8, b"w")))
    np.savez(folder / "probe.npz", embeddings=np.zeros((64, 4), np.float32))
    seal(folder)
    return folder


def seal(folder, **changes):
    files = {
        p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in folder.iterdir()
        if p.name != MANIFEST
    }
    spec = {
        "name": "toy", "variant": "v", "weights_sha256": "0" * 64, "tile_px": 8, "mpp": 0.5, "dim": 4,
        "pooling": "mean", "mean": [0, 0, 0], "std": [1, 1, 1], "precision": "fp32", "licence": "CC0",
    }  # fmt: skip
    data = {
        "format": FORMAT,
        "spec": spec,
        "files": files,
        "probe": {"version": 1, "tiles": 64},
        "parity": {},
    }
    (folder / MANIFEST).write_text(json.dumps(data | changes))


def test_a_sound_bundle_opens(toy):
    bundle = load_bundle(toy)
    assert bundle.spec.name == "toy"
    assert bundle.onnx_path() == toy.resolve() / "encoder.onnx"
    assert bundle.reference().shape == (64, 4)


def test_a_graph_that_is_not_there_is_named(toy):
    with pytest.raises(UsageError, match="no fp16 graph, only fp32"):
        load_bundle(toy).onnx_path("fp16")


def test_the_fp16_graph_is_another_feature_space(toy):
    (toy / "encoder.fp16.onnx").write_bytes(graph_with(b""))
    seal(toy)
    bundle = load_bundle(toy)
    assert bundle.spec_for("fp16").precision == "fp16"
    assert bundle.spec_for() == bundle.spec
    assert bundle.onnx_path("fp16").name == "encoder.fp16.onnx"


@pytest.mark.parametrize("file", ["encoder.onnx", "probe.npz"])
def test_an_altered_or_missing_file_is_refused(toy, file):
    content = (toy / file).read_bytes()
    (toy / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleInvalid, match="altered"):
        load_bundle(toy)
    (toy / file).unlink()
    with pytest.raises(BundleInvalid, match=f"lacks {file}"):
        load_bundle(toy)


@pytest.mark.parametrize("version", [0, FORMAT + 1, "1", None])
def test_an_unknown_format_is_refused(toy, version):
    seal(toy, format=version)
    with pytest.raises(BundleInvalid, match="bundle format"):
        load_bundle(toy)


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"name": "toy"}},
        {"files": {}},
        {"probe": {}},
        {"parity": None},
        {"files": {"encoder.onnx": {}}},
        {"spec": 3},
    ],
)
def test_an_incomplete_manifest_is_refused(toy, changes):
    seal(toy, **changes)
    with pytest.raises(BundleInvalid):
        load_bundle(toy)


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"format": 1}'])
def test_a_manifest_that_is_none_is_refused(toy, text):
    (toy / MANIFEST).write_text(text)
    with pytest.raises(BundleInvalid):
        load_bundle(toy)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleInvalid, match="not an encoder bundle"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "other.bin", ""])
def test_tensors_outside_the_listed_files_are_refused(toy, location):
    (toy / "encoder.onnx").write_bytes(graph_with(tensor_at(location)))
    seal(toy)
    with pytest.raises(BundleInvalid, match="keeps tensors in files"):
        load_bundle(toy)


def test_tensors_in_a_listed_file_are_fine(toy):
    (toy / "encoder.onnx").write_bytes(graph_with(tensor_at("encoder.onnx.data")))
    (toy / "encoder.onnx.data").write_bytes(b"1234")
    seal(toy)
    assert load_bundle(toy).spec.dim == 4


def test_a_manifest_cannot_point_outside_its_folder(toy):
    files = json.loads((toy / MANIFEST).read_text())["files"]
    shutil.copy(toy / "probe.npz", toy.parent / "probe.npz")
    seal(toy, files=files | {"../probe.npz": files["probe.npz"]})
    with pytest.raises(BundleInvalid, match="outside the folder"):
        load_bundle(toy)


def test_a_probe_of_another_version_cannot_be_compared_with(toy):
    seal(toy, probe={"version": 99, "tiles": 64})
    with pytest.raises(BundleInvalid, match="export the encoder again"):
        load_bundle(toy).reference()


def test_a_pickle_in_the_probe_is_not_run(toy):
    np.savez(toy / "probe.npz", embeddings=np.array([{"a": 1}], dtype=object))
    seal(toy)
    with pytest.raises(BundleInvalid, match=r"probe\.npz"):
        load_bundle(toy).reference()


def test_names_are_answered_with_what_to_do():
    with pytest.raises(UnknownEncoder, match="--weights"):
        load_bundle("beph")
    with pytest.raises(UnknownEncoder, match="export timm:vit_tiny"):
        load_bundle("timm:vit_tiny_patch16_224")
    with pytest.raises(UnknownEncoder, match=r"did you mean beph-mini\?"):
        load_bundle("beph_mini")
    with pytest.raises(UnknownEncoder, match=r"known are beph-mini, beph.*encoder list"):
        load_bundle("/no/such/folder")


def test_the_bundled_encoder_is_sound_small_and_described():
    bundle = load_bundle("beph-mini")
    assert (bundle.spec.dim, bundle.spec.tile_px, bundle.spec.mpp) == (512, 224, 0.5)
    assert bundle.onnx_path().stat().st_size < 12_000_000
    assert bundle.parity["fp32"]["passed"]
    assert np.isfinite(bundle.reference()).all()
    assert "not a diagnostic" in (bundle.path / "MODEL_CARD.md").read_text()
    assert ENCODERS["beph-mini"].bundle == bundle.path


@pytest.mark.parametrize(
    "nest",
    [
        lambda t: field(7, field(5, t)),  # graph.initializer
        lambda t: field(7, field(1, field(5, field(5, t)))),  # graph.node.attribute.t
        lambda t: field(7, field(1, field(5, field(10, t)))),  # … tensors
        lambda t: field(7, field(1, field(5, field(6, field(5, t))))),  # … g, a subgraph
        lambda t: field(7, field(15, field(1, t))),  # graph.sparse_initializer.values
        lambda t: field(25, field(7, field(5, field(5, t)))),  # model.functions.node.attribute.t
    ],
)
def test_external_tensors_are_found_wherever_they_hide(tmp_path, nest):
    path = tmp_path / "g.onnx"
    path.write_bytes(bytes([8, 10]) + nest(tensor_at("far.bin")))
    assert external_locations(path) == {"far.bin"}


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, field(7, b"\x2a\x7f"), b"\x3a", b"\x3b\x00", b"\x3a\x05ab"]
)
def test_what_is_no_protobuf_is_refused(tmp_path, content):
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleInvalid):
        external_locations(path)


def test_the_walk_agrees_with_the_onnx_package(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.arange(400, dtype=np.float32), "w")
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [400])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [out], [tensor]))
    onnx.save(model, tmp_path / "inside.onnx")
    onnx.save(model, tmp_path / "out.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert external_locations(tmp_path / "inside.onnx") == set()
    assert external_locations(tmp_path / "out.onnx") == {"w.bin"}
