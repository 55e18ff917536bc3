"""`make audit`: an index that knows nothing is not taken for good news."""

from __future__ import annotations

import pytest

from .test_sbom import ROOT, script

CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}
WANTED = ["a==1", "b==2"]


def asked(**services):
    def ask(service: str, wanted: list[str]):
        found = services[service]
        return (
            found if isinstance(found, str) else {"dependencies": found[: len(wanted)] if wanted else found}
        )

    return ask


@pytest.mark.parametrize(
    ("services", "code", "words"),
    [
        ({"osv": [CLEAN, CLEAN]}, 0, "2 packages looked up, 0 advisories"),
        ({"osv": [CLEAN, BAD]}, 1, "b 2: PYSEC-1, fixed in 3"),
        ({"osv": [CLEAN, UNKNOWN]}, 2, "not looked up: c"),
        ({"osv": "no name", "pypi": [CLEAN, BAD]}, 1, "PYSEC-1"),
        ({"osv": "no name", "pypi": [UNKNOWN, UNKNOWN]}, 2, "NOT AUDITED"),
        ({"osv": "no name", "pypi": "refused"}, 2, "pypi: refused"),
    ],
)
def test_the_exit_code_says_whether_it_was_an_audit(services, code: int, words: str):
    got, lines = script("audit").audit(WANTED, asked(**services))
    assert got == code
    assert any(words in line for line in lines), lines


def test_it_asks_about_every_pin():
    pins = script("audit").pins((ROOT / "constraints.txt").read_text())
    assert len(pins) > 100
    assert all("==" in pin and "#" not in pin for pin in pins)


def test_a_program_that_fails_is_told_by_its_last_line(tmp_path):
    program = tmp_path / "pip-audit"
    program.write_text("#!/bin/sh\necho Traceback >&2\necho 'cannot resolve' >&2\nexit 1\n")
    program.chmod(0o755)
    assert script("audit").asking(str(program))("osv", WANTED) == "cannot resolve"
