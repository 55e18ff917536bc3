"""An SBOM of the wheel, as CycloneDX 1.5 JSON.

What is installed for it, by the metadata of the installed packages; and what lies within it: the libraries of the
built page, by npm's lock file, and the encoder's graph.

    python .ci/sbom.py [--extra NAME …] [--wheel FILE] [-o sbom.json]

Run it in a checkout's environment that has the extras. Needs nothing but the standard library and packaging.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def closure(root: str, extras: list[str]) -> dict[str, tuple[Distribution, set[str]]]:
    """Name → (distribution, names it needs) of all that ``root`` with its ``extras`` leads to, as installed.

    SystemExit where something of it is not installed: a list with a gap would pass for a whole one.
    """
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
            raise SystemExit(
                f"error: {name} is not installed here: pip install the wheel with its extras first"
            ) from None
        _, needs = found.setdefault(name, (made, set()))
        for text in made.requires or ():
            need = Requirement(text)
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                needs.add(canonicalize_name(need.name))
                asked.append((canonicalize_name(need.name), frozenset(need.extras)))
    return found


def locked(text: str) -> dict[tuple[str, str], list[str]]:
    """(name, version) → SHA-256 of the files that `requirements.lock` allows."""
    found: dict[tuple[str, str], list[str]] = {}
    for block in text.replace("\\\n", " ").splitlines():
        name, mark, rest = block.partition("==")
        if mark and not block.startswith("#"):
            found[name, rest.split()[0]] = re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)
    return found


def component(made: Distribution, files: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
    """One package: name, version, licence, purl, the SHA-256 of its file where the lock file names one, and that of its
    RECORD, which lists the hash of each file as installed.
    """
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
    known = files.get((name, version), [])
    if len(known) == 1:
        told["hashes"] = [{"alg": "SHA-256", "content": known[0]}]
    if record:
        digest = hashlib.sha256(record.encode()).hexdigest()
        told["properties"] = [{"name": "pypi:record-sha256", "value": digest}]
    return told


def _classified(classifiers: list[str]) -> str:
    found = [text.rsplit(" :: ", 1)[1] for text in classifiers if text.startswith("License :: ")]
    return " AND ".join(found)


def of_the_page(lock: dict[str, Any]) -> list[dict[str, Any]]:
    """What npm's lock file says goes into the built page: not the tools that build it."""
    found = []
    for path, about in sorted(lock["packages"].items()):
        if not path or about.get("dev"):
            continue
        name, version = path.rpartition("node_modules/")[2], about["version"]
        kind, _, digest = about.get("integrity", "").partition("-")
        purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
        told = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        if kind == "sha512":
            told["hashes"] = [{"alg": "SHA-512", "content": base64.b64decode(digest).hex()}]
        if about.get("license"):
            told["licenses"] = [{"license": {"name": about["license"]}}]
        found.append(told)
    return found


def of_encoders(folder: Path) -> list[dict[str, Any]]:
    """The graphs that ship: name, variant and SHA-256."""
    found = []
    for record in sorted(folder.glob("*/encoder.json")):
        spec = json.loads(record.read_text(encoding="utf-8"))["spec"]
        found += [_graph(spec, path) for path in sorted(record.parent.glob("*.onnx"))]
    return found


def _graph(spec: dict[str, Any], path: Path) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"encoder:{path.parent.name}/{path.name}",
        "name": spec["name"],
        "version": spec["variant"],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        "licenses": [{"license": {"name": spec["licence"]}}],
    }


def sbom(root: str, extras: list[str], wheel: Path | None = None) -> dict[str, Any]:
    """The whole document; SystemExit where ``root``, or something that it needs, is not installed."""
    found = closure(root, extras)
    lock = ROOT / "requirements.lock"
    files = locked(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    parts = {name: component(made, files) for name, (made, _) in found.items()}
    refs = {name: part["bom-ref"] for name, part in parts.items()}
    main = parts.pop(canonicalize_name(root)) | {"type": "application"}
    if wheel is not None:
        main["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
    npm = json.loads((ROOT / "beph_store/serve/page/package-lock.json").read_text(encoding="utf-8"))
    inside = [*of_the_page(npm), *of_encoders(ROOT / "beph_store/encoders/assets")]
    edges = {refs[name]: {refs[need] for need in needs} for name, (_, needs) in found.items()}
    edges[main["bom-ref"]] |= {part["bom-ref"] for part in inside}
    edges |= {part["bom-ref"]: set() for part in inside}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": main,
        },
        "components": [*(parts[name] for name in sorted(parts)), *inside],
        "dependencies": [{"ref": ref, "dependsOn": sorted(needs)} for ref, needs in sorted(edges.items())],
    }


def main() -> None:
    """Write the document to a file or to stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--extra", action="append", default=[], help="an extra of beph-store; may be repeated"
    )
    parser.add_argument("--wheel", type=Path, help="the wheel itself, for its hash")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    text = json.dumps(sbom("beph-store", asked.extra, asked.wheel), indent=1) + "\n"
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
