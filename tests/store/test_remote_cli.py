"""The command line on a store in a bucket: the same tables as on a disk, and one line for what is wrong."""

from __future__ import annotations

import os
import shutil

import pytest

from beph_store.store import Store
from tests.cli.calling import call as here
from tests.cli.calling import one_object, spawn
from tests.objects.server import SECRET_KEY, environment


def call(*arguments, code=0, by=here):
    out, err = by(*arguments, "--json", code=code)
    assert SECRET_KEY not in out + err
    return one_object(out)


@pytest.fixture(scope="module")
def both(moto, drawn_slide, tmp_path_factory):
    """The addresses of two stores of the same slide, on a disk and in a bucket, and the folder around them."""
    folder = tmp_path_factory.mktemp("cli")
    shutil.copy(drawn_slide.path, folder / "a.tif")
    with environment(moto), pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEPH_STORE_WORK", str(folder / "work"))
        stores = str(folder / "S"), f"{moto.bucket()}/a study/S"
        for store, by in zip(stores, (here, spawn), strict=True):
            call("ingest", folder / "a.tif", "--store", store, "--limit-tiles", 8, "--keep-tiles", by=by)
        yield *stores, folder


def test_the_same_slide_gives_the_same_rows(both):
    disk, bucket, folder = both
    rows = [Store.open(root).rows(Store.open(root).recipe().recipe.key)[0] for root in (disk, bucket)]
    assert rows[0].sha256 == rows[1].sha256
    assert rows[0].pixels_sha256 == rows[1].pixels_sha256
    assert rows[0].tiles == rows[1].tiles == 8
    again = call("ingest", folder / "a.tif", "--store", bucket, "--limit-tiles", 8, "--keep-tiles")
    assert [slide["status"] for slide in again["slides"]] == ["skipped"]


def test_commands_read_and_write_there(both):
    _, bucket, folder = both
    assert call("verify", bucket)["ok"]
    assert call("search", bucket, "--slide", "a.tif", "--exclude", "none", "--top", 3)
    assert call("compact", bucket)["rows_removed"] == 0
    assert call("verify", bucket)["tiles"] == 8
    assert (folder / "work").is_dir()


def test_what_cannot_be_is_one_line(both):
    _, bucket, _ = both
    assert "for reading" in call("serve", bucket, "--allow-write", code=2)["error"]
    assert "makes one" in call("info", f"{bucket}-other", code=1)["error"]
    assert "must not carry credentials" in call("info", "s3://me:secret@bucket/S", code=2)["error"]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET_KEY
