"""Outlines of masks: they enclose exactly the mask's pixels, no border meets itself, and each tile knows its piece."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from beph_store.interop.outlines import outlines, piece_of_tiles, pieces
from beph_store.interop.regions import contains, crossing, signed_area


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_outlines_hold_the_pixels_of_the_mask_and_nothing_else(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((24, 31)) < share
    drawn = outlines(mask, (310, 240))
    labels, count = ndimage.label(mask)
    assert len(drawn) == count
    y, x = np.indices(mask.shape)
    middles = np.stack([x.ravel(), y.ravel()], 1) * 10.0 + 5
    for number, polygon in enumerate(drawn, 1):
        assert (contains(polygon, middles) == (labels == number).ravel()).all()
        area = abs(signed_area(polygon[0])) - sum(abs(signed_area(hole)) for hole in polygon[1:])
        assert area == (labels == number).sum() * 100
        assert crossing(polygon) is None
        for ring in polygon:
            assert len(np.unique(ring, axis=0)) == len(ring), "a border meets itself"


def test_only_corners_are_kept_and_the_scale_may_be_odd() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:8, 3:9] = True
    ((outline,),) = outlines(mask, (1003, 997))
    assert len(outline) == 4
    np.testing.assert_allclose(outline.min(axis=0), [300.9, 199.4])
    np.testing.assert_allclose(outline.max(axis=0), [902.7, 797.6])
    assert outlines(np.zeros((4, 4), bool), (40, 40)) == []
    ((whole,),) = outlines(np.ones((4, 4), bool), (40, 40))
    assert whole.max() == 40


def test_tiles_belong_to_the_piece_that_covers_most_of_them() -> None:
    mask = np.zeros((10, 20), bool)
    mask[:, :8] = True
    mask[:, 12:] = True
    labels, count = pieces(mask)
    assert count == 2
    origin = np.array([(0, 0), (60, 0), (90, 0), (110, 50), (85, 0), (195, 95)], np.int32)
    assert piece_of_tiles(labels, (200, 100), origin, 30).tolist() == [0, 0, -1, 1, -1, 1]
