"""Files that crash, hang or fool other readers."""

import os
import random
import shutil
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from beph_store.errors import BephStoreError, MppMissing, SlideUnreadable
from beph_store.slides import open_slide
from beph_store.slides.reader import DAMAGED
from beph_store.testing.synthetic import formula_slide
from beph_store.tissue import find_tissue
from tests.slides.drawing import dicom, entry_of, link_of, piece, set_piece, set_tag

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["jpeg", "deflate"])
def tiled(request, tmp_path):
    """1500 × 1100 px in 30 tiles: read directly where JPEG, else through OpenSlide."""
    path = tmp_path / "slide.svs"
    formula_slide(path, compression=request.param)
    return path


def refused(path, match):
    with pytest.raises(SlideUnreadable, match=match) as caught:
        open_slide(path, slide_id="x", mpp=0.5)
    assert caught.value.slide_id == "x"
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    refused(tmp_path / "absent.svs", "No such file")


def test_empty(tmp_path):
    (tmp_path / "empty.svs").touch()
    refused(tmp_path / "empty.svs", "empty")


@pytest.mark.parametrize(
    "content", [b"no slide\n" * 99, b"\0" * 5000, b"II*\0", b"MM\0*\0\0\0\x08", b"PK\3\4" * 50]
)
def test_something_else_named_svs(tmp_path, content):
    (tmp_path / "text.svs").write_bytes(content)
    refused(tmp_path / "text.svs", "text.svs")


def test_a_folder(tmp_path):
    refused(tmp_path, "folder")


def test_a_fifo_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.svs")
    refused(tmp_path / "pipe.svs", "not a regular file")


def test_a_device():
    with pytest.raises(SlideUnreadable, match="not a regular file"):
        open_slide("/dev/zero")


def test_a_loop_of_links(tmp_path):
    (tmp_path / "a.svs").symlink_to(tmp_path / "b.svs")
    (tmp_path / "b.svs").symlink_to(tmp_path / "a.svs")
    refused(tmp_path / "a.svs", "symbolic")


@pytest.mark.parametrize("share", [0.002, 0.1, 0.5, 0.9, 0.999])
def test_cut_short(tiled, share):
    size = tiled.stat().st_size
    os.truncate(tiled, int(size * share))
    refused(tiled, "truncated|listed")


def test_cut_short_behind_its_directories(tmp_path):
    """Directories first, as cloud-optimised files have them: what is missing is pixels."""
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.zeros((400, 400, 3), np.uint8), tile=(128, 128), photometric="rgb")
    os.truncate(path, path.stat().st_size - 100)
    refused(path, "cut short: 1 of 16")


@pytest.mark.parametrize(
    ("tag", "value", "match"),
    [
        (322, 1 << 20, "tiles of 1048576"),  # OpenSlide aborts the process
        (323, 8208, "tiles of 256 × 8208"),
        (322, 0, "tiles of 0"),
        (256, 0, "an image of 0"),
        (256, 2**31 - 1, "an image of 2147483647"),
        (257, 2**32 - 1, "an image of"),
        (256, 100_000, "30 tiles or strips listed"),
    ],
)
def test_impossible_sizes(tiled, tag, value, match):
    set_tag(tiled, tag, value)
    refused(tiled, match)


def test_a_tag_longer_than_the_file(tiled):
    set_tag(tiled, 324, 8, count=2**31)
    refused(tiled, "claims 2147483648 values")


def test_a_tile_longer_than_the_file(tmp_path):
    """2⁴⁰ bytes, which only BigTIFF can say; OpenSlide aborts on it."""
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, np.zeros((512, 512, 3), np.uint8), tile=(256, 256), photometric="rgb", bigtiff=True
    )
    data = bytearray(path.read_bytes())
    at = int.from_bytes(data[8:16], "little") + 8
    while int.from_bytes(data[at : at + 2], "little") != 325:
        at += 20
    where = struct.unpack_from("<Q", data, at + 12)[0]
    data[at + 2 : at + 4] = (16).to_bytes(2, "little")
    data[at + 12 : at + 20] = len(data).to_bytes(8, "little")
    data += struct.pack("<4Q", 2**40, *[196608] * 3)
    path.write_bytes(data)
    assert where
    refused(path, "longer than the file")


def test_a_loop_of_directories(tiled):
    data = bytearray(tiled.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    link = link_of(data, first)
    data[link : link + 4] = data[4:8]
    tiled.write_bytes(data)
    refused(tiled, "loop")


@pytest.mark.parametrize(
    ("dtype", "options", "match"),
    [
        (np.uint16, {"photometric": "rgb"}, "16-bit samples: only 8-bit"),
        (np.uint16, {"photometric": "minisblack"}, "16-bit samples"),
        (np.float32, {"photometric": "rgb"}, "32-bit samples"),
        (np.uint8, {"photometric": "separated"}, "CMYK"),
    ],
)
def test_pixels_that_are_no_colours(tmp_path, dtype, options, match):
    samples = {"minisblack": (), "separated": (4,)}.get(options["photometric"], (3,))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((300, 300, *samples), dtype), compression="zlib", **options)
    refused(tmp_path / "a.tif", match)


def test_a_palette(tmp_path):
    Image.fromarray(np.zeros((300, 300), np.uint8)).convert("P").save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "palette")


def test_channels_as_images_of_their_own(tmp_path):
    stack = np.zeros((3, 256, 256), np.uint8)
    tifffile.imwrite(
        tmp_path / "a.ome.tif", stack, metadata={"axes": "CYX"}, tile=(64, 64), compression="zlib"
    )
    with pytest.raises(SlideUnreadable, match="fluorescence"):
        open_slide(tmp_path / "a.ome.tif", mpp=0.5, prefer="tiff")


def test_sixteen_bit_png(tmp_path):
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "I;16: only 8-bit")


def test_damaged_jpeg_picture(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(path)
    os.truncate(path, path.stat().st_size // 2)
    refused(path, "a.jpg")


def spoil(path, how):
    """Damage tile 7 (column 1, row 1) of 6 × 5."""
    offset, count = piece(path, 7)
    data = bytearray(path.read_bytes())
    if how == "head":
        data[offset : offset + 12] = bytes(12)
    elif how == "middle":
        data[offset + count // 3 : offset + count] = bytes(count - count // 3)
    elif how == "all zero":
        data[offset : offset + count] = bytes(count)
    elif how == "another size":
        other = path.with_name("other.tif")
        formula_slide(other, tile_px=128, compression="jpeg")
        start, length = piece(other, 0)
        data[offset : offset + length] = other.read_bytes()[start : start + length]
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["head", "middle", "all zero", "another size"])
@pytest.mark.parametrize("backend", ["tiled-jpeg", "openslide"])
def test_one_bad_tile_costs_only_itself(tmp_path, how, backend):
    path = tmp_path / "slide.tif"
    formula_slide(path, compression="jpeg")
    whole = shutil.copy(path, tmp_path / "whole.tif")
    spoil(path, how)
    with open_slide(path, prefer=backend) as slide, open_slide(whole) as intact:
        for region in [(256, 256, 20, 60), (400, 300, 1, 1), (200, 250, 100, 10), (500, 500, 100, 20)]:
            with pytest.raises(SlideUnreadable):
                slide.read_level(0, *region)
        for region in [(0, 0, 0, 256, 256), (0, 512, 0, 900, 1100), (0, 0, 512, 900, 500)]:
            assert np.array_equal(slide.read_level(*region), intact.read_level(*region))


@pytest.mark.parametrize("backend", ["tiled-jpeg", "openslide"])
def test_an_overview_shows_damage_as_stain(tmp_path, backend):
    """So that tiles are planned there, fail one by one, and are told of."""
    path = tmp_path / "slide.tif"
    formula_slide(path, compression="jpeg")
    whole = shutil.copy(path, tmp_path / "whole.tif")
    spoil(path, "middle")
    with open_slide(path, prefer=backend) as slide, open_slide(whole, prefer=backend) as intact:
        image, mpp_x, mpp_y = slide.overview(2.0)
        expected = intact.overview(2.0)[0]
        assert (mpp_x, mpp_y) == (2.0, 2.0)
        assert (image[64:128, 64:128] == DAMAGED).all()
        image[64:128, 64:128] = expected[64:128, 64:128] = 0
        assert np.array_equal(image, expected)
    blank = np.full((200, 200, 3), 240, np.uint8)
    blank[64:128, 64:128] = DAMAGED
    assert find_tissue(blank, 8.0, 8.0).mask[70:120, 70:120].all()


def test_damage_is_no_difference_from_openslide(tmp_path):
    """The comparison at the opening meets tiles that neither can read."""
    path = tmp_path / "slide.tif"
    formula_slide(path, compression="jpeg")
    for index in range(30):
        offset, count = piece(path, index)
        data = bytearray(path.read_bytes())
        data[offset + 4 : offset + count] = bytes(count - 4)
        path.write_bytes(data)
    with open_slide(path) as slide:
        assert (slide.backend, slide.note) == ("tiled-jpeg", "")
        with pytest.raises(SlideUnreadable, match="macro-tile 0, 0 of level 0"):
            slide.read_level(0, 0, 0, 5, 5)
        with pytest.raises(SlideUnreadable, match="damaged everywhere"):
            slide.overview()


def test_a_tile_left_out_is_white(tiled):
    set_piece(tiled, 7, offset=0, count=0)
    with open_slide(tiled) as slide:
        assert (slide.read_level(0, 256, 256, 256, 256) == 255).all()
        assert (slide.read_level(0, 250, 256, 6, 256) != 255).any()


def test_a_tile_at_no_place_is_unreadable_not_black(tiled):
    set_piece(tiled, 7, offset=0)
    with open_slide(tiled) as slide:
        with pytest.raises(SlideUnreadable):
            slide.read_level(0, 300, 300, 9, 9)
        assert slide.read_level(0, 0, 0, 9, 9).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}, "16-bit samples"),
        ({"DimensionOrganizationType": None}, "does not say where its frames lie"),
        ({"NumberOfFrames": 5}, "5 frames for a grid of 3 × 4"),
        ({"TotalPixelMatrixFocalPlanes": 3}, "FocalPlanes is 3"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, r"not a whole slide \(CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LABEL"]}, "label, not a slide|flavor"),
        ({"Columns": 60000}, "frames of 60000"),
    ],
)
def test_dicom_that_is_refused(tmp_path, change, match):
    path = dicom(tmp_path / "a.dcm", np.zeros((380, 300, 3), np.uint8), **change)
    refused(path, match)


def test_what_openslide_says_is_told_without_folders_and_with_a_cure(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.zeros((380, 300, 3), np.uint8))
    with pytest.raises(SlideUnreadable) as caught:
        open_slide(path, prefer="openslide")
    assert "Reading a.dcm: " in str(caught.value)
    for name, said in (("a.svs", "copied in part: compare"), ("a.mrxs", "the folder that belongs beside it")):
        (tmp_path / name).write_bytes(b"not a slide")
        refused(tmp_path / name, said)


def test_a_picture_without_a_scale_may_be_a_tile(tmp_path):
    Image.new("RGB", (224, 224)).save(tmp_path / "tile.jpg")
    with pytest.raises(MppMissing, match="beph-store embed"):
        open_slide(tmp_path / "tile.jpg")


def test_dicom_cut_short(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.zeros((380, 300, 3), np.uint8))
    os.truncate(path, path.stat().st_size - 1000)
    with open_slide(path) as slide, pytest.raises(SlideUnreadable, match="end of the file"):
        slide.read_level(0, 299, 379, 1, 1)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_mutations(tmp_path, compression):
    """Whatever is written over a directory: one of our errors, or a slide."""
    source = tmp_path / "source.tif"
    formula_slide(source, (700, 520), downsamples=(1, 2), compression=compression)
    data, path = source.read_bytes(), tmp_path / "slide.tif"
    first = int.from_bytes(data[4:8], "little")
    for seed in range(150):
        rnd, spoilt = random.Random(seed), bytearray(data)
        for _ in range(rnd.choice([1, 1, 3])):
            at = rnd.randrange(8) if seed % 10 == 0 else min(len(data) - 1, first + rnd.randrange(500))
            spoilt[at] = rnd.choice([0, 1, 255, rnd.randrange(256)])
        path.write_bytes(spoilt)
        try:
            with open_slide(path, mpp=0.5) as slide:
                slide.overview()
                slide.read_level(0, 0, 0, 300, 300)
        except BephStoreError as error:
            assert "\n" not in str(error)  # noqa: PT017 - it need not be refused


def test_mutations_of_dicom(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.zeros((380, 300, 3), np.uint8))
    data = path.read_bytes()
    for seed in range(100):
        rnd, spoilt = random.Random(seed), bytearray(data)
        for _ in range(rnd.choice([1, 1, 3])):
            spoilt[128 + rnd.randrange(1000)] = rnd.choice([0, 1, 255, rnd.randrange(256)])
        path.write_bytes(spoilt)
        try:
            with open_slide(path, mpp=0.5) as slide:
                slide.overview()
                slide.read_level(0, 0, 0, 100, 100)
        except BephStoreError as error:
            assert "\n" not in str(error)  # noqa: PT017 - it need not be refused


def test_the_mark_of_an_ndpi_does_not_spare_a_tiled_file(tiled):
    """Hamamatsu's own variant is left to OpenSlide unchecked, but it is never tiled."""
    data = bytearray(tiled.read_bytes())
    entry = entry_of(data, 284)
    data[entry : entry + 2] = (65420).to_bytes(2, "little")
    tiled.write_bytes(data)
    set_tag(tiled, 322, 1 << 20)
    refused(tiled, "tiles of 1048576")


def test_what_a_library_logs_of_a_broken_tag_stays_out_of_the_terminal(tmp_path, caplog):
    path = tmp_path / "a.tif"
    picture = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    options = {
        "resolution": (20000, 20000),
        "resolutionunit": "CENTIMETER",
        "software": "a long name of software",
    }
    tifffile.imwrite(path, picture, photometric="rgb", compression="lzw", rowsperstrip=37, **options)
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags["Software"].offset
    data = bytearray(path.read_bytes())
    data[at + 8 : at + 12] = (2).to_bytes(4, "little")
    path.write_bytes(data)
    with open_slide(path, prefer="tiff") as slide:
        assert slide.info.size_l0 == (300, 300)
    assert not caplog.records
    with tifffile.TiffFile(path):
        assert caplog.records  # it does say something
