"""Downloads that are cut go on, and never become a mixture of two files."""

import hashlib
import json

import pytest

from beph_store.encoders import download
from beph_store.encoders.download import fetch
from beph_store.errors import EncoderError
from tests.encoders.servers import serving

DATA = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def shelf(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    monkeypatch.setattr(download, "_BLOCK", 1 << 14)
    with serving() as shelf:
        shelf.files["/w.pth"] = DATA
        yield shelf


def test_a_file_comes_whole_with_its_hash(shelf, tmp_path):
    seen = []
    got = fetch(f"{shelf.url}/w.pth", tmp_path / "w.pth", tell=lambda done, total: seen.append((done, total)))
    assert (got.bytes, got.sha256, got.resumed) == (len(DATA), SHA, 0)
    assert got.path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def test_a_cut_connection_is_taken_up_where_it_ended(shelf, tmp_path):
    shelf.cut = [300_000, 100_000]
    got = fetch(f"{shelf.url}/w.pth", tmp_path / "w.pth")
    assert got.sha256 == SHA
    assert shelf.asked == [
        ("/w.pth", None),
        ("/w.pth", "bytes=300000-"),
        ("/w.pth", "bytes=400000-"),
    ]


def cut_for_good(shelf, path):
    shelf.cut = [100_000, *[0] * 4]
    with pytest.raises(
        EncoderError, match=r"was cut 5 times at 100,000 bytes: run it again, it goes on from there"
    ):
        fetch(f"{shelf.url}/w.pth", path)
    assert not path.exists()
    assert path.with_name("w.pth.part").stat().st_size == 100_000


def test_the_next_call_goes_on_from_what_the_last_one_left(shelf, tmp_path):
    cut_for_good(shelf, tmp_path / "w.pth")
    shelf.asked.clear()
    got = fetch(f"{shelf.url}/w.pth", tmp_path / "w.pth")
    assert (got.sha256, got.resumed) == (SHA, 100_000)
    assert shelf.asked == [("/w.pth", "bytes=100000-")]


def test_the_rest_of_another_file_is_never_joined(shelf, tmp_path):
    cut_for_good(shelf, tmp_path / "w.pth")
    other = DATA[::-1]
    shelf.files["/w.pth"] = other
    assert fetch(f"{shelf.url}/w.pth", tmp_path / "w.pth").path.read_bytes() == other
    (tmp_path / "w.pth").unlink()
    cut_for_good(shelf, tmp_path / "w.pth")
    shelf.files["/mirror.pth"] = DATA
    assert fetch(f"{shelf.url}/mirror.pth", tmp_path / "w.pth").sha256 == SHA


@pytest.mark.parametrize("off", ["ranges", "tags"])
def test_a_server_without_ranges_or_tags_sends_it_all_again(shelf, tmp_path, off):
    setattr(shelf, off, False)
    shelf.cut = [200_000]
    assert fetch(f"{shelf.url}/w.pth", tmp_path / "w.pth").sha256 == SHA


def test_a_part_that_is_whole_needs_no_more_bytes(shelf, tmp_path):
    """Killed between the last byte and the rename."""
    (tmp_path / "w.pth.part").write_bytes(DATA)
    note = {"url": f"{shelf.url}/w.pth", "validator": f'"{SHA}"', "bytes": len(DATA)}
    (tmp_path / "w.pth.part.json").write_text(json.dumps(note))
    got = fetch(f"{shelf.url}/w.pth", tmp_path / "w.pth")
    assert (got.sha256, got.resumed) == (SHA, len(DATA))


def test_what_is_no_file_is_refused_with_the_cure(shelf, tmp_path):
    shelf.pages.add("/page")
    for path, words in (
        ("page", r"sends a web page in place of the file .*: by hand"),
        ("absent", r"answers 404 .*: by hand"),
    ):
        with pytest.raises(EncoderError, match=words):
            fetch(f"{shelf.url}/{path}", tmp_path / "w", cure=": by hand")
    with pytest.raises(EncoderError, match=r"127\.0\.0\.1:1 cannot be reached"):
        fetch("http://127.0.0.1:1/w", tmp_path / "w")
    for url in ("file:///etc/passwd", "w.pth", "ftp://example.org/w"):
        with pytest.raises(EncoderError, match="is no address of a file"):
            fetch(url, tmp_path / "w")
    assert list(tmp_path.iterdir()) == []


def test_redirects_are_followed_but_never_out_of_https(shelf, tmp_path):
    shelf.moved["/here"] = f"{shelf.url}/w.pth"
    assert fetch(f"{shelf.url}/here", tmp_path / "w.pth").sha256 == SHA
    guard = download._SafeRedirects()
    request = download.urllib.request.Request("https://example.org/w")
    with pytest.raises(EncoderError, match="is not https: refused"):
        guard.redirect_request(request, None, 302, "Found", {}, "http://example.org/w")
