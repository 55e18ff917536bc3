"""The list of what is installed beside the wheel is CycloneDX, and complete as far as it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_sbom(tmp_path):
    out = tmp_path / "sbom.json"
    command = [sys.executable, str(ROOT / ".ci" / "sbom.py"), "--extra", "cpu", "-o", str(out)]
    subprocess.run(command, check=True, timeout=60)
    made = json.loads(out.read_text(encoding="utf-8"))
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    assert made["metadata"]["component"]["name"] == "beph-store"
    parts = {part["name"]: part for part in made["components"]}
    assert {"numpy", "pylance", "openslide-bin", "onnxruntime", "pyarrow"} <= set(parts)
    assert "torch" not in parts  # an extra that was not asked for
    assert all(part["purl"].startswith("pkg:pypi/") and part["version"] for part in parts.values())
    refs = {part["bom-ref"] for part in made["components"]} | {made["metadata"]["component"]["bom-ref"]}
    assert {edge["ref"] for edge in made["dependencies"]} == refs
    assert all(set(edge["dependsOn"]) <= refs for edge in made["dependencies"])
