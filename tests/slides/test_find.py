import os

import numpy as np
import pytest

from beph_store.errors import SlideUnreadable
from beph_store.slides import find_slides, fingerprint, is_slide, open_slide
from tests.slides.drawing import dicom


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names(root):
    return [name for name, _ in find_slides(root)]


def test_suffixes():
    for name in ["a.svs", "B.TIF", "c.ome.tiff", "d.ndpi", "e.mrxs", "f.dcm", "g.png", "h.JPEG"]:
        assert is_slide(name)
    for name in ["a.txt", "svs", ".svs/readme", "a.xml", "a.svs.part"]:
        assert not is_slide(name)


def test_ids_are_relative_paths_in_order(tmp_path):
    for name in ["b/two.svs", "b/one.tif", "a.ndpi", "B.svs", "b/deep/er/three.svs", "b/notes.txt"]:
        touch(tmp_path / name)
    found = find_slides(tmp_path)
    assert [name for name, _ in found] == ["B.svs", "a.ndpi", "b/deep/er/three.svs", "b/one.tif", "b/two.svs"]
    assert all(path == tmp_path / name for name, path in found)


def test_a_file_named_directly_is_taken_whatever_its_suffix(tmp_path):
    path = touch(tmp_path / "odd.slide")
    assert find_slides(path) == [("odd.slide", path)]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in [".a.svs", "._b.svs", ".trash/c.svs", "d.svs"]:
        touch(tmp_path / name)
    assert names(tmp_path) == ["d.svs"]


def test_pictures_count_only_where_there_is_no_slide(tmp_path):
    touch(tmp_path / "a.png")
    touch(tmp_path / "b.jpg")
    assert names(tmp_path) == ["a.png", "b.jpg"]
    touch(tmp_path / "sub/slide.svs")
    assert names(tmp_path) == ["sub/slide.svs"]


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "folder.svs").mkdir()
    (tmp_path / "dangling.svs").symlink_to("nowhere.svs")
    (tmp_path / "self").symlink_to(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(SlideUnreadable, match="not a regular file"):
        find_slides(tmp_path / "pipe.svs")
    with pytest.raises(SlideUnreadable, match="No such file"):
        find_slides(tmp_path / "dangling.svs")


def test_a_link_to_a_file_is_followed_a_link_to_a_folder_is_not(tmp_path):
    touch(tmp_path / "archive/a.svs")
    touch(tmp_path / "archive/b.svs")
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort/one.svs").symlink_to(tmp_path / "archive/a.svs")
    (tmp_path / "cohort/all").symlink_to(tmp_path / "archive")
    assert names(tmp_path / "cohort") == ["one.svs"]


def test_a_series_is_one_slide(tmp_path):
    image = np.zeros((200, 200, 3), np.uint8)
    dicom(tmp_path / "case/level1.dcm", image[::2, ::2], series="1.1") if touch(tmp_path / "case/x") else None
    dicom(tmp_path / "case/level0.dcm", image, series="1.1")
    dicom(tmp_path / "case/other.dcm", image, series="1.2")
    (tmp_path / "case/no.dcm").write_bytes(b"no dicom")
    assert names(tmp_path) == ["case/level0.dcm", "case/no.dcm", "case/other.dcm"]
    with open_slide(tmp_path / "case/level0.dcm") as slide:
        assert slide.info.level_sizes == ((200, 200), (100, 100))
    with pytest.raises(SlideUnreadable):
        open_slide(tmp_path / "case/no.dcm")


def test_fingerprint_sees_every_part_that_is_sampled(tmp_path):
    path = tmp_path / "a.svs"
    data = np.random.default_rng(0).bytes(3_000_000)
    seen = set()
    for content in [
        data,
        data[:-1],
        data + b"\0",
        b"x" + data[1:],
        data[:-1] + b"x",
        data[:1_500_000] + bytes(200_000) + data[1_700_000:],
    ]:
        path.write_bytes(content)
        seen.add(fingerprint(path))
        assert len(fingerprint(path)) == 64
    assert len(seen) == 6


def test_fingerprint_does_not_depend_on_the_name_or_the_place(tmp_path):
    for name in ["a.svs", "b.tif"]:
        (tmp_path / name).write_bytes(b"same" * 1000)
    assert fingerprint(tmp_path / "a.svs") == fingerprint(tmp_path / "b.tif")


def test_fingerprint_of_a_series_covers_all_its_files(tmp_path):
    image = np.zeros((200, 200, 3), np.uint8)
    dicom(tmp_path / "a.dcm", image)
    alone = fingerprint(tmp_path / "a.dcm")
    dicom(tmp_path / "b.dcm", image[::2, ::2])
    assert fingerprint(tmp_path / "a.dcm") != alone
    assert fingerprint(tmp_path / "a.dcm") == fingerprint(tmp_path / "b.dcm")


def test_fingerprint_of_nothing(tmp_path):
    with pytest.raises(SlideUnreadable, match="No such file"):
        fingerprint(tmp_path / "a.svs")
