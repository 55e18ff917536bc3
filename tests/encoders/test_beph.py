"""The checkpoint loader: each tensor accounted for, and the embeddings of OpenMMLab's own code."""

import pickle

import numpy as np
import pytest
import torch

from beph_store.encoders import NORMALISATIONS, encoder_entry
from beph_store.encoders.torch_side.beph import load_beph
from beph_store.encoders.torch_side.loaded import Embedder, tensors_sha256
from beph_store.errors import UnknownEncoder, UsageError, WeightsMismatch
from tests.encoders.conftest import DEPTH, DIM, PATCH, TILE, save, seeded_state

FIXTURE = "beph_fixture"


def embed(loaded, pixels):
    with torch.inference_mode():
        return Embedder(loaded.model, loaded.spec)(torch.from_numpy(pixels)).numpy()


@pytest.fixture
def tile():
    return np.random.default_rng(3).integers(0, 256, (1, TILE, TILE, 3), dtype=np.uint8)


@pytest.fixture
def load(tmp_path):
    """Load a state dict after writing it in the file's layout."""
    return lambda state, **options: load_beph(save(tmp_path / "changed.pth", state), **options)


def shuffled(tile):
    side = TILE // PATCH
    cells = (
        tile.reshape(1, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, PATCH, PATCH, 3)
    )
    cells = cells[np.random.default_rng(0).permutation(side * side)]
    cells = cells.reshape(1, side, side, PATCH, PATCH, 3)
    return np.ascontiguousarray(cells.transpose(0, 1, 3, 2, 4, 5).reshape(1, TILE, TILE, 3))


def test_the_architecture_is_read_off_the_shapes(checkpoint):
    loaded = load_beph(checkpoint)
    assert (loaded.spec.dim, loaded.spec.tile_px) == (DIM, TILE)
    assert len(loaded.model.trunk.blocks) == DEPTH
    assert loaded.dropped == ("mask_token",)
    assert (loaded.spec.name, loaded.spec.variant, loaded.spec.mpp) == ("beph", "expanded", 0.25)


def test_an_embedding_is_the_layer_norm_of_the_mean_patch_token(checkpoint, tile):
    loaded = load_beph(checkpoint)
    embedding = embed(loaded, tile)
    np.testing.assert_allclose(embedding.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(embedding.std(1), 1, atol=1e-4)
    x = (tile.astype(np.float32) - np.float32(loaded.spec.mean)) / np.float32(loaded.spec.std)
    with torch.inference_mode():
        tokens = loaded.model.trunk.forward_features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))[:, 1:]
    mean = tokens.mean(1).numpy()
    expected = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_without_tables_the_place_of_a_cell_does_not_matter_and_with_them_it_does(checkpoint, tile):
    published, expanded = load_beph(checkpoint, variant="as-published"), load_beph(checkpoint)
    np.testing.assert_allclose(embed(published, shuffled(tile)), embed(published, tile), atol=2e-5)
    assert np.abs(embed(expanded, shuffled(tile)) - embed(expanded, tile)).max() > 0.01
    assert published.spec.weights_sha256 != expanded.spec.weights_sha256


def test_the_shared_table_reaches_every_block(checkpoint):
    table = seeded_state()["backbone.rel_pos_bias.relative_position_bias_table"]
    for block in load_beph(checkpoint).model.trunk.blocks:
        assert torch.equal(block.attn.relative_position_bias_table, table)


def test_normalisation_follows_the_variant_and_may_be_overridden(checkpoint):
    histology, imagenet = NORMALISATIONS["histology"], NORMALISATIONS["imagenet"]
    assert load_beph(checkpoint).spec.mean == histology.mean
    assert load_beph(checkpoint, variant="as-published").spec.std == imagenet.std
    assert load_beph(checkpoint, normalised_by="imagenet").spec.mean == imagenet.mean
    with pytest.raises(UsageError, match="choose from histology, "):
        load_beph(checkpoint, normalised_by="macenko")
    with pytest.raises(UsageError, match="choose from expanded, as-published"):
        load_beph(checkpoint, variant="published")


def test_a_dropped_tensor_is_named(load):
    state = seeded_state()
    del state["backbone.layers.1.attn.q_bias"], state["backbone.cls_token"]
    with pytest.raises(
        WeightsMismatch, match=r"2 missing: backbone\.cls_token, backbone\.layers\.1\.attn\.q_bias"
    ):
        load(state)


@pytest.mark.parametrize(
    "name", ["backbone.layers.1.attn.k_bias", "backbone.pos_embed", "neck.fc.weight", "cls_token"]
)
def test_an_extra_tensor_is_named(load, name):
    with pytest.raises(WeightsMismatch, match=f"1 unexpected: {name}"):
        load(seeded_state() | {name: torch.zeros(DIM)})


def test_a_wrong_shape_is_named(load):
    state = seeded_state() | {"backbone.layers.0.ln2.weight": torch.ones(DIM + 1)}
    with pytest.raises(
        WeightsMismatch, match=r"1 wrong: backbone\.layers\.0\.ln2\.weight \(33,\) instead of \(32,\)"
    ):
        load(state)


def test_a_table_that_fits_no_grid_is_refused(load):
    key = "backbone.rel_pos_bias.relative_position_bias_table"
    with pytest.raises(WeightsMismatch, match="fits no square grid"):
        load(seeded_state() | {key: torch.zeros(30, 2)})


def test_another_order_of_positions_is_refused(load):
    state = seeded_state()
    index = state["backbone.rel_pos_bias.relative_position_index"].clone()
    index[1, 2], index[2, 1] = index[2, 1].clone(), index[1, 2].clone()
    with pytest.raises(WeightsMismatch, match="orders the positions in another way"):
        load(state | {"backbone.rel_pos_bias.relative_position_index": index})


def test_values_that_are_not_finite_are_refused(load):
    state = seeded_state()
    state["backbone.layers.0.gamma_1"][3] = float("nan")
    with pytest.raises(WeightsMismatch, match=r"not finite, in blocks\.0\.gamma_1"):
        load(state)


class _Trap:
    def __reduce__(self):
        return (open, ("trap-was-sprung", "w"))


@pytest.mark.parametrize("wrap", [lambda t: {"state_dict": {"backbone.cls_token": t}}, lambda t: t])
def test_a_pickled_object_is_refused_and_not_run(tmp_path, monkeypatch, wrap):
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(_Trap()), tmp_path / "trap.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(_Trap()))
    for name in ("trap.pth", "bare.pth"):
        with pytest.raises(WeightsMismatch, match="Python objects"):
            load_beph(tmp_path / name)
    assert not (tmp_path / "trap-was-sprung").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(64)])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(WeightsMismatch):
        load_beph(tmp_path / "odd.pth")
    with pytest.raises(WeightsMismatch, match="no weights file"):
        load_beph(tmp_path / "absent.pth")


def test_a_checkpoint_of_another_model_is_refused(load):
    with pytest.raises(WeightsMismatch, match="not in BEPH's layout"):
        load({"backbone.conv1.weight": torch.zeros(8, 3, 7, 7)})


def test_safetensors_is_read_and_names_the_same_weights(tmp_path, checkpoint):
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in seeded_state().items()}, tmp_path / "tiny.safetensors")
    assert load_beph(tmp_path / "tiny.safetensors").spec == load_beph(checkpoint).spec


def test_a_fine_tuned_file_keeps_its_own_tables_and_norm_and_loses_its_head(load, tile):
    state = seeded_state(5, fine_tuned=True)
    loaded = load(state)
    assert loaded.dropped == ("head.fc.bias", "head.fc.weight")
    for i, block in enumerate(loaded.model.trunk.blocks):
        table = state[f"backbone.layers.{i}.attn.relative_position_bias_table"]
        assert torch.equal(block.attn.relative_position_bias_table, table)
    plain = load({k: v for k, v in state.items() if not k.startswith("backbone.ln2")})
    scaled = embed(plain, tile) * state["backbone.ln2.weight"].numpy() + state["backbone.ln2.bias"].numpy()
    np.testing.assert_allclose(embed(loaded, tile), scaled, atol=1e-5)
    with pytest.raises(UsageError, match="use 'expanded'"):
        load(state, variant="as-published")


def test_a_tensor_changes_the_hash_and_its_container_does_not():
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    assert tensors_sha256(state) == tensors_sha256(dict(reversed(state.items())))
    assert tensors_sha256(state) != tensors_sha256(state | {"a": torch.arange(3.0) + 1e-6})
    assert tensors_sha256(state) != tensors_sha256(state | {"b": torch.ones(4)})


def test_an_unknown_name_is_answered_with_a_guess():
    with pytest.raises(UnknownEncoder, match=r"did you mean beph-mini\?"):
        encoder_entry("beph-mni")


@pytest.mark.parametrize("variant", ["as-published", "expanded"])
@pytest.mark.parametrize("statistics", ["imagenet", "histology"])
def test_embeddings_agree_with_openmmlab(realdata, variant, statistics):
    folder = realdata / FIXTURE
    reference = np.load(folder / "mm_tiny_reference.npz")
    loaded = load_beph(folder / "mm_tiny_backbone.pth", variant=variant, normalised_by=statistics)
    suffix = "_histonorm" if statistics == "histology" else ""
    expected = reference[f"emb_{variant.replace('-', '_')}{suffix}"].reshape(1, -1)
    np.testing.assert_allclose(embed(loaded, reference["image"][None]), expected, atol=1e-5, rtol=0)


def test_a_fine_tuned_embedding_agrees_with_openmmlab(realdata):
    folder = realdata / FIXTURE / "optional"
    reference = np.load(folder / "mm_tiny_finetuned_reference.npz")
    loaded = load_beph(folder / "mm_tiny_finetuned.pth")
    names = {name: reference[name].shape for name in reference.files}
    (key,) = [n for n in names if n.startswith("emb")]
    image = (
        reference["image"] if "image" in names else np.load(folder.parent / "mm_tiny_reference.npz")["image"]
    )
    np.testing.assert_allclose(embed(loaded, image[None]), reference[key].reshape(1, -1), atol=1e-5, rtol=0)


def test_every_key_of_the_full_size_file_has_a_place(realdata):
    """The 186 keys of BEPH's file map one to one onto a ViT-B, shapes included, without its weights."""
    from beph_store.encoders.torch_side import beph

    rows = [
        line.split("\t")
        for line in (realdata / FIXTURE / "beph_backbone_keys.tsv").read_text().splitlines()[1:]
    ]
    present = [row for row in rows if not row[0].startswith("(absent")]
    shapes = {row[0].removeprefix("backbone."): tuple(map(int, row[1].split("x"))) for row in present}
    assert len(shapes) == 186
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    arch = beph.infer_architecture(tensors, realdata)
    assert arch == beph.Architecture(dim=768, depth=12, heads=12, mlp=3072, patch=16, tile_px=224)
    trunk = beph.make_trunk(arch)
    tensors["rel_pos_bias.relative_position_index"] = trunk.blocks[0].attn.relative_position_index
    beph._check_indices(tensors, trunk, realdata)
    state = beph._map(tensors, trunk, arch, realdata)
    assert set(state) == {k for k in trunk.state_dict() if not k.endswith("relative_position_index")}
