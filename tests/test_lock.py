"""`requirements.lock`: every version that `constraints.txt` pins, with the hashes of its files, for one platform."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .test_sbom import LOCK, ROOT, script

PIN = re.compile(r"[a-z0-9-]+==[^ ;@]+( --hash=sha256:[0-9a-f]{64})+")


def lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").replace("\\\n    ", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_it_pins_what_the_constraints_pin_and_nothing_else():
    """But for the two that build: pip freeze leaves them out."""
    wanted = set()
    for line in lines(ROOT / "constraints.txt"):
        name, _, version = line.partition("==")
        wanted.add(f"{re.sub('[-_.]+', '-', name).lower()}=={version}")
    found = {line.split(" ")[0] for line in lines(LOCK)}
    assert found - wanted <= {line for line in found if line.startswith(("setuptools==", "wheel=="))}
    assert wanted - found == set(), "run `make lock`"


def test_every_file_has_a_hash_and_no_address_of_a_machine_is_in_it():
    assert all(PIN.fullmatch(line) for line in lines(LOCK))
    assert "://" not in LOCK.read_text(encoding="utf-8")


def report(version: str = "1.0", digest: str | None = "a" * 64, name: str = "Some_Thing") -> dict:
    info = {"archive_info": {"hashes": {"sha256": digest}}} if digest else {"dir_info": {}}
    return {"install": [{"metadata": {"name": name, "version": version}, "download_info": info}]}


def test_reports_become_lines():
    lock = script("lock")
    text = lock.written([report(), report(digest="b" * 64)], "cpython-3.11 linux x86_64")
    assert text.splitlines()[-1].strip() == f"--hash=sha256:{'b' * 64}"
    assert f"some-thing==1.0 \\\n    --hash=sha256:{'a' * 64} \\\n" in text
    assert lock.fits(text, "cpython-3.11 linux x86_64")
    assert not lock.fits(text, "cpython-3.12 linux x86_64")
    with pytest.raises(ValueError, match=r"1\.0 in one report, 2\.0 in another"):
        lock.written([report(), report(version="2.0")], "x")
    with pytest.raises(ValueError, match="no SHA-256"):
        lock.written([report(digest=None)], "x")
    assert "beph-store" not in lock.written([report(digest=None, name="beph_store")], "x")
