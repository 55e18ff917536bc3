"""The list of what the wheel brings is CycloneDX, whole, and says so where it cannot be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sbom")
    wheel, out = folder / "w.whl", folder / "sbom.json"
    wheel.write_bytes(b"a wheel")
    command = [sys.executable, str(ROOT / ".ci" / "sbom.py"), "--extra", "cpu", "--extra", "serve"]
    subprocess.run([*command, "--wheel", str(wheel), "-o", str(out)], check=True, timeout=60)
    return json.loads(out.read_text(encoding="utf-8"))


def test_the_sbom_names_every_part_once_and_every_edge_leads_somewhere(made):
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    main = made["metadata"]["component"]
    assert main["name"] == "beph-store"
    assert main["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"a wheel").hexdigest()}]
    parts = {part["name"]: part for part in made["components"]}
    assert {"numpy", "pylance", "openslide-bin", "onnxruntime", "pyarrow", "starlette", "uvicorn"} <= set(
        parts
    )
    assert "torch" not in parts  # an extra that was not asked for
    assert all(part["version"] for part in parts.values())
    refs = [part["bom-ref"] for part in made["components"]] + [main["bom-ref"]]
    assert len(set(refs)) == len(refs)
    assert {edge["ref"] for edge in made["dependencies"]} == set(refs)
    assert all(set(edge["dependsOn"]) <= set(refs) for edge in made["dependencies"])


def test_what_lies_within_the_wheel_is_listed_too(made):
    """The page's libraries, not the tools that build it; and the graph, by its bytes."""
    parts = {part["bom-ref"]: part for part in made["components"]}
    page = json.loads((ROOT / "beph_store/serve/page/package.json").read_text())
    for name, version in page["dependencies"].items():
        assert len(parts[f"pkg:npm/{name}@{version}"]["hashes"][0]["content"]) == 128
    assert not [ref for ref in parts if ref.startswith("pkg:npm/") and ("vite" in ref or "typescript" in ref)]
    graph = ROOT / "beph_store/encoders/assets/beph_mini/encoder.onnx"
    assert parts["encoder:beph_mini/encoder.onnx"]["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256(graph.read_bytes()).hexdigest()}
    ]
    main = made["metadata"]["component"]["bom-ref"]
    (edges,) = [edge["dependsOn"] for edge in made["dependencies"] if edge["ref"] == main]
    assert "encoder:beph_mini/encoder.onnx" in edges


def test_it_follows_the_schema_as_far_as_a_reader_needs(made):
    """Every field by CycloneDX 1.5: types, patterns, no field that the standard does not have."""
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["serialNumber"])
    allowed = {
        *("type", "bom-ref", "name", "version", "purl", "licenses", "hashes", "properties"),
    }
    for part in [*made["components"], made["metadata"]["component"]]:
        assert set(part) <= allowed
        assert part["type"] in ("library", "application", "machine-learning-model")
        for one in part.get("licenses", []):
            assert set(one) in ({"expression"}, {"license"})
        assert len(part.get("licenses", [])) <= 1
        for one in part.get("hashes", []):
            assert len(one["content"]) == {"SHA-256": 64, "SHA-512": 128}[one["alg"]]


def test_a_gap_is_an_error_and_not_a_shorter_list():
    sbom = script("sbom")
    with pytest.raises(SystemExit, match="nothing-of-that-name is not installed"):
        sbom.closure("nothing-of-that-name", [])
    with pytest.raises(SystemExit, match="is not installed"):
        sbom.closure("beph-store", ["tensorrt"])  # from its vendor's index, in no test environment


def test_hashes_are_those_of_the_lock_file(made):
    locked = script("sbom").locked(LOCK.read_text(encoding="utf-8"))
    for part in made["components"]:
        known = locked.get((part["name"], part["version"]), [])
        if len(known) == 1:
            assert part["hashes"] == [{"alg": "SHA-256", "content": known[0]}]
