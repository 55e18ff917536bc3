"""What reading costs besides time."""

import sys

import pytest


def test_the_room_is_light_to_import(run_python):
    heavy = "openslide, tifffile, imagecodecs, simplejpeg, pydicom, PIL, scipy"
    code = f"import sys, beph_store.slides; print([m for m in {heavy.split(', ')!r} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


WRITE = """
import sys, numpy as np
from beph_store.testing.tiff import Coding, TiledTiff
rng = np.random.default_rng(0)
with TiledTiff(sys.argv[1], 0.5) as tiff:
    level = tiff.add_level((20000, 20000), Coding())
    tile = (np.kron(rng.integers(120, 255, (32, 32, 3)), np.ones((8, 8, 1)))).astype(np.uint8)
    tiff.put(level, 0, tile)
    tiff.repeat(level, np.arange(level.across * level.down), 0)
"""
MEASURE = """
import re, sys
from beph_store.slides import open_slide
from beph_store.slides import tiled_jpeg, openslide
import beph_store_kernels
# Not ru_maxrss, which begins with what the process held that started this one.
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
with open_slide(sys.argv[1], prefer=sys.argv[2]) as slide:
    slide.read_level(0, 0, 0, 300, 300)
    before = peak()
    image, x, y = slide.overview()
    assert image.shape == (1250, 1250, 3) and (x, y) == (8.0, 8.0), (image.shape, x, y)
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("backend", ["tiled-jpeg", "openslide"])
def test_overview_of_one_large_level_takes_little_memory(tmp_path, run_python, backend):
    """400 megapixels without a pyramid: 1.2 GB if it were read at once."""
    path = tmp_path / "flat.tif"
    run_python(WRITE, path)
    assert float(run_python(MEASURE, path, backend)) < 200
