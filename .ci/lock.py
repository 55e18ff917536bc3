"""The exact files that the tests run with: names, versions and SHA-256, as `pip install --require-hashes` reads them.

    python .ci/lock.py write REPORT…   from `pip install --dry-run --ignore-installed --report`; prints the list
    python .ci/lock.py fits            exit code 0 where the list is for this Python and machine

A file's hash says nothing about another platform's file of the same version, so the list is for one platform, which its
first line names; everywhere else `constraints.txt` pins the versions. Needs nothing but the standard library.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
_OURS = "beph-store"
_MARK = "# for: "


def here() -> str:
    """What decides which files pip takes: CPython's minor version, the system, the processor."""
    system, kind = platform.system().lower(), platform.machine().lower()
    return f"{platform.python_implementation().lower()}-{sys.version_info[0]}.{sys.version_info[1]} {system} {kind}"


def pinned(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Name → (version, SHA-256) of every package that a report of pip's would install, our own left out.

    ValueError for one that has no hash: a checkout or a folder, which nothing can be said about.
    """
    found = {}
    for one in report["install"]:
        name = re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()
        if name == _OURS:
            continue
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"{name}: pip's report has no SHA-256 of it")
        # A local build (+cpu) is another file than the index has, and must not be asked of others.
        found[name] = (one["metadata"]["version"].partition("+")[0], digest)
    return found


def written(reports: list[dict[str, Any]], where: str) -> str:
    """The list. Reports of several indices may give several files of one version; versions must agree."""
    files: dict[str, tuple[str, set[str]]] = {}
    for report in reports:
        for name, (version, digest) in pinned(report).items():
            known, digests = files.setdefault(name, (version, set()))
            if known != version:
                raise ValueError(f"{name}: {known} in one report, {version} in another")
            digests.add(digest)
    lines = [
        f"{_MARK}{where}",
        "# Written by `make lock`; `make test` installs from it where it fits. Other platforms: constraints.txt.",
    ]
    for name, (version, digests) in sorted(files.items()):
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(digests))
        lines.append(f"{name}=={version}{hashes}")
    return "\n".join(lines) + "\n"


def fits(text: str, where: str) -> bool:
    """Whether a list is for that platform."""
    return text.startswith(f"{_MARK}{where}\n")


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if arguments == ["fits"]:
        return 0 if LOCK.is_file() and fits(LOCK.read_text(encoding="utf-8"), here()) else 1
    if len(arguments) > 1 and arguments[0] == "write":
        reports = [json.loads(Path(name).read_text(encoding="utf-8")) for name in arguments[1:]]
        sys.stdout.write(written(reports, here()))
        return 0
    sys.stderr.write((__doc__ or "").strip() + "\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
