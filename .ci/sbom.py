"""An SBOM of the wheel: what is installed for it, as CycloneDX 1.5 JSON, from the metadata of the installed packages.

    python .ci/sbom.py [--extra NAME …] [-o sbom.json]

Run it in an environment that has the wheel and its extras. Needs nothing but the standard library and packaging.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(root: str, extras: list[str]) -> dict[str, tuple[Distribution, set[str]]]:
    """Name → (distribution, names it needs) of all that ``root`` with its ``extras`` leads to, as installed."""
    found: dict[str, tuple[Distribution, set[str]]] = {}
    asked: list[tuple[str, frozenset[str]]] = [(canonicalize_name(root), frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while asked:
        name, wanted = asked.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            made = distribution(name)
        except PackageNotFoundError:
            continue
        _, needs = found.setdefault(name, (made, set()))
        for text in made.requires or ():
            need = Requirement(text)
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                needs.add(canonicalize_name(need.name))
                asked.append((canonicalize_name(need.name), frozenset(need.extras)))
    return found


def component(made: Distribution) -> dict[str, Any]:
    """One package: name, version, licence, purl, and the SHA-256 of its RECORD, which lists the hash of each file."""
    about = made.metadata
    name, version = canonicalize_name(about["Name"]), made.version
    licence = about.get("License-Expression") or _classified(about.get_all("Classifier") or [])
    told: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }
    if licence:
        key = "expression" if about.get("License-Expression") else "license"
        told["licenses"] = [{key: licence if key == "expression" else {"name": licence}}]
    record = made.read_text("RECORD")
    if record:
        digest = hashlib.sha256(record.encode()).hexdigest()
        told["properties"] = [{"name": "pypi:record-sha256", "value": digest}]
    return told


def _classified(classifiers: list[str]) -> str:
    found = [text.rsplit(" :: ", 1)[1] for text in classifiers if text.startswith("License :: ")]
    return " AND ".join(found)


def sbom(root: str, extras: list[str]) -> dict[str, Any]:
    """The whole document; SystemExit where ``root`` is not installed."""
    found = closure(root, extras)
    if canonicalize_name(root) not in found:
        raise SystemExit(f"error: {root} is not installed here: pip install the wheel first")
    refs = {name: component(made)["bom-ref"] for name, (made, _) in found.items()}
    main, _ = found[canonicalize_name(root)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": component(main) | {"type": "application"},
        },
        "components": [component(made) for name, (made, _) in sorted(found.items()) if made is not main],
        "dependencies": [
            {"ref": refs[name], "dependsOn": sorted(refs[n] for n in needs if n in refs)}
            for name, (_, needs) in sorted(found.items())
        ],
    }


def main() -> None:
    """Write the document to a file or to stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--extra", action="append", default=[], help="an extra of beph-store; may be repeated"
    )
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    text = json.dumps(sbom("beph-store", asked.extra), indent=1) + "\n"
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
