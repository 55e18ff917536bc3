"""Real slides of real scanners."""

import numpy as np
import pytest

from beph_store.errors import BephStoreError, MppMissing, SlideUnreadable
from beph_store.records import TileSpec
from beph_store.slides import TileReader, find_slides, open_slide
from beph_store.tiling import tile_slide
from beph_store.tissue import find_tissue

ATLAS = [
    "colon_tubular_adenoma_HE_20x",
    "lung_scc_HE2_20x",
    "lung_scc_HE3_20x",
    "ood_stomach_hpylori_IHC_20x",
    "pancreas_pdac_trucut_HE3_20x",
    "stomach_erosive_gastritis_HE_20x",
    "stomach_hpylori_HE_20x",
]
#: Share of each overview that is tissue, as judged by eye from the outlines.
TISSUE = [(0.14, 0.2), (0.09, 0.12), (0.18, 0.22), (0.28, 0.37), (0.07, 0.1), (0.4, 0.45), (0.27, 0.32)]


def surveyed(slide, mpp=0.5):
    image, *scale = slide.overview()
    mask = find_tissue(image, *scale)
    return tile_slide(slide.info, TileSpec(224, mpp, 224, 0.25, mask.method), mask), mask


@pytest.mark.parametrize(("name", "share"), list(zip(ATLAS, TISSUE, strict=True)))
def test_atlas(realdata, name, share):
    path = realdata / "wsi_atlas" / f"{name}.tif"
    with open_slide(path) as slide, open_slide(path, prefer="openslide") as reference:
        assert (slide.backend, slide.note) == ("tiled-jpeg", "")
        assert (slide.info.mpp, slide.info.mpp_source) == (0.5, "tiff")
        tiles, mask = surveyed(slide)
        assert share[0] < mask.mask.mean() < share[1]
        reader = TileReader(slide, tiles)
        order = reader.order()[::3]
        out = np.empty((len(order), 224, 224, 3), np.uint8)
        assert reader.read(order, out).all()
        assert slide.decodes == slide.distinct
        expected = np.empty_like(out)
        assert TileReader(reference, tiles).read(order, expected).all()
        assert np.array_equal(out, expected)


def test_aperio_whose_jpeg_components_are_rgb(realdata):
    path = realdata / "wsi_openslide" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide, open_slide(path, prefer="openslide") as reference:
        assert (slide.backend, slide.info.mpp, slide.info.mpp_source) == ("tiled-jpeg", 0.499, "vendor")
        assert slide.info.level_sizes == ((2220, 2967),)
        assert np.array_equal(
            slide.read_level(0, 0, 0, 2220, 2967), reference.read_level(0, 0, 0, 2220, 2967)
        )


def test_aperio_in_jpeg_2000_without_a_scale(realdata):
    path = realdata / "wsi_openslide" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(MppMissing, match="--slide-mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.backend, slide.info.mpp_source) == ("openslide", "declared")
        assert slide.info.level_sizes == ((4443, 3567), (2221, 1783))
        tiles, mask = surveyed(slide)
        assert 0.6 < mask.mask.mean() < 0.75
        out = np.empty((4, 224, 224, 3), np.uint8)
        assert TileReader(slide, tiles).read(range(4), out).all()


def test_a_flat_tiff_that_openslide_refuses(realdata):
    path = realdata / "wsi_openslide" / "kidney-48-5.tif"
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.backend, slide.info.size_l0) == ("tiff", (1493, 901))
        tiles, mask = surveyed(slide)
        assert not mask.mask.any()  # nothing on it but one speck out of focus
        assert len(tiles) == 0


def test_dicom_that_does_not_say_where_its_frames_lie(realdata):
    """They are stored column by column: taken row by row, the usual order, the picture is scrambled."""
    with pytest.raises(SlideUnreadable, match="where its frames lie"):
        open_slide(realdata / "wsi_openslide" / "pathml_small_dicom.dcm", mpp=0.5)


def test_damaged_and_synthetic_files(realdata):
    folder = realdata / "wsi_openslide"
    with pytest.raises(SlideUnreadable):
        open_slide(folder / "broken.svs", mpp=0.5)
    for name in ["boxes.tiff", "boxes_0.dcm", "small.svs"]:
        with open_slide(folder / "synthetic_openslide_fixtures" / name, mpp=0.5) as slide:
            assert slide.read_level(0, 0, 0, *slide.info.size_l0).any()
    with pytest.raises(MppMissing):
        open_slide(folder / "synthetic_openslide_fixtures" / "boxes.tiff")


def test_the_folder(realdata):
    names = [name for name, _ in find_slides(realdata / "wsi_openslide")]
    assert names[:3] == ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "broken.svs"]
    # Two files of one series are one slide.
    assert "synthetic_openslide_fixtures/boxes_0.dcm" in names
    assert "synthetic_openslide_fixtures/boxes_1.dcm" not in names
    for _, path in find_slides(realdata / "wsi_openslide"):
        try:
            open_slide(path, mpp=0.5).close()
        except BephStoreError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most are not refused
