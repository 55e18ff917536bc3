"""The local disk that slides from object storage pass through: its bound, its locks, and what a kill leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import obstore
import pytest

from beph_store.errors import SlideError, UsageError
from beph_store.objects import open_bucket
from beph_store.slides import copies, ring
from beph_store.slides.copies import Copy, SparseFile
from beph_store.slides.remote import Remote, Staging, head
from beph_store.slides.ring import LEAST, VARIABLE, Ring, ring_folder
from tests.objects.proxy import faulty
from tests.objects.server import environment

MB = 1 << 20


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ring"))
    return ring_folder()


def used(small: Ring, name: str, nbytes: int, *, ahead: bool = False) -> None:
    """Take, fill and let go of an entry."""
    entry = small.take(name, [("file", nbytes)], ahead=ahead)
    entry.reserve(nbytes)
    entry.release()
    time.sleep(0.01)  # its last use is told from the next one's


def names(small: Ring) -> set[str]:
    return {path.name for path in small.folder.iterdir() if path.is_dir()}


def test_the_longest_unused_goes_first_and_the_bound_holds(folder):
    small = Ring(10 * MB, folder)
    for name in "abc":
        used(small, name, 3 * MB)
    used(small, "a", 3 * MB)
    used(small, "d", 3 * MB)
    assert names(small) == {"a", "c", "d"}
    assert small.taken() <= small.limit


def test_what_is_in_use_stays_and_others_wait_for_it(folder):
    small = Ring(10 * MB, folder)
    held = small.take("held", [("file", 8 * MB)])
    held.reserve(8 * MB)
    late = small.take("late", [("file", 5 * MB)])
    seen = []

    def waiting() -> None:
        seen.append(names(small))
        if len(seen) == 3:
            held.release()

    late.reserve(5 * MB, waiting)
    assert seen == [{"held", "late"}] * 3
    assert names(small) == {"late"}


def test_a_ring_full_of_slides_in_use_is_an_error_in_the_end(folder, monkeypatch):
    monkeypatch.setattr(ring, "WAIT_S", 0.2)
    small = Ring(10 * MB, folder)
    held = small.take("held", [("file", 8 * MB)])
    held.reserve(8 * MB)
    with pytest.raises(SlideError, match="full of slides in use: pass a larger --slide-cache-gb"):
        small.take("late", [("file", 5 * MB)]).reserve(5 * MB)
    held.release()


def test_what_was_fetched_ahead_waits_for_its_reader_but_not_against_another(folder, monkeypatch):
    monkeypatch.setattr(ring, "WAIT_S", 0.2)
    small = Ring(10 * MB, folder)
    used(small, "next", 6 * MB, ahead=True)
    with pytest.raises(SlideError):
        small.take("after", [("file", 6 * MB)], ahead=True).reserve(6 * MB)
    used(small, "now", 6 * MB)
    assert "next" not in names(small)
    used(small, "next", 3 * MB, ahead=True)
    used(small, "next", 3 * MB)
    used(small, "after", 6 * MB, ahead=True)  # it was read: it may go
    assert "after" in names(small)


def test_leftovers_strangers_and_the_long_unused_are_swept(folder):
    first = Ring(10 * MB, folder)
    for name in ("old", "new", "other-boot"):
        used(first, name, MB)
    (folder / "~new-abc" / "files").mkdir(parents=True)
    os.utime(folder / "old" / "pin", (0, 0))
    entry = folder / "other-boot" / "entry.json"
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "boot": "another"}))
    assert names(Ring(10 * MB, folder)) == {"new"}


def test_an_unlimited_ring_takes_a_quarter_of_the_free_disk(folder):
    stat = os.statvfs(folder)
    assert Ring(None, folder).limit == pytest.approx(stat.f_bavail * stat.f_frsize / 4, rel=0.1)


def test_another_user_s_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    own = ring_folder()
    assert own.parent == tmp_path
    assert own.stat().st_mode & 0o077 == 0
    own.rename(tmp_path / "beph-store-slides-12345")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UsageError, match=f"another user's: set {VARIABLE}"):
        ring_folder()


def test_a_sparse_file_asks_for_what_is_missing_in_few_pieces(tmp_path):
    size = 5 * MB + 123
    (tmp_path / "f").write_bytes(b"\0" * size)
    item = Remote("s3://b/f", size, 0, None)
    sparse = SparseFile(item, tmp_path / "f", tmp_path / "m")
    whole = sparse.missing([(0, size)])
    assert whole[0][0] == 0
    assert whole[-1][1] == size
    assert all(b - a <= copies.REQUEST for a, b in whole)
    assert [a for a, _ in whole[1:]] == [b for _, b in whole[:-1]]
    near = sparse.missing([(100, 10), (100 + copies.GAP, 10), (4 * MB, 1), (3, 0)])
    assert near == [(0, copies.GAP + copies.BLOCK), (4 * MB, 4 * MB + copies.BLOCK)]
    sparse.put(0, b"x" * (copies.GAP + copies.BLOCK))
    assert sparse.missing([(100, 10), (size - 1, 1)]) == [(size // copies.BLOCK * copies.BLOCK, size)]
    assert sparse.has(100, 10)
    assert not sparse.has(copies.GAP + copies.BLOCK - 1, 2)
    sparse.close()
    again = SparseFile(item, tmp_path / "f", tmp_path / "m")
    assert again.has(0, copies.GAP)
    again.close()


# With a server --------------------------------------------------------------------------------


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(0).bytes(12 * MB + 7)


def put(bucket: str, content: bytes, key: str = "object.bin") -> str:
    obstore.put(open_bucket(bucket)[0], key, content)
    return f"{bucket}/{key}"


COPY = """
import sys, hashlib
from beph_store.slides import local_copy
with local_copy(sys.argv[1]) as path:
    print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(s3, moto, folder, content):
    with faulty(moto) as proxy, environment(proxy.server):
        content = content + content[1:]
        url = put(s3, content)
        proxy.bytes_per_s = 2.5e6  # of each of the connections
        child = subprocess.Popen([sys.executable, "-c", COPY, url])
        while (
            sum(np.fromfile(path, np.uint8).sum() for path in folder.glob("*/map-0")) < 2 * MB / copies.BLOCK
        ):
            time.sleep(0.01)
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        proxy.bytes_per_s = float("inf")
        time.sleep(0.2)  # until what it asked for last is under way
        while proxy.under_way:
            time.sleep(0.01)
        before = proxy.sent
        with Copy(head(url), Staging()) as copy:
            assert copy.whole().read_bytes() == content
        assert (
            proxy.sent - before <= len(content) - 2 * MB + 4096
        )  # headers of the answers are counted as well
        assert not list(folder.glob("~*"))


def test_two_processes_fetch_a_slide_once(s3, moto, folder, content):
    with faulty(moto) as proxy, environment(proxy.server):
        url = put(s3, content)
        proxy.bytes_per_s = 1e7
        before = proxy.sent
        children = [
            subprocess.Popen([sys.executable, "-c", COPY, url], stdout=subprocess.PIPE) for _ in range(2)
        ]
        said = {child.communicate()[0] for child in children}
        assert len(said) == 1
        assert [child.returncode for child in children] == [0, 0]
        assert proxy.sent - before < len(content) + MB


def test_a_full_disk_is_told_and_first_emptied_of_what_nobody_uses(s3, folder, content, monkeypatch):
    put(s3, content[:MB], "old.bin")
    with Copy(head(f"{s3}/old.bin"), Staging()) as copy:
        copy.whole()
    write, full = os.pwrite, []

    def pwrite(file: int, data: bytes, offset: int) -> int:
        if full or list(folder.glob("*/files/old.bin")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    url = put(s3, content)
    with Copy(head(url), Staging()) as copy:
        assert copy.whole().read_bytes() == content
    full.append(True)
    put(s3, content[1:], "third.bin")
    told = f"no space left for slides in {folder}.*{VARIABLE}"
    with Copy(head(f"{s3}/third.bin"), Staging()) as copy, pytest.raises(SlideError, match=told):
        copy.whole()


def test_a_copy_counts_for_what_it_holds(s3, folder, content):
    url = put(s3, content)
    with Copy(head(url), Staging(reads="ranges")) as copy:
        copy.want([(0, 100)])
        held = Ring(None, folder)
        assert held.taken() == LEAST
        copy.want([(4 * MB, 3 * MB)])
        assert 3 * MB <= held.taken() <= 3 * MB + 4 * copies.BLOCK
        copy.whole()
        assert len(content) <= held.taken() <= len(content) + copies.BLOCK
