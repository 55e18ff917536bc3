"""Known vulnerabilities of the versions that `constraints.txt` pins, by pip-audit; `make audit` runs it.

    python .ci/audit.py PIP_AUDIT [FILE]

Asks OSV, then PyPI, for whichever answers. pip-audit alone passes where a package is unknown to the service, so also
where an index answers without advisories: that is no audit, and not taken for one. Exit codes: 0 every package was
looked up and nothing is known; 1 something is; 2 nothing, or not everything, could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
SERVICES = ("osv", "pypi")
Report = dict[str, Any]
Ask = Callable[[str, list[str]], Report | str]


def pins(text: str) -> list[str]:
    """``name==version`` lines."""
    return [line.strip() for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]


def answers(report: Report | str) -> bool:
    """Whether a service looked anything up."""
    return not isinstance(report, str) and any("skip_reason" not in one for one in report["dependencies"])


def verdict(report: Report) -> tuple[int, list[str]]:
    """Exit code and what to say of a whole report."""
    parts = report["dependencies"]
    skipped = [one["name"] for one in parts if "skip_reason" in one]
    lines = [
        f"{one['name']} {one['version']}: {bug['id']}, fixed in {', '.join(bug['fix_versions']) or 'no version yet'}"
        for one in parts
        for bug in one.get("vulns", [])
    ]
    bad = bool(lines)
    lines.append(f"{len(parts) - len(skipped)} packages looked up, {len(lines)} advisories")
    if skipped:
        lines.append(f"not looked up: {', '.join(skipped)}")
    return (1 if bad else 2 if skipped else 0), lines


def audit(wanted: list[str], ask: Ask) -> tuple[int, list[str]]:
    """Ask the first service that knows the first package about all of them."""
    said = []
    for service in SERVICES:
        first = ask(service, wanted[:1])
        if not answers(first):
            why = first if isinstance(first, str) else f"it does not know {wanted[0]}"
            said.append(f"{service}: {why}")
            continue
        report = ask(service, wanted)
        if isinstance(report, str):
            said.append(f"{service}: {report}")
            continue
        return verdict(report)
    return 2, [
        f"NOT AUDITED: no advisory data can be had from here, so nothing is known of the {len(wanted)} packages",
        *said,
    ]


def asking(program: str) -> Ask:
    """Run pip-audit over some pins; what it says, or its last line where it failed."""

    def ask(service: str, wanted: list[str]) -> Report | str:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(wanted) + "\n")
            file.flush()
            line = [program, "-r", file.name, "--no-deps", "--disable-pip", "--format", "json", "-s", service]
            done = subprocess.run(
                [*line, "--progress-spinner", "off"], capture_output=True, text=True, check=False, timeout=900
            )
        try:
            found: Report = json.loads(done.stdout)
        except ValueError:
            return (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
        return found

    return ask


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit((__doc__ or "").strip())
    chosen = Path(sys.argv[2]) if len(sys.argv) == 3 else PINS
    code, told = audit(pins(chosen.read_text(encoding="utf-8")), asking(sys.argv[1]))
    sys.stdout.write("\n".join(told) + "\n")
    sys.exit(code)
