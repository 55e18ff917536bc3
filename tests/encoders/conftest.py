"""A tiny seeded checkpoint in BEPH's key layout, and one bundle exported from it."""

import pytest
import torch

from beph_store.encoders.torch_side.export import export_bundle

DIM, DEPTH, HEADS, MLP, PATCH, GRID = 32, 2, 2, 64, 16, 3
TILE = GRID * PATCH
ROWS = (2 * GRID - 1) ** 2 + 3


def relative_index(grid: int = GRID) -> torch.Tensor:
    """The index as BEiT defines it, written out: row-major offsets, then cls→token, token→cls, cls→cls."""
    n, side = grid * grid, 2 * grid - 1
    index = torch.empty(n + 1, n + 1, dtype=torch.int64)
    for i in range(n):
        for j in range(n):
            dy, dx = i // grid - j // grid + grid - 1, i % grid - j % grid + grid - 1
            index[i + 1, j + 1] = dy * side + dx
    index[0, :], index[:, 0], index[0, 0] = side * side, side * side + 1, side * side + 2
    return index


def seeded_state(seed: int = 0, *, fine_tuned: bool = False) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape, scale=0.3):
        return torch.randn(*shape, generator=generator) * scale

    state = {
        "cls_token": noise(1, 1, DIM),
        "patch_embed.projection.weight": noise(DIM, 3, PATCH, PATCH, scale=0.05),
        "patch_embed.projection.bias": noise(DIM),
    }
    if not fine_tuned:
        state["mask_token"] = noise(1, 1, DIM)
        state["rel_pos_bias.relative_position_bias_table"] = noise(ROWS, HEADS, scale=2.0)
        state["rel_pos_bias.relative_position_index"] = relative_index()
    for i in range(DEPTH):
        block = {
            "gamma_1": noise(DIM) + 1,
            "gamma_2": noise(DIM) + 1,
            "ln1.weight": noise(DIM) + 1,
            "ln1.bias": noise(DIM),
            "attn.q_bias": noise(DIM),
            "attn.v_bias": noise(DIM),
            "attn.qkv.weight": noise(3 * DIM, DIM),
            "attn.proj.weight": noise(DIM, DIM),
            "attn.proj.bias": noise(DIM),
            "ln2.weight": noise(DIM) + 1,
            "ln2.bias": noise(DIM),
            "ffn.layers.0.0.weight": noise(MLP, DIM),
            "ffn.layers.0.0.bias": noise(MLP),
            "ffn.layers.1.weight": noise(DIM, MLP),
            "ffn.layers.1.bias": noise(DIM),
        }
        if fine_tuned:
            block["attn.relative_position_bias_table"] = noise(ROWS, HEADS, scale=2.0)
            block["attn.relative_position_index"] = relative_index()
        state |= {f"layers.{i}.{k}": v for k, v in block.items()}
    if fine_tuned:
        state |= {"ln2.weight": noise(DIM) + 1, "ln2.bias": noise(DIM)}
    named = {f"backbone.{k}": v for k, v in state.items()}
    if fine_tuned:
        named |= {"head.fc.weight": noise(2, DIM), "head.fc.bias": noise(2)}
    return named


def save(path, state):
    torch.save({"state_dict": state, "author": "nobody"}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("checkpoint") / "tiny.pth", seeded_state())


@pytest.fixture(scope="session")
def exported(tmp_path_factory, checkpoint):
    """(bundle, dropped) of the tiny checkpoint, with its fp16 twin. Read only."""
    return export_bundle("beph", tmp_path_factory.mktemp("exported") / "tiny", weights=checkpoint)
