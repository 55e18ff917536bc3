"""Small parts for the tests of this room."""

import torch
from timm.models.beit import Beit
from torch import nn

from beph_store.pretrain.data import ViewSpec
from beph_store.pretrain.loop import LoopSpec
from beph_store.pretrain.masking import MaskSpec
from beph_store.pretrain.session import Plan
from beph_store.pretrain.tokenizer import TokenizerSpec

SIDE, GRID, DIM = 64, 4, 32


def trunk(absolute=False, depth=2, seed=0):
    torch.manual_seed(seed)
    net = Beit(
        img_size=SIDE,
        embed_dim=DIM,
        depth=depth,
        num_heads=2,
        num_classes=0,
        init_values=0.1,
        use_abs_pos_emb=absolute,
        use_shared_rel_pos_bias=not absolute,
    )
    net.fc_norm = nn.Identity()
    return net


class Colours(nn.Module):
    """A teacher that tells mean and spread of colour of each cell: (B, 16, 6), roughly standardised."""

    dim = 6

    def forward(self, pixels):
        cells = pixels.float().unfold(2, 16, 16).unfold(3, 16, 16).flatten(4)
        told = torch.cat((cells.mean(-1), cells.std(-1)), 1).flatten(2).transpose(1, 2)
        return (told - 90) / 60


def plan(**changes):
    loop = LoopSpec(steps=12, lr=2e-3, warmup=2, log_every=2, save_every=4)
    given = {
        "tokenizer": TokenizerSpec(codes=16, code_dim=8, decoder=1),
        "tokenizer_loop": loop,
        "masked_loop": loop,
        "view": ViewSpec(SIDE),
        "mask": MaskSpec(GRID, 6, 2),
        "mean": (160.0, 120.0, 150.0),
        "std": (40.0, 40.0, 40.0),
        "batch": 8,
        "workers": 0,
    }
    return Plan(**(given | changes))
