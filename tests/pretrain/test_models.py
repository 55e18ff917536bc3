import pytest
import torch
from torch.nn import functional

from beph_store.pretrain.mim import MaskedModel, MimSpec, middle_of, pool
from beph_store.pretrain.tokenizer import Tokenizer, TokenizerSpec
from beph_store.pretrain.trunk import tokens_of, unfuse

from .parts import DIM, GRID, SIDE, Colours, trunk


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_the_walk_is_the_trunks_own_forward(pixels):
    for net in (trunk(), trunk(absolute=True)):
        net.eval()
        torch.testing.assert_close(tokens_of(net, pixels), net.forward_features(pixels))


def test_the_depth_of_beph_gives_its_ninth_block():
    assert middle_of(12) == 8
    assert middle_of(2) == 1
    assert middle_of(1) == 0


def test_what_lies_under_the_mask_is_not_seen(pixels):
    model = MaskedModel(trunk(), MimSpec(codes=16, middle=0)).eval()
    mask = torch.zeros(3, GRID * GRID, dtype=torch.bool)
    mask[:, [0, 5]] = True
    codes = torch.randint(16, (3, GRID * GRID))
    other = pixels.clone()
    other[:, :, :16, :16] += 3  # cell 0
    other[:, :, 16:32, 16:32] -= 3  # cell 5
    a, b = model(pixels, mask, codes), model(other, mask, codes)
    torch.testing.assert_close(a["loss"], b["loss"])
    other[:, :, 48:, 48:] += 3  # a cell that is seen
    assert not torch.allclose(a["loss"], model(other, mask, codes)["loss"])


def test_the_loss_is_the_cross_entropy_at_masked_cells_of_both_heads(pixels):
    model = MaskedModel(trunk(), MimSpec(codes=16, middle=0, gather=0)).eval()
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[:, 2] = True
    codes = torch.randint(16, (3, 16))
    found = model(pixels, mask, codes)
    x = model.trunk.patch_embed(pixels)
    x[:, 2] = model.mask_token[0]
    x = torch.cat((model.trunk.cls_token.expand(3, -1, -1), x), 1)
    bias = model.trunk.rel_pos_bias()
    for block in model.trunk.blocks:
        x = block(x, shared_rel_pos_bias=bias)
    logits = model.head(model.norm(x[:, 3]))
    torch.testing.assert_close(found["loss"], functional.cross_entropy(logits, codes[:, 2]))
    assert "gathered" not in found


def test_every_parameter_that_is_trained_gets_a_gradient(pixels):
    model = MaskedModel(trunk(), MimSpec(codes=16, middle=0, distil=1.0, taught=6))
    unfuse(model)
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[:, :6] = True
    model(pixels, mask, torch.randint(16, (3, 16)), torch.randn(3, 16, 6))["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_a_known_mask_token_is_kept():
    net = trunk()
    net.register_buffer("mask_token", torch.full((1, 1, DIM), 0.5), persistent=False)
    assert (MaskedModel(net, MimSpec(codes=4)).mask_token == 0.5).all()


def test_the_pool_is_mean_and_spread():
    tokens = torch.randn(2, 9, 4)
    mean, spread = pool(tokens).split(4, 1)
    torch.testing.assert_close(mean, functional.layer_norm(tokens.mean(1), [4]))
    torch.testing.assert_close(spread, functional.layer_norm(tokens.std(1), [4]))


def test_the_tokenizer_passes_gradients_straight_through_the_codes(pixels):
    model = Tokenizer(trunk(absolute=True), Colours.dim, TokenizerSpec(codes=16, code_dim=8, decoder=1))
    unfuse(model)
    found = model(pixels, torch.randn(3, 16, 6))
    found["distil"].backward(retain_graph=True)
    assert model.squeeze[2].weight.grad.abs().max() > 0
    assert found["index"].shape == (3, 16)
    torch.testing.assert_close(found["z"].norm(dim=1), torch.ones(48))
    model.zero_grad()
    found["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_codes_told_are_the_nearest_of_the_places(pixels):
    model = Tokenizer(trunk(absolute=True), 6, TokenizerSpec(codes=16, code_dim=8, decoder=1)).eval()
    told = model.tell(pixels)
    z = model.place(pixels)
    assert torch.equal(told, (z @ model.codebook.codes.T).argmax(-1))
