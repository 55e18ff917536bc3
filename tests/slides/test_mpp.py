"""How large a pixel is: from the user, else from the file, never guessed."""

import numpy as np
import pytest
import tifffile

from beph_store.errors import MppImplausible, MppMissing
from beph_store.slides import open_slide
from beph_store.testing.tiff import Coding, TiledTiff
from tests.slides.drawing import dicom

APERIO = "Aperio Image Library v11\r\n300x300 (128x128) JPEG/RGB|AppMag = 40"


def svs(path, description, mpp=None):
    with TiledTiff(path, mpp, description=description) as tiff:
        level = tiff.add_level((300, 300), Coding(), 128)
        for index in range(9):
            tiff.put(level, index, np.full((128, 128, 3), 200, np.uint8))
    return path


def tiff(path, resolution=None, unit="CENTIMETER", **options):
    tags = {} if resolution is None else {"resolution": resolution, "resolutionunit": unit}
    tifffile.imwrite(path, np.zeros((300, 300, 3), np.uint8), photometric="rgb", **tags, **options)
    return path


def test_aperio(tmp_path):
    for number, (text, expected) in enumerate([("|MPP = 0.2527", 0.2527), ("|MPP=0.5|Filename = x", 0.5)]):
        with open_slide(svs(tmp_path / f"{number}.svs", APERIO + text)) as slide:
            assert (slide.info.mpp, slide.info.mpp_source) == (expected, "vendor")


def test_magnification_is_not_a_pixel_size(tmp_path):
    with pytest.raises(MppMissing, match="--slide-mpp"):
        open_slide(svs(tmp_path / "a.svs", APERIO))


def test_the_vendors_word_goes_before_the_tags(tmp_path):
    with open_slide(svs(tmp_path / "a.svs", APERIO + "|MPP = 0.25", mpp=0.5)) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.25, "vendor")
    with open_slide(svs(tmp_path / "b.svs", "of no vendor", mpp=0.5)) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.5, "tiff")


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20000, 20000), "CENTIMETER", 0.5),
        ((101600, 101600), "INCH", 0.25),
        ((40000, 39900), "CENTIMETER", 0.25),
    ],
)
def test_resolution_tags(tmp_path, resolution, unit, expected):
    with open_slide(tiff(tmp_path / "a.tif", resolution, unit)) as slide:
        assert slide.info.mpp == pytest.approx(expected, rel=2e-3)
        assert slide.info.mpp_source == "tiff"


@pytest.mark.parametrize(
    ("resolution", "unit"),
    [((d, d), "INCH") for d in (1, 72, 96, 150, 300)]
    + [((20000, 20000), "NONE"), (None, None), ((0, 0), "INCH")],
)
@pytest.mark.parametrize("tile", [(128, 128), None])
def test_a_printers_resolution_is_no_answer(tmp_path, resolution, unit, tile):
    """Neither to the direct reader nor to OpenSlide, which passes 352 µm on."""
    options = {"tile": tile, "compression": "zlib"}
    path = tiff(tmp_path / "a.tif", resolution, unit, **options)
    with pytest.raises(MppMissing, match="--slide-mpp") as caught:
        open_slide(path, slide_id="a")
    assert (caught.value.slide_id, caught.value.path) == ("a", str(path))
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.5, "declared")


def test_pixels_that_are_not_square(tmp_path):
    path = tiff(tmp_path / "a.tif", (20000, 40000))
    with pytest.raises(MppImplausible, match="not square") as caught:
        open_slide(path, slide_id="a")
    assert caught.value.slide_id == "a"
    with pytest.raises(MppImplausible, match="not square"):
        open_slide(path, mpp=(0.5, 0.25))
    with open_slide(path, mpp=(0.5, 0.504)) as slide:
        assert (slide.info.mpp_x, slide.info.mpp_y) == (0.5, 0.504)


@pytest.mark.parametrize("value", ["2.3e-06", "500"])
def test_a_vendors_absurd_word_is_refused_not_replaced(tmp_path, value):
    with pytest.raises(MppImplausible, match="outside"):
        open_slide(svs(tmp_path / "a.svs", f"{APERIO}|MPP = {value}"))


@pytest.mark.parametrize("value", ["0", "", "unknown", "-", "inf"])
def test_a_vendors_empty_word_is_no_answer(tmp_path, value):
    with pytest.raises(MppMissing):
        open_slide(svs(tmp_path / "a.svs", f"{APERIO}|MPP = {value}"))


@pytest.mark.parametrize("value", [-1.0, 1e-9, 1e9, float("inf"), float("nan")])
def test_a_declared_absurdity(tmp_path, value):
    with pytest.raises(MppImplausible):
        open_slide(tiff(tmp_path / "a.tif"), mpp=value)


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [(0.25, "µm", 0.25), (250, "nm", 0.25), (0.00025, "mm", 0.25), (0.25, None, 0.25)],
)
def test_ome(tmp_path, size, unit, expected):
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.zeros((200, 200, 3), np.uint8), photometric="rgb", metadata=metadata
    )
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (pytest.approx(expected), "ome")


def test_ome_text_is_not_expanded(tmp_path):
    """A billion laughs stay unread: the text is searched, not parsed."""
    bomb = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><OME>&c;<Pixels PhysicalSizeX="0.5"/></OME>'
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((99, 99, 3), np.uint8), photometric="rgb", description=bomb)
    with pytest.raises(MppMissing):
        open_slide(tmp_path / "a.tif")


def test_dicom(tmp_path):
    image = np.zeros((200, 200, 3), np.uint8)
    with open_slide(dicom(tmp_path / "a.dcm", image, mpp=0.25)) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (pytest.approx(0.25), "dicom")
    dicom(tmp_path / "b" / "c.dcm", image, mpp=None) if (tmp_path / "b").mkdir() is None else None
    with pytest.raises(MppMissing):
        open_slide(tmp_path / "b" / "c.dcm")
