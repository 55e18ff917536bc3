"""Nothing outside the named folders is ever ingested, and nobody learns what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest

from beph_store.errors import UsageError
from beph_store.serve.jobs.roots import inside
from beph_store.testing.synthetic import formula_slide


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """root/a.tif, root/deep/b.tif, secret/s.tif, and links out of root and within it."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("root/a.tif", "root/deep/b.tif", "secret/s.tif"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        formula_slide(folder / name, downsamples=(1,))
    (folder / "root/out.tif").symlink_to(folder / "secret/s.tif")
    (folder / "root/outer").symlink_to(folder / "secret")
    (folder / "root/within.tif").symlink_to(folder / "root/deep/b.tif")
    (folder / "root/round").symlink_to(folder / "root/round")
    (folder / "root/empty").mkdir()
    (folder / "link").symlink_to(folder / "root")
    return folder


def test_what_lies_inside_is_found_by_either_kind_of_path(places) -> None:
    root = places / "root"
    assert inside(["a.tif", "deep"], [root]) == [root / "a.tif", root / "deep"]
    assert inside([str(root / "deep/b.tif")], [root]) == [root / "deep/b.tif"]
    assert inside(["deep/../a.tif"], [root]) == [root / "a.tif"]
    assert inside(["a.tif"], [places / "secret", root]) == [root / "a.tif"]
    assert inside(["a.tif"], [places / "link"]) == [root / "a.tif"]


def test_a_link_within_keeps_its_name(places) -> None:
    assert inside(["within.tif"], [places / "root"]) == [places / "root/within.tif"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret/s.tif",
        "../secret",
        "..",
        "/etc/passwd",
        "/",
        "out.tif",
        "outer",
        "outer/s.tif",
        "deep/../../secret/s.tif",
        "no-such.tif",
        "round",
        "a.tif/..\0",
        "*.tif",
        "~",
    ],
)
def test_what_lies_elsewhere_is_refused_in_the_words_of_what_is_not_there(places, path: str) -> None:
    with pytest.raises(UsageError, match="no such slide or folder under an --ingest-root"):
        inside([path], [places / "root"])
    with pytest.raises(UsageError, match="no such slide"):
        inside([str(places / "secret/s.tif")], [places / "root"])


def test_a_folder_with_a_link_that_leads_out_is_refused(places) -> None:
    with pytest.raises(UsageError, match=r"out\.tif is a link that leads out"):
        inside(["."], [places / "root"])


def test_an_empty_folder_is_said(places) -> None:
    with pytest.raises(UsageError, match="no slides in there"):
        inside(["empty"], [places / "root"])
