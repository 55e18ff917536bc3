"""Every backend runs the contract."""

from typing import ClassVar

import imagecodecs
import numpy as np
import pydicom.uid
import pytest
import tifffile
from PIL import Image

from beph_store.slides import BACKENDS
from beph_store.testing.slide_suite import SlideContract
from beph_store.testing.tiff import Coding, TiledTiff
from tests.slides.drawing import dicom


class Pyramid(SlideContract):
    """Tiled TIFF by the test writer."""

    coding = Coding("jpeg", quality=97, subsampling="444")
    tile_px = 128
    big = False
    description = ""

    def write(self, folder):
        path = folder / "slide.tif"
        with TiledTiff(path, self.mpp, big=self.big, description=self.description) as tiff:
            for index, step in enumerate(self.downsamples):
                size = self.size[0] // step, self.size[1] // step
                level = tiff.add_level(size, self.coding, self.tile_px)
                for tile in range(level.across * level.down):
                    y, x = (i * self.tile_px for i in divmod(tile, level.across))
                    tiff.put(level, tile, self.tile(index, x, y, size))
        return path

    def tile(self, level, x, y, size):
        """Padded by repeating the edge, as scanners do, so that JPEG does not bleed white into the slide."""
        step = self.downsamples[level]
        xs = np.minimum(np.arange(x, x + self.tile_px), size[0] - 1)
        ys = np.minimum(np.arange(y, y + self.tile_px), size[1] - 1)
        return self.pixels(xs[None, :] * step, ys[:, None] * step)


class TestTiledJpeg(Pyramid):
    backend = "tiled-jpeg"
    downsamples = (1, 2, 4)
    tolerance = 6


class TestTiledJpegInRgb(Pyramid):
    backend = "tiled-jpeg"
    coding = Coding("jpeg", quality=97, colour="rgb")
    tolerance = 6


class TestTiledJpegWithTablesInEveryTile(Pyramid):
    backend = "tiled-jpeg"
    coding = Coding("jpeg", quality=97, subsampling="420", tables=False)
    tolerance = 10
    big = True


class TestAperio(Pyramid):
    backend = "tiled-jpeg"
    tolerance = 6
    description = (
        "Aperio Image Library v12\r\n700x520 [0,0 700x520] (128x128) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    )


class TestOpenSlide(Pyramid):
    backend = "openslide"
    coding = Coding("deflate")
    downsamples = (1, 2, 4)


class TestTiffStrips(SlideContract):
    backend = "tiff"

    def write(self, folder):
        path = folder / "slide.tif"
        picture = self.level_pixels(0, (0, 0, *self.size))
        resolution = (1e4 / self.mpp, 1e4 / self.mpp)
        tifffile.imwrite(
            path, picture, photometric="rgb", compression="lzw", rowsperstrip=37, resolution=resolution,
            resolutionunit="CENTIMETER",
        )  # fmt: skip
        return path


class TestTiffOneUncompressedStrip(SlideContract):
    backend = "tiff"
    mpp = None

    def write(self, folder):
        tifffile.imwrite(folder / "slide.tif", self.level_pixels(0, (0, 0, *self.size)), photometric="rgb")
        return folder / "slide.tif"


class TestTiffPlanes(SlideContract):
    """R, G and B in planes of their own."""

    backend = "tiff"
    mpp = None

    def write(self, folder):
        picture = np.moveaxis(self.level_pixels(0, (0, 0, *self.size)), 2, 0)
        tifffile.imwrite(
            folder / "slide.tif", picture, photometric="rgb", planarconfig="separate", compression="zlib",
            rowsperstrip=50,
        )  # fmt: skip
        return folder / "slide.tif"


class TestOmePyramid(SlideContract):
    """Levels in sub-directories."""

    backend = "tiff"
    downsamples = (1, 2, 4)
    compression = "zlib"

    def write(self, folder):
        path = folder / "slide.ome.tif"
        with tifffile.TiffWriter(path, ome=True) as writer:
            options = {"photometric": "rgb", "tile": (128, 128), "compression": self.compression}
            if self.tolerance:
                options |= {"compressionargs": {"level": 97}, "subsampling": (1, 1)}
            metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            for level in range(len(self.downsamples)):
                step = self.downsamples[level]
                picture = self.level_pixels(level, (0, 0, self.size[0] // step, self.size[1] // step))
                if level == 0:
                    writer.write(picture, subifds=len(self.downsamples) - 1, metadata=metadata, **options)
                else:
                    writer.write(picture, subfiletype=1, **options)
        return path


class TestOmePyramidOfJpeg(TestOmePyramid):
    backend = "tiled-jpeg"
    compression = "jpeg"
    size = (768, 512)  # in whole JPEG blocks: the writer pads the outer tiles in black, which would bleed
    tolerance = 6

    def test_what_is_known_of_it(self, slide, path):
        super().test_what_is_known_of_it(slide, path)
        assert slide.info.mpp_source == "ome"


class TestDicom(SlideContract):
    backend = "dicom"
    downsamples = (1, 2, 4)
    options: ClassVar = {}

    def write(self, folder):
        for level, step in enumerate(self.downsamples):
            picture = self.level_pixels(level, (0, 0, self.size[0] // step, self.size[1] // step))
            dicom(folder / f"level{level}.dcm", picture, mpp=0.5 * step, **self.options)
        return folder / "level0.dcm"


class TestDicomJpeg2000(TestDicom):
    downsamples = (1,)
    options: ClassVar = {
        "syntax": pydicom.uid.JPEG2000Lossless,
        "PhotometricInterpretation": "YBR_RCT",
        "encode": lambda frame: bytes(imagecodecs.jpeg2k_encode(frame, level=0, mct=True, codecformat="j2k")),
    }


class TestDicomJpeg(TestDicom):
    size = (768, 480)
    downsamples = (1,)
    tolerance = 6
    options: ClassVar = {
        "syntax": pydicom.uid.JPEGBaseline8Bit,
        "PhotometricInterpretation": "YBR_FULL_422",
        "encode": Coding("jpeg", quality=97, subsampling="444").encode,
    }


class TestImage(SlideContract):
    backend = "image"
    mpp = None

    def write(self, folder):
        Image.fromarray(self.level_pixels(0, (0, 0, *self.size))).save(folder / "slide.png")
        return folder / "slide.png"


def test_every_backend_is_here():
    def below(cls):
        return {cls, *(c for sub in cls.__subclasses__() for c in below(sub))}

    tested = {cls.backend for cls in below(SlideContract) if hasattr(cls, "backend")}
    assert tested == {row.name for row in BACKENDS}


@pytest.mark.parametrize("row", BACKENDS, ids=lambda row: row.name)
def test_a_preferred_backend_is_the_only_one_asked(row, formula_path):
    from beph_store.errors import SlideUnreadable
    from beph_store.slides import open_slide

    if row.name in ("openslide", "tiff"):
        with open_slide(formula_path, prefer=row.name) as slide:
            assert slide.backend == row.name
    else:
        with pytest.raises(SlideUnreadable):
            open_slide(formula_path, prefer=row.name)
