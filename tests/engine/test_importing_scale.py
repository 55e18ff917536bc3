"""The side that the encoder saw, said in place of the one that was cut: the step goes with it."""

import pytest

from beph_store.engine.importing import ImportOptions, import_features
from beph_store.store import Store
from tests.interop import layouts


@pytest.mark.parametrize(("kind", "more"), [("trident", {}), ("clam", {"encoder_name": "UNI"})])
def test_tiles_that_were_shrunk_before_the_encoder(tmp_path, kind, more):
    slide = layouts.draw("a", 40)
    getattr(layouts, kind)(tmp_path / "in", slide, **({"pt": False} if kind == "clam" else {}))
    cut = ImportOptions(mpp=0.5, **more)
    seen = ImportOptions(mpp=0.5 * 256 / 224, tile_px=224, **more)
    specs = []
    for name, options in (("cut", cut), ("seen", seen)):
        report = import_features(kind, tmp_path / "in", tmp_path / name, options=options)
        assert not report.failed, report.failed
        store = Store.open(tmp_path / name)
        (row,) = store.rows(store.recipe().recipe.key)
        specs.append((store.recipe().recipe.tile, row, store.slide_rows(row).sha256()))
    (one, first, same), (other, second, again) = specs
    assert (one.tile_px, other.tile_px) == (256, 224)
    assert other.stride_px / other.tile_px == one.stride_px / one.tile_px
    assert (first.footprint_l0, same) == (second.footprint_l0, again)
    assert first.mpp_x == pytest.approx(second.mpp_x)
