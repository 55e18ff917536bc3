import numpy as np
import pytest

from beph_store.errors import UsageError
from beph_store.pretrain.masking import MaskSpec, draw_mask


@pytest.mark.parametrize("seed", range(20))
def test_a_mask_has_exactly_as_many_patches_as_asked(seed):
    assert draw_mask(MaskSpec(), np.random.default_rng(seed)).sum() == 75


def test_masks_come_in_blocks():
    # Scattered patches have about 2 x 14 x 13 x p (1 - p) x 2 edges between masked and not; blocks far fewer.
    edges = []
    for seed in range(50):
        mask = draw_mask(MaskSpec(), np.random.default_rng(seed)).astype(int)
        edges.append(np.abs(np.diff(mask, axis=0)).sum() + np.abs(np.diff(mask, axis=1)).sum())
    p = 75 / 196
    scattered = 2 * 14 * 13 * 2 * p * (1 - p)
    assert np.mean(edges) < scattered / 2


def test_masks_differ_and_cover_everything():
    masks = np.mean([draw_mask(MaskSpec(), np.random.default_rng(seed)) for seed in range(400)], axis=0)
    assert masks.min() > 0.05
    assert masks.max() < 0.8


@pytest.mark.parametrize("count", [0, 196, 300])
def test_all_or_nothing_is_refused(count):
    with pytest.raises(UsageError, match="cannot be masked"):
        MaskSpec(count=count)
