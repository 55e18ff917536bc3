"""A slide may ask for any amount of memory: its reader gets so much and no more, and the run goes on."""

import mmap
import os
import struct
import sys
import zlib

import numpy as np
import pytest

from beph_store.engine import memory
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.reader_process import reason_of
from beph_store.engine.tile_child import TileAsked, TileChild
from beph_store.errors import SlideUnreadable, UsageError
from beph_store.records import TileSet, TileSpec
from beph_store.slides import fingerprint, open_slide
from beph_store.testing.synthetic import SlidePlan, write_slide
from tests.slides.drawing import dicom

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
SIDE = 16_384


def _tiff(width: int, height: int, piece: int, *, tiled: bool) -> bytes:
    """One deflated strip or tile, all zero: a few hundred kB on disk, ``piece`` bytes when it is unpacked."""
    deflate = zlib.compressobj(1)
    block = bytes(1 << 22)
    data = b"".join(deflate.compress(block) for _ in range(piece // len(block))) + deflate.flush()
    at = {True: [(322, 4, width), (323, 4, height), (324, 4, 0), (325, 4, len(data))]}
    at[False] = [(273, 4, 0), (278, 4, height), (279, 4, len(data))]
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 2), (277, 3, 3), *at[tiled]]
    tags = sorted([*tags, (284, 3, 1)])
    start = 8 + 2 + 12 * len(tags) + 4
    tags = [(tag, kind, start if tag in (273, 324) else value) for tag, kind, value in tags]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4) + data


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A strip and a tile that unpack to more than a reader may take here, and a sound slide after them."""
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "a-strip.tif").write_bytes(_tiff(SIDE, 8192, SIDE * 8192 * 3, tiled=False))
    (folder / "b-tile.tif").write_bytes(_tiff(8192, 8192, 8192 * 8192 * 3, tiled=True))
    write_slide(folder / "c-sound.tif", SlidePlan(size=(2048, 2048), seed=1, nuisances=()))
    return folder


@linux
def test_a_bomb_ends_in_one_line_that_names_the_limit_and_the_run_goes_on(slides, tmp_path):
    options = IngestOptions(limit_tiles=3, workers=1, reader_memory_gb=0.25)
    report = ingest([slides], tmp_path / "S", options=options, slide_mpp=0.5)
    strip, tile, sound = report.slides
    assert (strip.status, tile.status, sound.status) == ("failed", "failed", "done")
    assert "0.25 GB" in strip.error
    assert "--reader-memory-gb 0.5" in strip.error
    assert "0.25 GB" in tile.error
    assert "--reader-memory-gb" in tile.error
    assert "\n" not in strip.error + tile.error


@linux
@pytest.mark.soak
def test_with_more_memory_the_same_file_is_read(slides, tmp_path):
    """It is one colour all over, and so holds no tissue."""
    strip = [slides / "a-strip.tif"]
    report = ingest(strip, tmp_path / "S", options=IngestOptions(workers=1), slide_mpp=0.5)
    assert [slide.status for slide in report.slides] != ["failed"], report.slides


def _too_large(*_: object, **__: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(("suffix", "library"), [(".tif", "tifffile.TiffFile"), (".dcm", "pydicom.dcmread")])
def test_want_of_memory_while_a_slide_is_opened_is_told_from_damage(suffix, library, tmp_path, monkeypatch):
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        path.write_bytes(_tiff(2048, 2048, 2048 * 2048 * 3, tiled=False))
    else:
        dicom(path, np.full((960, 1280, 3), 200, np.uint8))
    open_slide(path, mpp=0.5).close()
    touched = path.stat().st_mtime_ns + 1  # headers are remembered by it
    os.utime(path, ns=(touched, touched))
    monkeypatch.setattr(library, _too_large)
    with pytest.raises(MemoryError) as caught:
        open_slide(path, mpp=0.5)
    assert reason_of(caught.value, 250_000_000) == memory.too_much(250_000_000)


@linux
def test_the_child_of_a_deep_verify_has_the_limit_too(slides, monkeypatch):
    monkeypatch.setenv(memory.VARIABLE, "0.25")
    strip = slides / "a-strip.tif"
    spec = TileSpec(224, 0.5, 224, 0.25, "otsu-saturation")
    tiles = TileSet(strip.name, spec, np.zeros((1, 2), np.int32), 224, np.ones(1, np.float32))
    asked = TileAsked(str(strip), tiles, np.zeros(1, np.int32), (0.5, 0.5), "declared", fingerprint(strip))
    with TileChild() as child, pytest.raises(SlideUnreadable, match=r"0\.25 GB of memory"):
        child.read(asked)


@linux
def test_files_that_are_mapped_and_what_was_held_before_do_not_count(tmp_path):
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(1 << 30)
        held = np.ones(50_000_000, np.uint8)
        with memory.memory_limit(250_000_000), mmap.mmap(file.fileno(), 0) as mapped:
            assert mapped[-1] == 0
            with pytest.raises(MemoryError):
                np.ones(700_000_000, np.uint8)
            assert held.sum() == len(held)
        assert np.ones(700_000_000, np.uint8)[-1] == 1


SAID = (
    "jpeg: Insufficient memory (case 4)",
    "Failed to allocate 268 bytes",
    "Out of memory",
    "malloc failed",
)


@pytest.mark.parametrize("text", SAID)
def test_what_libraries_say_of_it_is_understood_through_the_chain(text):
    error = SlideUnreadable("it cannot be read")
    assert not memory.for_want_of_memory(error)
    error.__cause__ = RuntimeError(text)
    assert memory.for_want_of_memory(error)


REFUSED = [("0", "at least 0.25 GB"), ("x", "not a number"), ("nan", "at least")]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_a_limit_that_cannot_be_meant_is_refused(monkeypatch, text, words):
    monkeypatch.setenv(memory.VARIABLE, text)
    with pytest.raises(UsageError, match=words):
        memory.limit_bytes()
    assert memory.limit_bytes(2) == 2_000_000_000
