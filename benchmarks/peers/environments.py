"""An environment for each peer that PyPI serves; torch is not copied into them but linked from the one that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

#: Linked: torch and what makes up its gigabytes. Everything else each environment gets for itself, so that no two
#: versions of NumPy meet.
_LINKED = ("torch", "torchvision", "triton")
_LINKED_KINDS = ("nvidia-", "cuda-", "pytorch-triton")

#: What pip is asked for. wsinfer does not import with zarr 3 (`KVStore` is gone), which its own metadata allows.
PACKAGES: dict[str, tuple[str, ...]] = {
    "lazyslide": ("lazyslide==0.13.0", "timm"),
    "tiatoolbox": ("tiatoolbox==2.1.3",),
    "wsinfer": ("wsinfer==0.6.1", "zarr<3", "tiffslide<3", "openslide-python", "openslide-bin"),
    "cucim": ("cucim-cu13", "openslide-python", "openslide-bin", "timm", "h5py"),
}
#: Its metadata refuses the torch of all the others (2.1.3 wants torch < 2.13); it is installed without its
#: requirements, and then those but torch.
_AGAINST_ITS_METADATA = ("tiatoolbox",)


def environment(folder: Path, name: str) -> Path:
    """The interpreter of ``folder / name``, made unless it is there. CalledProcessError carries pip's last words."""
    home = folder / name
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    print(f"{name}: installing {' '.join(PACKAGES[name])}", flush=True)
    _run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(home)])
    site = next(home.glob("lib/python3*/site-packages"))
    (site / "shared_torch.pth").write_text(f"{_linked(folder / 'torch')}\n")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    same = [f"{package}=={version(package).split('+')[0]}" for package in ("torch", "torchvision")]
    wanted = list(PACKAGES[name])
    if name in _AGAINST_ITS_METADATA:
        _run([*pip, "--no-deps", *wanted])
        wanted = _requirements(python, name)
    _run([*pip, *same, *wanted])
    (home / "ready").touch()
    return python


def describe(python: Path, packages: tuple[str, ...]) -> dict[str, Any]:
    """Version and licence of each package, as its metadata says."""
    code = (
        "import json,sys;from importlib.metadata import metadata as m;"
        "print(json.dumps({p:[m(p)['Version'],m(p).get('License-Expression') or m(p).get('License') or ''] "
        "for p in sys.argv[1:]}))"
    )
    told = json.loads(_run([str(python), "-c", code, *packages]))
    return {
        p: {"version": v, "licence": licence.splitlines()[0] if licence else "not in its metadata"}
        for p, (v, licence) in told.items()
    }


def _requirements(python: Path, name: str) -> list[str]:
    code = "import json,sys;from importlib.metadata import requires;print(json.dumps(requires(sys.argv[1])))"
    rows = json.loads(_run([str(python), "-c", code, name]))
    return [row for row in rows if "extra ==" not in row and not row.startswith(("torch<", "torchvision<"))]


def _linked(folder: Path) -> Path:
    """A folder of links to torch's packages of this interpreter."""
    folder.mkdir(parents=True, exist_ok=True)
    for found in distributions():
        name = (found.metadata["Name"] or "").lower()
        if name not in _LINKED and not name.startswith(_LINKED_KINDS):
            continue
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            link, target = folder / top, Path(str(found.locate_file(top)))
            if target.exists() and not link.is_symlink():
                link.symlink_to(target)
    return folder


def _run(command: list[str]) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, env=kept)
    if done.returncode:
        last = "; ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise OSError(f"{' '.join(command[1:4])} failed: {last}")
    return done.stdout
