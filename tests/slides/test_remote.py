"""Slides in object storage: what is found, and that they are read as the same files on disk are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import obstore
import pytest

from beph_store import objects
from beph_store.errors import ObjectStorageError, SlideChanged, SlideError, SlideUnreadable, UsageError
from beph_store.objects import open_bucket
from beph_store.records import TileSet, TileSpec
from beph_store.slides import Staging, TileReader, find_slides, fingerprint, local_copy, open_slide, remote
from beph_store.slides.copies import Copy
from beph_store.slides.listing import find, parts, series
from beph_store.slides.remote import head, read_range
from beph_store.slides.ring import VARIABLE
from beph_store.testing.synthetic import SlidePlan, write_slide
from tests.objects.proxy import faulty
from tests.objects.server import environment
from tests.slides.drawing import dicom


@pytest.fixture(autouse=True)
def ring(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ring"))
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    return tmp_path / "ring"


def put(bucket: str, key: str, content: bytes | Path) -> str:
    store, _ = open_bucket(bucket)
    obstore.put(store, key, content.read_bytes() if isinstance(content, Path) else content)
    return f"{bucket}/{key}"


def names(url: str) -> list[str]:
    return [slide_id for slide_id, _ in find(url)]


@pytest.fixture(scope="module")
def jpeg_slide(tmp_path_factory) -> Path:
    """4096 × 3584 px drawn in JPEG tiles of 256 px, three levels, 2.6 MB."""
    path = tmp_path_factory.mktemp("jpeg") / "slide.svs"
    write_slide(path, SlidePlan(size=(4096, 3584), seed=4, tumour=0.4, nuisances=()))
    return path


# What is found ---------------------------------------------------------------------------------

TREE = [
    "b/two.svs",
    "b/one.tif",
    "a.ndpi",
    "b/deep/er/three.svs",
    "b/notes.txt",
    ".x/four.svs",
    "b/.five.svs",
]


def test_a_folder_is_listed_by_the_rules_of_a_folder_on_disk(s3, tmp_path):
    for name in [*TREE, "pic.png"]:
        put(s3, f"slides/{name}", b"x")
        (tmp_path / "slides" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "slides" / name).write_bytes(b"x")
    put(s3, "slides2/other.svs", b"x")
    assert names(f"{s3}/slides") == names(f"{s3}/slides/") == [n for n, _ in find_slides(tmp_path / "slides")]
    assert names(s3) == [f"slides/{n}" for n in names(f"{s3}/slides")] + ["slides2/other.svs"]


def test_pictures_count_only_where_there_is_no_slide(s3):
    put(s3, "p/a.png", b"x")
    put(s3, "p/b.txt", b"x")
    assert names(f"{s3}/p") == ["a.png"]


def test_patterns_are_those_of_a_shell(s3):
    for name in TREE:
        put(s3, f"slides/{name}", b"x")
    assert names(f"{s3}/slides/b/*.svs") == [".five.svs", "two.svs"]
    assert names(f"{s3}/slides/*/deep") == ["b/deep/er/three.svs"]
    assert names(f"{s3}/slides/**/*.tif") == ["b/one.tif"]
    assert names(f"{s3}/*/b/t?o.svs") == ["slides/b/two.svs"]
    assert names(f"{s3}/slides/[!x].ndpi") == ["a.ndpi"]
    with pytest.raises(UsageError, match="nothing matches"):
        find(f"{s3}/slides/*.svs")


def test_an_object_named_directly_keeps_its_name_and_version(s3):
    url = put(s3, "slides/ä b #1.svs", b"content")
    ((slide_id, found),) = find(url)
    assert (slide_id, found.url, found.size) == ("ä b #1.svs", url, 7)
    assert read_range(found, 2, 5) == b"nte"
    assert found == head(url)


def test_nothing_there_is_a_usage_error(s3):
    with pytest.raises(UsageError, match="nothing at"):
        find(f"{s3}/nowhere")
    with pytest.raises(ObjectStorageError, match="no bucket"):
        find("s3://there-is-no-such-bucket/slides")


# What belongs together -------------------------------------------------------------------------


def test_the_files_of_a_dicom_series_are_one_slide(s3, tmp_path):
    pixels = np.full((200, 260, 3), 150, np.uint8)
    (tmp_path / "d").mkdir()
    for name, series_uid, image in [
        ("a0.dcm", "1.1", pixels),
        ("a1.dcm", "1.1", pixels[::2, ::2]),
        ("b.dcm", "1.2", pixels),
    ]:
        dicom(tmp_path / "d" / name, image, series=series_uid)
        put(s3, f"d/{name}", tmp_path / "d" / name)
    found = find(f"{s3}/d")
    assert [slide_id for slide_id, _ in found] == ["a0.dcm", "b.dcm"]
    assert [item.name for item in series(found[0][1])] == ["a0.dcm", "a1.dcm"]
    assert fingerprint(found[0][1]) == fingerprint(tmp_path / "d" / "a0.dcm")
    with open_slide(found[0][1]) as slide, open_slide(tmp_path / "d" / "a0.dcm") as local:
        assert slide.info.level_sizes == local.info.level_sizes == ((260, 200), (130, 100))
        assert slide.info.fingerprint == local.info.fingerprint
        np.testing.assert_array_equal(
            slide.read_level(1, 0, 0, 130, 100), local.read_level(1, 0, 0, 130, 100)
        )


def test_the_folder_of_a_mirax_slide_comes_with_it(s3):
    url = put(s3, "m/slide.mrxs", b"\xff\xd8\xff")
    for name in ("Slidedat.ini", "Data0000.dat", "sub/Index.dat"):
        put(s3, f"m/slide/{name}", name.encode())
    put(s3, "m/slide2/Data.dat", b"another's")
    with local_copy(url) as path:
        assert path.name == "slide.mrxs"
        assert path.read_bytes() == b"\xff\xd8\xff"
        there = sorted(p.relative_to(path.parent).as_posix() for p in path.parent.rglob("*") if p.is_file())
        assert there == ["slide.mrxs", "slide/Data0000.dat", "slide/Slidedat.ini", "slide/sub/Index.dat"]
        assert (path.parent / "slide/sub/Index.dat").read_bytes() == b"sub/Index.dat"
    assert names(f"{s3}/m") == ["slide.mrxs"]


def test_a_vms_slide_brings_what_its_index_names(s3):
    index = "[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nMapFile=map.jpg\n"
    url = put(s3, "v/slide.vms", index.encode())
    for name in ("a.jpg", "b.jpg", "map.jpg", "other.jpg"):
        put(s3, f"v/{name}", b"x")
    assert [name for name, _ in parts(head(url))] == ["slide.vms", "a.jpg", "b.jpg", "map.jpg"]


# What is read ----------------------------------------------------------------------------------


SPEC = TileSpec(224, 0.5, 224, tissue_min=0.25, tissue_method="otsu-saturation")

#: A row of tiles across the slide: some of them on macro-tiles that no fingerprint reads.
ROW = [(x, 1900) for x in range(0, 3872, 224)]


def tile_set(info, spec: TileSpec, corners) -> TileSet:
    origins = np.array(corners, np.int32)
    return TileSet(info.slide_id, spec, origins, spec.tile_px, np.ones(len(origins), np.float32))


@pytest.mark.parametrize("reads", ["auto", "whole", "ranges"])
def test_pixels_facts_and_backend_are_those_of_the_file_on_disk(s3, jpeg_slide, reads):
    url = put(s3, "slide.svs", jpeg_slide)
    with (
        open_slide(url, mpp=0.5, staging=Staging(reads=reads)) as slide,
        open_slide(jpeg_slide, mpp=0.5) as local,
    ):
        assert slide.info.path == url
        assert slide.info.slide_id == "slide.svs"
        for name in ("size_l0", "level_sizes", "fingerprint", "mpp_x"):
            assert getattr(slide.info, name) == getattr(local.info, name), name
        assert slide.backend == local.backend == "tiled-jpeg"
        assert slide.in_parts == (reads == "ranges")
        np.testing.assert_array_equal(slide.overview()[0], local.overview()[0])
        tiles = tile_set(slide.info, SPEC, [(3000, 2000), (3872, 3360), (0, 0)])
        for want in (False, True):
            ours, theirs = np.empty((2, 3, 224, 224, 3), np.uint8)
            reader = TileReader(slide, tiles)
            if want:
                reader.want()
            assert reader.read([0, 1, 2], ours).all()
            assert TileReader(local, tiles).read([0, 1, 2], theirs).all()
            np.testing.assert_array_equal(ours, theirs)
        assert fingerprint(url) == local.info.fingerprint


def test_ranges_fetch_what_is_read_and_little_more(s3, jpeg_slide, moto):
    with faulty(moto) as proxy, environment(proxy.server):
        url = put(s3, "slide.svs", jpeg_slide)
        proxy.sent = 0
        with open_slide(url, mpp=0.5, staging=Staging(reads="ranges")) as slide:
            opened = proxy.sent
            assert opened < 0.6 * jpeg_slide.stat().st_size  # of which 1 MiB is the fingerprint
            tiles = tile_set(slide.info, SPEC, ROW)
            reader = TileReader(slide, tiles)
            reader.want()
            assert 0 < proxy.sent - opened < 0.2 * jpeg_slide.stat().st_size
            proxy.requests.clear()
            assert reader.read(range(len(ROW)), np.empty((len(ROW), 224, 224, 3), np.uint8)).all()
            assert proxy.requests["GET"] == 0


def test_reading_waits_for_the_fetch_of_many_and_does_not_go_one_by_one(s3, jpeg_slide, moto, ring):
    with faulty(moto) as proxy, environment(proxy.server):
        url = put(s3, "slide.svs", jpeg_slide)
        proxy.latency_s = 0.02
        asked = []
        for ahead in (False, True):
            with open_slide(url, mpp=0.5, staging=Staging(reads="ranges")) as slide:
                reader = TileReader(slide, tile_set(slide.info, SPEC, ROW))
                before = proxy.requests["GET"]
                if ahead:
                    reader.fetch_ahead(range(len(ROW)))
                else:
                    reader.want()
                assert reader.read(range(len(ROW)), np.empty((len(ROW), 224, 224, 3), np.uint8)).all()
                asked.append(proxy.requests["GET"] - before)
            shutil.rmtree(ring)
        assert asked[0] == asked[1] > 0


def test_seaweedfs_serves_slides_as_well(seaweed, jpeg_slide):
    with environment(seaweed):
        bucket = seaweed.bucket()
        url = put(bucket, "a/slide.svs", jpeg_slide)
        assert names(f"{bucket}/a") == names(f"{bucket}/a/*.svs") == ["slide.svs"]
        for reads in ("ranges", "whole"):
            with open_slide(url, mpp=0.5, staging=Staging(reads=reads)) as slide:
                assert slide.in_parts == (reads == "ranges")
                assert slide.info.fingerprint == fingerprint(jpeg_slide)
        listed = head(url)
        put(bucket, "a/slide.svs", jpeg_slide.read_bytes()[:-1])
        with pytest.raises(SlideChanged):
            read_range(listed, 0, 10)


def test_of_another_kind_of_file_the_whole_is_fetched(s3, formula_path):
    url = put(s3, "deflate.tif", formula_path)
    with open_slide(url, mpp=0.5, staging=Staging(reads="ranges")) as slide:
        assert (slide.backend, slide.in_parts) == ("openslide", False)
        with open_slide(formula_path, mpp=0.5) as local:
            ours, theirs = (each.read_level(0, 100, 50, 700, 600) for each in (slide, local))
            np.testing.assert_array_equal(ours, theirs)


def test_a_slide_cut_short_says_so_as_on_disk(s3, jpeg_slide, tmp_path):
    cut = tmp_path / "cut.svs"
    cut.write_bytes(jpeg_slide.read_bytes()[: jpeg_slide.stat().st_size // 2])
    url = put(s3, "cut.svs", cut)
    for reads in ("ranges", "whole"):
        with pytest.raises(SlideUnreadable) as remote_error:
            open_slide(url, mpp=0.5, staging=Staging(reads=reads))
        with pytest.raises(SlideUnreadable) as local_error:
            open_slide(cut, mpp=0.5)
        assert str(remote_error.value) == str(local_error.value)


def test_a_server_s_trouble_is_no_unreadable_tile(s3, jpeg_slide, moto, monkeypatch):
    """A tile that cannot be fetched would otherwise be missing from the store for ever."""
    monkeypatch.setattr(objects, "RETRIES", 1)
    monkeypatch.setattr(remote, "PATIENCE_S", 0.0)
    url = put(s3, "slide.svs", jpeg_slide)
    with (
        faulty(moto) as proxy,
        environment(proxy.server),
        open_slide(url, mpp=0.5, staging=Staging(reads="ranges")) as slide,
    ):
        reader = TileReader(slide, tile_set(slide.info, SPEC, ROW))
        pixels = np.empty((len(ROW), 224, 224, 3), np.uint8)
        proxy.plan = lambda method, path: "busy"
        with pytest.raises(ObjectStorageError, match="503"):
            reader.read(range(len(ROW)), pixels)
        proxy.plan = lambda method, path: None
        assert reader.read(range(len(ROW)), pixels).all()


def test_a_slide_replaced_after_it_was_listed_is_not_mixed_with_the_new_one(s3, jpeg_slide, drawn_slide):
    url = put(s3, "slide.svs", jpeg_slide)
    listed = head(url)
    put(s3, "slide.svs", drawn_slide.path)
    with pytest.raises(SlideChanged, match="replaced") as changed:
        open_slide(listed, mpp=0.5)
    assert "\n" not in str(changed.value)
    with open_slide(url, mpp=0.5) as slide:
        assert slide.info.size_l0 == drawn_slide.plan.size
        put(s3, "slide.svs", jpeg_slide)
    with open_slide(head(url), mpp=0.5, staging=Staging(reads="ranges")) as slide:
        put(s3, "slide.svs", drawn_slide.path)
        tiles = tile_set(slide.info, SPEC, ROW)
        with pytest.raises(SlideChanged):
            TileReader(slide, tiles).read(range(len(ROW)), np.empty((len(ROW), 224, 224, 3), np.uint8))


def test_a_slide_that_vanished_says_so(s3, jpeg_slide):
    url = put(s3, "folder/slide.svs", jpeg_slide)
    listed = head(url)
    obstore.delete(open_bucket(s3)[0], "folder/slide.svs")
    with pytest.raises(SlideUnreadable, match=r"slide\.svs is gone from s3://"):
        open_slide(listed, mpp=0.5)
    with pytest.raises(SlideUnreadable, match="no such object"):
        open_slide(url, mpp=0.5)


def test_an_answer_that_breaks_off_is_asked_for_again(s3, monkeypatch):
    url = put(s3, "object", bytes(range(256)) * 100)
    item = head(url)
    whole = remote._get
    cuts = iter([10, 0])
    monkeypatch.setattr(remote, "_get", lambda i, a, b: whole(i, a, b)[: next(cuts, None)])
    assert read_range(item, 256, 700) == (bytes(range(256)) * 100)[256:700]
    monkeypatch.setattr(remote, "_get", lambda i, a, b: b"")
    with pytest.raises(ObjectStorageError, match="fewer bytes"):
        read_range(item, 0, 9)


def test_a_server_that_fails_now_and_then_is_worn_down(s3, jpeg_slide, moto):
    url = put(s3, "slide.svs", jpeg_slide)
    with faulty(moto, seed=3, before=0.2, busy=0.1, after=0.1) as proxy, environment(proxy.server):
        with local_copy(url, Staging(reads="whole")) as path:
            assert path.read_bytes() == jpeg_slide.read_bytes()
        assert sum(proxy.faults.values()) > 0


def test_a_local_path_is_its_own_copy(formula_path, ring):
    with local_copy(formula_path) as path:
        assert path == formula_path
    assert not ring.exists()


def test_a_slide_too_large_for_the_cache_is_told_what_it_needs(s3, jpeg_slide):
    url = put(s3, "slide.svs", jpeg_slide)
    with pytest.raises(SlideError, match=r"needs .* --slide-cache-gb") as error:
        open_slide(url, mpp=0.5, staging=Staging(cache_bytes=2_000_000, reads="whole"))
    assert not isinstance(error.value, SlideUnreadable)


def test_a_second_reader_finds_what_the_first_has_fetched(s3, jpeg_slide, moto):
    url = put(s3, "slide.svs", jpeg_slide)
    with faulty(moto) as proxy, environment(proxy.server):
        with Copy(head(url), Staging()) as copy:
            copy.whole()
        before = proxy.sent
        with Copy(head(url), Staging()) as again:
            assert again.complete
            assert again.whole().read_bytes() == jpeg_slide.read_bytes()
        assert proxy.sent == before


@pytest.mark.realdata
@pytest.mark.parametrize("reads", ["whole", "ranges"])
def test_real_slides_read_the_same(s3, realdata, reads, tmp_path):
    some = [
        realdata / "wsi_openslide" / "CMU-1-Small-Region.svs",
        realdata / "wsi_openslide" / "kidney-48-5.tif",
        realdata / "wsi_atlas" / "lung_scc_HE3_20x.tif",
    ]
    for path in some:
        url = put(s3, path.name, path)
        with (
            open_slide(url, mpp=0.5, staging=Staging(reads=reads)) as slide,
            open_slide(path, mpp=0.5) as local,
        ):
            assert slide.backend == local.backend
            assert slide.info.fingerprint == local.info.fingerprint
            np.testing.assert_array_equal(slide.overview()[0], local.overview()[0])
            w, h = local.info.size_l0
            region = (0, w // 3, h // 3, min(900, w // 2), min(700, h // 2))
            np.testing.assert_array_equal(slide.read_level(*region), local.read_level(*region))
        shutil.rmtree(tmp_path / "ring")
