"""Trunks to be trained: from BEPH's layout and timm's, and back."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from beph_store.encoders.torch_side import trunks
from beph_store.encoders.torch_side.beph import INDEX, load_beph
from beph_store.errors import UsageError, WeightsMismatch

from .conftest import DEPTH, DIM, HEADS, TILE, save, seeded_state


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, TILE, TILE, generator=torch.Generator().manual_seed(0))


def test_a_trunk_of_beph_sees_what_the_encoder_sees(checkpoint, pixels):
    trunk, size = trunks.trunk_from_beph(checkpoint)
    assert size == trunks.Size(DIM, DEPTH, HEADS, TILE, 2.0)
    theirs = load_beph(checkpoint).model.trunk
    with torch.inference_mode():
        torch.testing.assert_close(trunk.eval().forward_features(pixels), theirs.forward_features(pixels))
    assert torch.equal(trunk.mask_token, seeded_state()["backbone.mask_token"])


def test_its_checkpoint_is_the_file_it_came_from(checkpoint, tmp_path):
    trunk, _ = trunks.trunk_from_beph(checkpoint)
    trunks.save(trunk, trunk.mask_token, tmp_path / "out.pth")
    ours, theirs = (load_beph(path).spec.weights_sha256 for path in (tmp_path / "out.pth", checkpoint))
    assert ours == theirs


def test_a_fine_tuned_file_is_refused(tmp_path):
    path = save(tmp_path / "tuned.pth", seeded_state(fine_tuned=True))
    with pytest.raises(UsageError, match="it was fine-tuned"):
        trunks.trunk_from_beph(path)


def test_timms_tables_become_one_their_mean(tmp_path, monkeypatch):
    small = trunks.Size(DIM, DEPTH, HEADS, TILE)
    monkeypatch.setattr(trunks, "SIZES", {"base": small})
    source = timm.create_model(
        "beitv2_base_patch16_224",
        img_size=TILE,
        embed_dim=DIM,
        depth=DEPTH,
        num_heads=HEADS,
        num_classes=5,
    )
    for block in source.blocks:
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
    state = {k: v.contiguous() for k, v in source.state_dict().items() if not k.endswith(INDEX)}
    save_file(state, tmp_path / "timm.safetensors")
    trunk, size = trunks.trunk_from_timm(tmp_path / "timm.safetensors")
    assert size == small
    tables = [block.attn.relative_position_bias_table for block in source.blocks]
    torch.testing.assert_close(trunk.rel_pos_bias.relative_position_bias_table, torch.stack(tables).mean(0))
    assert torch.equal(trunk.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    del state["blocks.0.norm1.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(WeightsMismatch, match=r"1 missing: blocks\.0\.norm1\.weight"):
        trunks.trunk_from_timm(tmp_path / "short.safetensors")


def test_the_tokenizers_encoder_has_absolute_positions(checkpoint):
    prepared = trunks.prepare(None, "beph", checkpoint, 0)
    assert prepared.grid == TILE // 16
    assert prepared.encoder.pos_embed is not None
    assert prepared.encoder.rel_pos_bias is None


def test_the_hybrid_goes_on_from_the_one_that_ships():
    from beph_store.encoders.torch_side.mini import load_mini_bundle

    loaded = load_mini_bundle()
    sample = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    prepared = trunks.prepare_hybrid("beph-mini", loaded, sample, 0)
    assert trunks.is_hybrid(prepared.trunk)
    frozen = [n for n, p in prepared.trunk.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("patch_embed.") for name in frozen)
    tiles = torch.randint(0, 255, (2, 224, 224, 3), dtype=torch.uint8).numpy()
    vectors = trunks.embedder(prepared)(tiles)
    assert vectors.shape == (2, 512)
