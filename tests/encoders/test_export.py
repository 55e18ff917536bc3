"""Exported graphs: what they take, what they give, and that they are checked."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch

from beph_store.encoders import load_bundle, parity, probe_tiles
from beph_store.encoders.torch_side import export as exporting
from beph_store.encoders.torch_side.beph import load_beph
from beph_store.encoders.torch_side.export import ExportOptions, export_bundle
from beph_store.encoders.torch_side.loaded import Embedder
from beph_store.engine.check import check
from beph_store.errors import EncoderError, ParityFailed, UnknownEncoder, UsageError, WeightsMismatch
from tests.encoders.conftest import DEPTH, DIM, TILE, save, seeded_state


def run(path, tiles):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {"tiles": tiles})[0]


def reference(loaded, tiles):
    with torch.inference_mode():
        return Embedder(loaded.model, loaded.spec)(torch.from_numpy(tiles)).numpy()


def test_a_graph_takes_any_number_of_raw_tiles(exported, checkpoint):
    bundle, dropped = exported
    assert dropped == ("mask_token",)
    loaded = load_beph(checkpoint)
    for count in (1, 2, 5, 16):
        tiles = probe_tiles(TILE, count)
        vectors = run(bundle.onnx_path(), tiles)
        assert (vectors.shape, vectors.dtype) == ((count, DIM), np.float32)
        np.testing.assert_allclose(vectors, reference(loaded, tiles), atol=2e-5)


def test_uint8_is_cast_before_it_is_transposed_and_attention_is_native(exported):
    for precision in ("fp32", "fp16"):
        model = onnx.load(exported[0].onnx_path(precision))
        (tiles,) = model.graph.input
        assert tiles.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        users = {n.op_type for n in model.graph.node if tiles.name in n.input}
        assert users <= {"Cast", "Shape"}
        assert sum(n.op_type == "Attention" for n in model.graph.node) == DEPTH
        assert model.opset_import[0].version == 23
        assert {n.domain for n in model.graph.node} <= {"", "ai.onnx"}
        onnx.checker.check_model(model)


def test_the_fp16_twin_computes_in_fp16_with_the_same_ends(exported):
    bundle, _ = exported
    model = onnx.load(bundle.onnx_path("fp16"))
    kinds = {t.data_type for t in model.graph.initializer if len(t.dims) == 2}
    assert onnx.TensorProto.FLOAT16 in kinds
    vectors = run(bundle.onnx_path("fp16"), probe_tiles(TILE, 3))
    assert (vectors.shape, vectors.dtype) == ((3, DIM), np.float32)
    assert bundle.parity["fp16"]["mean"] >= parity.THRESHOLDS["half"]


def test_the_fp16_twin_can_be_checked_on_any_machine(exported):
    report, runtime = check(exported[0].path, runtime="onnxruntime", precision="fp16")
    assert (report.passed, report.kind, runtime) == (True, "half", "onnxruntime")


def test_a_bundle_is_checked_and_says_how_well_it_does(exported):
    bundle, _ = exported
    vectors = run(bundle.onnx_path(), probe_tiles(TILE))
    report = parity.compare(bundle.reference(), vectors, "exact")
    assert report.passed
    assert bundle.parity["fp32"]["mean"] == pytest.approx(report.mean, abs=1e-6)
    data = json.loads((bundle.path / "encoder.json").read_text())
    assert data["input"] == {"name": "tiles", "dtype": "uint8", "layout": "NHWC", "colour": "RGB"}


def test_one_table_is_stored_once(exported):
    """Equal initialisers are kept once: the 2 blocks share index and table."""
    model = onnx.load(exported[0].onnx_path())
    contents = [onnx.numpy_helper.to_array(t).tobytes() for t in model.graph.initializer]
    large = [c for c in contents if len(c) > 64]
    assert len(large) == len(set(large))


def test_compact_is_half_the_size_and_exact(tmp_path, exported, checkpoint):
    options = ExportOptions(compact=True, fp16_twin=False)
    bundle, _ = export_bundle("beph", tmp_path / "compact", weights=checkpoint, options=options)
    assert list(bundle.graphs) == ["fp32"]
    assert bundle.parity["fp32"]["mean"] > 0.99999
    assert bundle.spec.weights_sha256 != exported[0].spec.weights_sha256
    large = [t for t in onnx.load(bundle.onnx_path()).graph.initializer if np.prod(t.dims) >= 1024]
    assert len(large) >= 4 * DEPTH
    assert {t.data_type for t in large} == {onnx.TensorProto.FLOAT16}
    assert not list(tmp_path.glob(".export-*"))


def test_the_variant_is_in_graph_and_spec(tmp_path, exported, checkpoint):
    options = ExportOptions(variant="as-published", normalised_by="histology", fp16_twin=False)
    bundle, _ = export_bundle("beph", tmp_path / "published", weights=checkpoint, options=options)
    assert bundle.spec.variant == "as-published"
    assert bundle.spec.mean == exported[0].spec.mean
    tiles = probe_tiles(TILE, 4)
    assert np.abs(run(bundle.onnx_path(), tiles) - run(exported[0].onnx_path(), tiles)).max() > 0.01


def test_a_graph_that_fails_the_gate_leaves_nothing(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(
        exporting, "_run", lambda path, tiles: np.random.default_rng(0).normal(size=(len(tiles), DIM))
    )
    out = tmp_path / "bad"
    with pytest.raises(ParityFailed, match="the fp32 graph of beph"):
        export_bundle("beph", out, weights=checkpoint, options=ExportOptions(fp16_twin=False))
    assert list(tmp_path.iterdir()) == []
    bundle, _ = export_bundle(
        "beph", out, weights=checkpoint, options=ExportOptions(fp16_twin=False, force=True)
    )
    assert bundle.parity["fp32"]["passed"] is False


def test_a_folder_in_use_and_absent_weights_are_refused(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        export_bundle("beph", tmp_path, weights=checkpoint)
    with pytest.raises(UsageError, match=r"encoder pull beph`, or pass --weights BEPH_backbone\.pth"):
        export_bundle("beph", tmp_path / "new")
    with pytest.raises(UsageError, match="beph-mini needs its checkpoint: pass --weights"):
        export_bundle("beph-mini", tmp_path / "new")
    with pytest.raises(UsageError, match="--mpp is for timm models"):
        export_bundle("beph", tmp_path / "new", weights=checkpoint, options=ExportOptions(mpp=1.0))
    with pytest.raises(UnknownEncoder):
        export_bundle("bephh", tmp_path / "new", weights=checkpoint)


# ---- timm ---------------------------------------------------------------------------------------

MODEL = "test_vit"


@pytest.fixture
def timm_weights(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(MODEL)
    return save_state(tmp_path / "vit.pth", model.state_dict())


def save_state(path, state):
    torch.save(state, path)
    return path


def test_a_timm_model_exports_with_its_own_statistics(tmp_path, timm_weights):
    options = ExportOptions(fp16_twin=False, mpp=1.0)
    bundle, dropped = export_bundle(f"timm:{MODEL}", tmp_path / "out", weights=timm_weights, options=options)
    assert dropped == ("head.bias", "head.weight")
    assert bundle.spec.name == f"timm:{MODEL}"
    assert bundle.spec.mpp == 1.0
    assert bundle.spec.mean == pytest.approx((127.5, 127.5, 127.5))
    assert bundle.parity["fp32"]["passed"]


def test_a_timm_file_must_fit(tmp_path, timm_weights):
    state = torch.load(timm_weights, weights_only=True)
    state["blocks.0.norm1.weight"] = torch.ones(7)
    state["extra"] = torch.ones(7)
    del state["norm.bias"]
    path = save_state(tmp_path / "odd.pth", state)
    with pytest.raises(
        WeightsMismatch, match=r"1 missing: norm\.bias; 1 unexpected: extra; 1 wrong: blocks\.0\.norm1"
    ):
        export_bundle(f"timm:{MODEL}", tmp_path / "out", weights=path)


def test_an_unknown_timm_model_and_an_unreachable_hub_are_told(tmp_path, monkeypatch):
    with pytest.raises(UnknownEncoder, match="vit_small_patch16_224"):
        export_bundle("timm:vit_smal_patch16_224", tmp_path / "out")
    with pytest.raises(UsageError, match="no variants"):
        export_bundle(f"timm:{MODEL}", tmp_path / "out", options=ExportOptions(variant="expanded"))

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EncoderError, match="pass it with --weights"):
        export_bundle("timm:vit_tiny_patch16_224", tmp_path / "out")


def test_an_encoder_spec_survives_the_bundle(exported, checkpoint):
    bundle = load_bundle(exported[0].path)
    assert bundle.spec == load_beph(checkpoint).spec
    assert dataclasses.replace(bundle.spec, precision="fp16") == bundle.spec_for("fp16")


def test_a_fine_tuned_file_exports(tmp_path):
    path = save(tmp_path / "tuned.pth", seeded_state(5, fine_tuned=True))
    bundle, dropped = export_bundle("beph", tmp_path / "out", weights=path)
    assert "head.fc.weight" in dropped
    assert bundle.parity["fp16"]["passed"]
