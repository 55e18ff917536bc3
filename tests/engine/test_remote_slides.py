"""Ingest of slides in object storage: equal to that of the files, and one bad slide never stops it."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path

import numpy as np
import obstore
import pytest
from PIL import Image
from typer.testing import CliRunner

from beph_store.engine.embed import embed, find_images
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.plan import plan
from beph_store.engine.search.sheet import tile_pixels
from beph_store.engine.search.table import open_table
from beph_store.engine.staging import fetch
from beph_store.errors import ObjectStorageError, UsageError
from beph_store.objects import open_bucket
from beph_store.records import TileSpec
from beph_store.serve.slide_tiles import OpenSlides, SlideGone
from beph_store.slides.remote import Staging
from beph_store.slides.ring import VARIABLE, Ring
from beph_store.store import Store, verify
from beph_store.testing.synthetic import SlidePlan, write_slide
from beph_store_cli.main import app
from tests.objects.proxy import faulty
from tests.objects.server import SECRET_KEY, Server, environment

OPTIONS = IngestOptions(limit_tiles=12, workers=1, slide_reads="ranges")


@pytest.fixture(autouse=True)
def ring(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ring"))
    return tmp_path / "ring"


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Two drawn slides and one that is none."""
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(("a.tif", "sub/b.tif")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_slide(folder / name, SlidePlan(size=(3072, 2560), seed=seed, tumour=0.4, nuisances=()))
    (folder / "broken.svs").write_bytes(b"not a slide" * 1000)
    return folder


@pytest.fixture(scope="module")
def local(slides, tmp_path_factory):
    store = tmp_path_factory.mktemp("local") / "S"
    return ingest([slides], store, options=OPTIONS), store


def upload(bucket: str, folder: Path) -> str:
    store, _ = open_bucket(bucket)
    for path in folder.rglob("*"):
        if path.is_file():
            obstore.put(store, f"slides/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"{bucket}/slides"


def outcomes(report) -> list[tuple[str, str, int]]:
    return [(o.slide_id, o.status, o.tiles) for o in report.slides]


def test_the_store_is_that_of_the_files_and_again_nothing_is_downloaded(
    s3, moto, slides, local, tmp_path, ring
):
    url = upload(s3, slides)
    expected, local_store = local
    with faulty(moto) as proxy, environment(proxy.server):
        report = ingest([url], tmp_path / "S", options=OPTIONS)
        assert outcomes(report) == outcomes(expected)
        ours, theirs = Store.open(tmp_path / "S"), Store.open(local_store)
        for name in ("a.tif", "sub/b.tif"):
            mine, his = ours.bag(report.recipe, name), theirs.bag(report.recipe, name)
            np.testing.assert_array_equal(mine.vectors, his.vectors)
            np.testing.assert_array_equal(mine.origin_l0, his.origin_l0)
        row = next(row for row in ours.rows(report.recipe) if row.slide_id == "sub/b.tif")
        his_row = next(row for row in theirs.rows(report.recipe) if row.slide_id == "sub/b.tif")
        assert row.path == f"{url}/sub/b.tif"
        assert (row.fingerprint, row.file_bytes, row.reader) == (
            his_row.fingerprint,
            his_row.file_bytes,
            his_row.reader,
        )
        assert verify(ours).ok
        assert not [path for path in ring.iterdir() if path.is_dir()]  # given back

        obstore.delete(open_bucket(s3)[0], "slides/broken.svs")
        proxy.requests.clear()
        proxy.sent = 0
        again = ingest([url], tmp_path / "S", options=OPTIONS)
        assert [o.status for o in again.slides] == ["skipped", "skipped"]
        assert proxy.sent < 10_000  # one page of a listing


def test_a_replaced_slide_is_told_and_one_uploaded_again_is_not(s3, slides, tmp_path):
    url = f"{upload(s3, slides)}/a.tif"
    ingest([url], tmp_path / "S", options=OPTIONS)
    store, _ = open_bucket(s3)
    time.sleep(1.1)  # times of S3 are whole seconds
    obstore.put(store, "slides/a.tif", (slides / "a.tif").read_bytes())
    assert [o.status for o in ingest([url], tmp_path / "S", options=OPTIONS).slides] == ["skipped"]
    obstore.put(store, "slides/a.tif", (slides / "sub/b.tif").read_bytes())
    (outcome,) = ingest([url], tmp_path / "S", options=OPTIONS).slides
    assert outcome.status == "failed"
    assert "pass --replace" in str(outcome.error)


def test_a_server_that_fails_now_and_then_costs_nothing(s3, moto, slides, local, tmp_path):
    url = upload(s3, slides)
    with faulty(moto, seed=1, before=0.1, busy=0.05, after=0.05) as proxy, environment(proxy.server):
        report = ingest([f"{url}/a.tif", f"{url}/sub/*.tif"], tmp_path / "S", options=OPTIONS)
        assert [(o.status, o.tiles) for o in report.slides] == [("done", 12), ("done", 12)]
        assert sum(proxy.faults.values()) > 0


def test_a_slide_that_vanishes_or_changes_costs_that_slide(s3, slides, tmp_path):
    url = upload(s3, slides)
    store, _ = open_bucket(s3)

    class Meddler:
        """Deletes one slide and replaces another once the run has listed them."""

        def planned(self, slides: int, skipped: int) -> None:
            obstore.delete(store, "slides/a.tif")
            obstore.put(store, "slides/sub/b.tif", b"another" * 1000)

        def started(self, slide_id: str, tiles: int, resumed: int) -> None: ...

        def advanced(self, slide_id: str, tiles: int) -> None: ...

        def finished(self, outcome) -> None: ...

    obstore.put(store, "slides/c.tif", (slides / "a.tif").read_bytes())
    report = ingest([url], tmp_path / "S", options=OPTIONS, progress=Meddler())
    said = {o.slide_id: (o.status, o.error) for o in report.slides}
    assert said["c.tif"] == ("done", None)
    assert said["a.tif"][0] == said["sub/b.tif"][0] == "failed"
    assert "is gone from" in said["a.tif"][1]
    assert "was replaced in" in said["sub/b.tif"][1]
    assert not any("\n" in (error or "") for _, error in said.values())


def test_a_slide_too_large_for_the_ring_costs_that_slide(s3, slides, tmp_path):
    url = upload(s3, slides)
    options = IngestOptions(limit_tiles=12, workers=1, slide_reads="whole", slide_cache_gb=0.0011)
    with pytest.raises(UsageError, match="slides need room"):
        ingest([url], tmp_path / "S", options=IngestOptions(slide_cache_gb=0))
    report = ingest([url], tmp_path / "S", options=options)
    said = {o.slide_id: (o.status, o.error) for o in report.slides}
    assert said["a.tif"][0] == "failed"
    assert "--slide-cache-gb" in said["a.tif"][1]


def test_what_is_fetched_ahead_is_what_the_reader_needs(s3, moto, slides, ring):
    url = upload(s3, slides)
    spec = TileSpec(224, 0.5, 224, tissue_min=0.25, tissue_method="otsu-saturation", limit=12)
    with faulty(moto) as proxy, environment(proxy.server):
        (task,) = plan([f"{url}/a.tif"], staging=Staging(reads="ranges"))
        fetch(task, spec)
        assert [path.name for path in ring.glob("*/unread")] == ["unread"]
        size = (slides / "a.tif").stat().st_size
        assert Ring(None).taken() < 1.1 * size
        before = proxy.requests["GET"]
        fetch(task, spec)
        assert proxy.requests["GET"] == before
        with task.open():
            assert not list(ring.glob("*/unread"))


def test_a_manifest_may_name_files_and_addresses(s3, slides, tmp_path):
    url = upload(s3, slides)
    shutil.copy(slides / "a.tif", tmp_path / "here.tif")
    with (tmp_path / "m.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "slide_id", "case_id", "mpp"])
        table.writerow(["here.tif", "", "c1", ""])
        table.writerow([f"{url}/sub/b.tif", "there", "c2", "0.5"])
        table.writerow([f"{url}/none.tif", "none", "", ""])
    tasks = {task.slide_id: task for task in plan([], manifest=tmp_path / "m.csv")}
    assert tasks["here.tif"].path == tmp_path / "here.tif"
    assert (tasks["there"].path, tasks["there"].case_id, tasks["there"].mpp) == (
        f"{url}/sub/b.tif",
        "c2",
        0.5,
    )
    assert tasks["there"].remote is not None
    assert "no such slide was found" in str(tasks["none"].error)
    with_paths = {
        task.slide_id: task for task in plan([url, tmp_path / "here.tif"], manifest=tmp_path / "m.csv")
    }
    assert with_paths["there"].case_id == "c2"
    assert with_paths["here.tif"].case_id == "c1"
    assert set(with_paths) == {"a.tif", "broken.svs", "here.tif", "there", "none"}


def test_wrong_addresses_and_credentials_are_one_line_without_secrets(
    s3, moto, seaweed, tmp_path, monkeypatch
):
    with pytest.raises(UsageError, match="nothing at"):
        plan([f"{s3}/nowhere"])
    with pytest.raises(ObjectStorageError, match="no bucket"):
        plan(["s3://no-such-bucket/slides"])
    with environment(Server("other", seaweed.url, seaweed.make)):
        bucket = seaweed.bucket()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong/" + SECRET_KEY)
        result = CliRunner().invoke(
            app, ["ingest", f"{bucket}/slides", "--store", str(tmp_path / "S")], catch_exceptions=True
        )
        said = result.output + repr(result.exception)
        assert result.exit_code != 0
        assert "refuses these credentials" in said
        assert SECRET_KEY not in said


def test_the_page_and_search_read_such_slides_again(s3, slides, tmp_path):
    url = upload(s3, slides)
    report = ingest([f"{url}/a.tif"], tmp_path / "S", options=OPTIONS)
    table = open_table(tmp_path / "S")
    ((pixels, from_slide),) = tile_pixels(table, [table.hit(3, 1.0)])
    assert from_slide
    (row,) = Store.open(tmp_path / "S").rows(report.recipe)
    viewed = OpenSlides()
    x, y = table.hit(3, 1.0).origin_l0
    with viewed.lease(row) as slide:
        np.testing.assert_array_equal(slide.read_level(0, x, y, 224, 224), pixels)
    obstore.put(open_bucket(s3)[0], "slides/a.tif", (slides / "sub/b.tif").read_bytes())
    viewed.close()
    with pytest.raises(SlideGone, match="changed since"), viewed.lease(row):
        pass
    obstore.delete(open_bucket(s3)[0], "slides/a.tif")
    with pytest.raises(SlideGone, match="not where it was"), viewed.lease(row):
        pass
    ((_, from_slide),) = tile_pixels(table, [table.hit(3, 1.0)])
    assert not from_slide
    viewed.close()


def test_images_are_embedded_from_there(s3, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "t.png")
    obstore.put(open_bucket(s3)[0], "tiles/t.png", (tmp_path / "t.png").read_bytes())
    found = find_images([f"{s3}/tiles"])
    assert [str(item) for item in found] == [f"{s3}/tiles/t.png"]
    np.testing.assert_array_equal(embed(found), embed([tmp_path / "t.png"]))


def test_the_command_takes_addresses(s3, slides, tmp_path):
    url = upload(s3, slides)
    command = ["ingest", f"{url}/*.tif", "--store", str(tmp_path / "S"), "--limit-tiles", "4", "--json"]
    result = CliRunner().invoke(app, [*command, "--slide-cache-gb", "0.5"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["slides"][0]["slide_id"] == "a.tif"
