import numpy as np
import pytest
import torch

from beph_store.errors import UsageError
from beph_store.pretrain.data import Feed, ViewSpec, batches, rows_of, view
from beph_store.pretrain.masking import MaskSpec

VIEW, MASK = ViewSpec(side=32), MaskSpec(grid=4, count=6, smallest=2)


def feed(**changes):
    return Feed(**({"batch": 8, "seed": 3, "view": VIEW, "mask": MASK} | changes))


def test_a_step_is_the_same_whatever_came_before(drawn):
    long = list(batches(drawn, feed(), range(5), 0))
    late = list(batches(drawn, feed(), range(3, 5), 0))
    for a, b in zip(long[3:], late, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.mask, b.mask)
    assert long[0].pixels.shape == (8, 3, 32, 32)
    assert long[0].pixels.dtype == torch.uint8
    assert long[0].mask.sum(1).tolist() == [6] * 8


def test_workers_change_nothing(drawn):
    alone = list(batches(drawn, feed(), range(2), 0))
    helped = list(batches(drawn, feed(), range(2), 2))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(alone, helped, strict=True))


def test_two_processes_share_the_batch_of_one(drawn):
    one = next(batches(drawn, feed(), range(1), 0))
    two = [next(batches(drawn, feed(rank=r, world=2), range(1), 0)) for r in (0, 1)]
    assert torch.equal(one.pixels, torch.cat([b.pixels for b in two]))
    assert torch.equal(one.mask, torch.cat([b.mask for b in two]))


def test_an_epoch_sees_every_tile_once():
    seen = np.concatenate([rows_of(step, 24, feed()) for step in range(3)])
    assert sorted(seen) == list(range(24))
    again = np.concatenate([rows_of(step, 24, feed()) for step in range(3, 6)])
    assert sorted(again) == list(range(24))
    assert (seen != again).any()


def test_a_whole_tile_is_turned_only():
    tile = torch.arange(3 * 16, dtype=torch.uint8).view(3, 4, 4)
    spec = ViewSpec(side=4, scale=1.0, jitter=0.0)
    seen = {tuple(view(tile, spec, np.random.default_rng(seed)).flatten().tolist()) for seed in range(60)}
    assert len(seen) == 8  # the symmetries of the square
    assert all(sorted(one) == list(range(48)) for one in seen)


def test_crops_and_colours_vary():
    tile = torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8)
    a, b = (view(tile, VIEW, np.random.default_rng(seed)) for seed in (0, 1))
    assert a.shape == b.shape == (3, 32, 32)
    assert not torch.equal(a, b)


def test_too_few_tiles_and_uneven_processes_are_refused(drawn):
    with pytest.raises(UsageError, match="fewer than one batch of 64"):
        next(batches(drawn, feed(batch=64), range(1), 0))
    with pytest.raises(UsageError, match="does not divide over 3"):
        feed(world=3)
