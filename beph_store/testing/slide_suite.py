"""What every slide backend must do, as tests to inherit.

    class TestMyFormat(SlideContract):
        backend = "my-format"

        def write(self, folder):
            path = folder / "slide.my"
            ...  # self.size px, self.downsamples, self.pixels(x, y) at level-0 px (x, y), self.mpp
            return path

The picture is a formula, so a region that is read from the wrong place shows as a wrong number.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from beph_store.geometry import Size
from beph_store.records import TileSet, TileSpec
from beph_store.slides import SlideReader, TileReader, fingerprint, open_slide
from beph_store.testing.synthetic import formula_pixels
from beph_store_kernels import resize_area

UInt8 = NDArray[np.uint8]


class SlideContract:
    """Inherit, name the ``backend``, and write a slide.

    ``size`` (width, height) of level 0; ``downsamples`` of all levels, each level sampled (not averaged) at
    multiples of it; ``mpp`` what the file states, None where the format cannot; ``tolerance`` the largest
    difference of a pixel: 0 for lossless formats, which show a finer formula.
    """

    backend: str
    size: Size = (700, 520)
    downsamples: tuple[int, ...] = (1,)
    mpp: float | None = 0.5
    tolerance: int = 0

    def write(self, folder: Path) -> Path:
        """Write the slide, and return what is opened."""
        raise NotImplementedError

    def pixels(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> UInt8:
        """RGB (..., 3) of level-0 px (x, y), which broadcast."""
        if self.tolerance == 0:
            return formula_pixels(*np.broadcast_arrays(x, y))
        x, y = np.broadcast_arrays(x, y)
        smooth = [40 + 160 * x / self.size[0], 40 + 160 * y / self.size[1], 120 + 40 * np.sin(x / 60)]
        return np.stack(smooth, axis=-1).astype(np.uint8)

    def level_pixels(self, level: int, region: tuple[int, int, int, int]) -> UInt8:
        """What (x, y, w, h) of ``level`` shows, white outside the slide."""
        x, y, w, h = region
        step = self.downsamples[level]
        xs, ys = np.arange(x, x + w)[None, :], np.arange(y, y + h)[:, None]
        inside = (xs >= 0) & (ys >= 0) & (xs < self.size[0] // step) & (ys < self.size[1] // step)
        return np.where(inside[..., None], self.pixels(xs * step, ys * step), 255).astype(np.uint8)

    def check(self, slide: SlideReader, level: int, region: tuple[int, int, int, int]) -> None:
        """The region reads as it was drawn."""
        found = slide.read_level(level, *region)
        assert found.shape == (region[3], region[2], 3)
        assert found.dtype == np.uint8
        distance = np.abs(found.astype(np.int16) - self.level_pixels(level, region))
        assert distance.max() <= self.tolerance, (level, region)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """The slide that the class writes."""
        return self.write(tmp_path)

    @pytest.fixture
    def slide(self, path: Path) -> SlideReader:  # type: ignore[misc]  # a generator, as pytest wants it
        """The slide, open."""
        with open_slide(path, slide_id="s", mpp=None if self.mpp else 0.5) as slide:
            yield slide

    def test_what_is_known_of_it(self, slide: SlideReader, path: Path) -> None:
        """Who opened it, its size, levels, scale and fingerprint."""
        info = slide.info
        assert slide.backend == self.backend
        assert info.slide_id == "s"
        assert info.size_l0 == info.level_sizes[0] == self.size
        assert info.level_sizes == tuple((self.size[0] // d, self.size[1] // d) for d in self.downsamples)
        assert np.allclose((info.mpp_x, info.mpp_y), 0.5, rtol=1e-3)
        assert (info.mpp_source == "declared") == (self.mpp is None)
        assert info.fingerprint == fingerprint(path)

    def test_a_declared_scale_goes_first(self, path: Path) -> None:
        """Over whatever the file says."""
        with open_slide(path, mpp=0.3, mpp_source="manifest") as slide:
            assert (slide.info.mpp, slide.info.mpp_source) == (0.3, "manifest")

    def test_every_region_is_where_it_says(self, slide: SlideReader) -> None:
        """All of each level, its corners, and places across every kind of border."""
        rng = np.random.default_rng(1)
        for level, (width, height) in enumerate(slide.info.level_sizes):
            self.check(slide, level, (0, 0, width, height))
            self.check(slide, level, (width - 1, height - 1, 1, 1))
            for _ in range(20):
                w, h = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
                x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                self.check(slide, level, (x, y, w, h))

    def test_outside_is_white(self, slide: SlideReader) -> None:
        """Left, above, right, below, all around, and far away."""
        width, height = slide.info.level_sizes[-1]
        level = len(slide.info.level_sizes) - 1
        for region in [
            (-7, 3, 20, 20),
            (3, -7, 20, 20),
            (width - 5, height - 9, 20, 20),
            (-4, -4, width + 8, height + 8),
            (width, 0, 3, 3),
            (-5000, 9000, 4, 4),
        ]:
            self.check(slide, level, region)

    def test_refuses_what_is_no_region(self, slide: SlideReader) -> None:
        """A level that is not there, an empty region."""
        for arguments in [(len(self.downsamples), 0, 0, 1, 1), (-1, 0, 0, 1, 1), (0, 0, 0, 0, 5)]:
            with pytest.raises(ValueError, match=r"level|region"):
                slide.read_level(*arguments)

    def test_overview_covers_the_slide(self, slide: SlideReader) -> None:
        """The scale it says times its size is the slide's extent; its colours are the slide's."""
        for mpp, longest in [(8.0, 4096), (2.0, 4096), (0.5, 64)]:
            image, mpp_x, mpp_y = slide.overview(mpp, longest)
            assert max(image.shape[:2]) <= longest
            for axis, scale in ((0, mpp_y), (1, mpp_x)):
                extent = self.size[1 - axis] * 0.5
                assert extent - scale <= image.shape[axis] * scale <= extent + scale * 1.01
            whole = slide.read_level(0, 0, 0, *self.size)
            assert np.allclose(image.mean((0, 1)), whole.mean((0, 1)), atol=12)

    @pytest.mark.parametrize(("mpp", "side"), [(0.5, 64), (0.8, 102)])
    def test_tiles(self, slide: SlideReader, mpp: float, side: int) -> None:
        """At level 0 and at a scale between levels; each macro-tile decoded once."""
        grid = np.stack(np.meshgrid(np.arange(0, 500, 80), np.arange(0, 400, 80)), -1).reshape(-1, 2)
        spec, whole = TileSpec(64, mpp, 50, 0.0, "none"), np.ones(len(grid), np.float32)
        reader = TileReader(slide, TileSet("s", spec, grid.astype(np.int32), side, whole))
        order = reader.order()
        assert sorted(order) == list(range(len(grid)))
        out = np.zeros((len(grid), 64, 64, 3), np.uint8)
        assert reader.read(order, out).all()
        assert not reader.errors
        assert slide.decodes == slide.distinct
        for index, pixels in zip(order, out, strict=True):
            x, y = grid[index].tolist()
            expected = slide.read_level(0, x, y, side, side)
            assert np.array_equal(pixels, resize_area(expected, (64, 64)))

    def test_threads_agree(self, slide: SlideReader) -> None:
        """Eight threads read the same regions of one reader."""
        regions = [(0, x, y, 90, 90) for x in range(0, 500, 70) for y in range(0, 400, 70)]
        alone = [slide.read_level(*region) for region in regions]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda region: slide.read_level(*region), regions * 3))
        assert all(np.array_equal(a, b) for a, b in zip(alone * 3, together, strict=True))

    def test_closes(self, path: Path) -> None:
        """Once, twice, and as a context."""
        slide = open_slide(path, mpp=0.5)
        slide.close()
        slide.close()
        with pytest.raises(ValueError, match="closed"):
            slide.read_level(0, 0, 0, 1, 1)
