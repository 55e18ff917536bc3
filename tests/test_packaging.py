"""What a package promises: names, versions, extras and files that fit together."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import beph_store

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
#: Not part of the tested set: other machines, libraries that only their vendor's index has, or not used yet.
ELSEWHERE = {"gpu", "tensorrt", "tensorrt-rtx", "ray"}


def constraints() -> dict[str, str]:
    rows = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [row.split("==") for row in rows if row and not row.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def requirements(extra: str) -> list[Requirement]:
    return [Requirement(text) for text in EXTRAS.get(extra, PROJECT["project"]["dependencies"])]


def test_the_version_is_said_once():
    assert PROJECT["project"]["version"] == beph_store.__version__
    assert f"## [{beph_store.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_base_install_is_light_and_names_no_runtime():
    names = {requirement.name for requirement in requirements("base")}
    assert not names & {"torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxruntime-gpu"}


def test_cpu_and_gpu_are_declared_to_exclude_each_other():
    conflicts = [{item["extra"] for item in group} for group in PROJECT["tool"]["uv"]["conflicts"]]
    assert {"cpu", "gpu"} in conflicts
    assert [r.name for r in requirements("cpu")] == ["onnxruntime"]
    assert "onnxruntime-gpu" in [r.name for r in requirements("gpu")]


@pytest.mark.parametrize("extra", ["base", *sorted(set(EXTRAS) - ELSEWHERE)])
def test_the_tested_set_pins_every_requirement_within_its_range(extra):
    pins = constraints()
    for requirement in requirements(extra):
        name = canonicalize_name(requirement.name)
        if name == "beph-store":
            continue
        assert name in pins, f"constraints.txt lacks {name}: run `make constraints`"
        assert requirement.specifier.contains(pins[name]), f"{name} {pins[name]} is outside {requirement}"


def test_the_tested_set_is_public_versions_in_order():
    pins = constraints()
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    assert list(pins) == sorted(pins, key=lambda name: name.replace("-", "_")) or list(pins) == sorted(pins)


def test_every_package_on_disk_has_an_init_and_says_that_it_is_typed():
    for package in (ROOT / "beph_store", ROOT / "cli/beph_store_cli", ROOT / "kernels/beph_store_kernels"):
        assert (package / "py.typed").is_file()
        folders = {path.parent for path in package.rglob("*.py")}
        assert all((folder / "__init__.py").is_file() for folder in folders)


def test_the_licence_is_the_one_declared():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_the_installed_command_runs_from_another_folder(tmp_path):
    (entry,) = metadata.entry_points(group="console_scripts", name="beph-store")
    assert callable(entry.load())
    command = Path(sys.executable).with_name("beph-store")
    done = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"beph-store {beph_store.__version__}"
