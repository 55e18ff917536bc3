"""The built page: what is sent, how long a browser may keep it, and what a checkout without a build says."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from beph_store.serve import page_files

from .conftest import client_of


@pytest.fixture
def built(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "index-abc123.js").write_text("let page = 1;\n" * 50)
    (folder / "notes.py").write_text("secret")
    monkeypatch.setattr(page_files, "BUILT", folder)
    return folder


def test_the_page_is_asked_for_anew_and_its_files_are_kept(ingested, built) -> None:
    with client_of(ingested[0]) as client:
        page = client.get("/")
        assert page.text == "<!doctype html><title>page</title>"
        assert page.headers["cache-control"] == "private, no-cache"
        script = client.get("/page/index-abc123.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert "immutable" in script.headers["cache-control"]
        assert script.content == (built / "index-abc123.js").read_bytes()
        assert "script-src 'self'" in script.headers["content-security-policy"]
        again = client.get("/", headers={"if-none-match": page.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_it_is_packed_for_whoever_can_unpack(ingested, built) -> None:
    with client_of(ingested[0]) as client:
        plain = client.get("/page/index-abc123.js", headers={"accept-encoding": "identity"})
        packed = client.get("/page/index-abc123.js", headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(plain.content)
        assert packed.content == plain.content  # the client unpacked it
        held = page_files.read_page_files(built)["index-abc123.js"]
        assert gzip.decompress(held.packed or b"") == plain.content


@pytest.mark.parametrize(
    "name", ["notes.py", "nothing.js", "..%2findex.html", "%2e%2e/%2e%2e/app.py", "index.html/../../app.py"]
)
def test_only_the_files_of_the_build_are_there(ingested, built, name: str) -> None:
    with client_of(ingested[0]) as client:
        assert client.get(f"/page/{name}").status_code == 404


def test_the_page_needs_the_token_as_all_else(ingested, built) -> None:
    with client_of(ingested[0]) as client:
        client.headers.pop("authorization")
        assert client.get("/page/index-abc123.js").status_code == 401


def test_without_a_build_it_says_how_to_make_one(ingested, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(page_files, "BUILT", tmp_path)
    with client_of(ingested[0]) as client:
        assert "make page" in client.get("/").text
        assert client.get("/page/index.html").status_code == 404
