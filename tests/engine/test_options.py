"""The feature space that the options name, and what to pass instead of a tile that the encoder does not take."""

from __future__ import annotations

import pytest

from beph_store.encoders import load_bundle
from beph_store.engine.options import IngestOptions, make_recipe
from beph_store.errors import UsageError


@pytest.fixture(scope="module")
def bundle():
    return load_bundle("beph-mini")


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"tile_px": 256, "mpp": 0.5}, "128 µm of tissue pass --mpp 0.5714 and no --tile-px"),
        ({"tile_px": 256, "mpp": 0.5, "stride_px": 192}, "pass --mpp 0.5714 --stride-px 168 and no"),
        ({"tile_px": 512}, "256 µm of tissue pass --mpp 1.143"),
    ],
)
def test_another_side_is_refused_with_the_scale_that_shows_the_same_tissue(bundle, options, cure) -> None:
    with pytest.raises(UsageError, match=cure):
        make_recipe(bundle, IngestOptions(**options))


def test_the_scale_that_was_offered_covers_the_same_tissue(bundle) -> None:
    tile = make_recipe(bundle, IngestOptions(mpp=0.5714, stride_px=168)).tile
    assert tile.tile_px * tile.mpp == pytest.approx(256 * 0.5, rel=1e-3)
    assert tile.stride_px * tile.mpp == pytest.approx(192 * 0.5, rel=1e-3)


@pytest.mark.parametrize("mpp", [20, 40, 8.1])
def test_a_magnification_is_no_scale(bundle, mpp) -> None:
    with pytest.raises(UsageError, match=rf"--mpp {mpp:g}: .*20x is about 0.5"):
        make_recipe(bundle, IngestOptions(mpp=mpp))
    assert make_recipe(bundle, IngestOptions(mpp=8)).tile.mpp == 8
