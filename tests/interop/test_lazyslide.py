"""LazySlide itself opens what we export: its reader of the slide, our tiles, tissues and vectors.

It runs where lazyslide is installed, or where BEPH_STORE_LAZYSLIDE names the Python of an environment that has it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beph_store.interop import format_named
from beph_store.interop.outlines import pieces
from beph_store.records import TissueMask
from beph_store.slides import open_slide
from beph_store.tissue import find_tissue

from .test_frames_formats import features

_HAVE = importlib.util.find_spec("lazyslide") is not None
PYTHON = sys.executable if _HAVE else os.environ.get("BEPH_STORE_LAZYSLIDE")

LOOK = """
import json, sys, warnings
warnings.simplefilter("ignore")
import lazyslide as zs
from wsidata import open_wsi
slide = open_wsi(sys.argv[1], store=sys.argv[2])
spec, data = slide.tile_spec("tiles"), slide.fetch.features_anndata("toy")
image = next(iter(slide.iter.tile_images("tiles")))
zs.tl.feature_aggregation(slide, "toy", encoder="mean")
data.write_h5ad(sys.argv[3])
slide.write()
print(json.dumps({
    "tile": [spec.width, spec.height, spec.base_width, spec.base_stride_width, spec.mpp],
    "mpp": slide.properties.mpp,
    "shape": [len(data), data.X.shape[1]],
    "vectors": data.X.tolist(),
    "corners": data.obsm["spatial"].tolist(),
    "valid": [bool(slide.shapes[k].is_valid.all()) for k in ("tiles", "tissues")],
    "area": [float(slide.shapes[k].area.sum()) for k in ("tiles", "tissues")],
    "tissues": sorted(slide.shapes["tissues"]["tissue_id"].tolist()),
    "image": list(image.image.shape),
    "mean": slide.tables["toy_tiles"].varm["agg_slide"].reshape(-1).tolist(),
}))
"""


@pytest.mark.skipif(
    PYTHON is None, reason="no lazyslide: install it, or set BEPH_STORE_LAZYSLIDE to a Python that has it"
)
def test_lazyslide_opens_and_goes_on_with_an_export(drawn_slide, tmp_path: Path) -> None:
    with open_slide(drawn_slide.path) as slide:
        overview, mpp_x, mpp_y = slide.overview(8.0)
        found = find_tissue(overview, mpp_x, mpp_y, "otsu-saturation")
        mask, size, mpp = found.mask, slide.info.size_l0, slide.info.mpp
    assert mask.any()
    origin = np.array(
        [(x, y) for y in range(0, size[1] - 448, 448) for x in range(0, size[0] - 448, 448)], np.int32
    )
    n = len(origin)
    vectors = np.random.default_rng(0).normal(size=(n, 12)).astype(np.float16)
    sent = features(
        "drawn",
        3,
        vectors=vectors,
        origin_l0=origin,
        size_l0=size,
        mpp_l0=mpp,
        mpp=1.0,
        tissue=None,
        attributes={"tissue_mask": TissueMask(mask, mpp_x, mpp_y, "otsu-saturation")},
    )
    format_named("wsidata").write(tmp_path, sent)
    command = [str(PYTHON), "-c", LOOK, str(drawn_slide.path), str(tmp_path), str(tmp_path / "data.h5ad")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["tile"] == [224, 224, 448, 448, 1.0]
    assert seen["mpp"] == mpp
    assert seen["shape"] == [n, 12]
    np.testing.assert_array_equal(seen["vectors"], vectors.astype(np.float32))
    np.testing.assert_array_equal(seen["corners"], origin)
    assert seen["valid"] == [True, True]
    assert seen["area"][0] == n * 448 * 448
    assert seen["area"][1] == pytest.approx(mask.mean() * size[0] * size[1])
    assert seen["tissues"] == list(range(pieces(mask)[1]))
    assert seen["image"] == [224, 224, 3]
    np.testing.assert_allclose(seen["mean"], vectors.astype(np.float32).mean(axis=0), atol=1e-5)
    # What it wrote over ours, and the AnnData that it made of it, come back.
    for kind, path in (("wsidata", tmp_path / "drawn.zarr"), ("anndata", tmp_path / "data.h5ad")):
        (one,) = format_named(kind).find(path)
        back = format_named(kind).open(one)
        np.testing.assert_array_equal(back.vectors, vectors.astype(np.float32))
        np.testing.assert_array_equal(back.origin_l0, origin)
        assert (back.footprint_l0, back.mpp, back.mpp_l0, back.size_l0) == (448, 1.0, mpp, size)
