"""A torch file is opened once, in a process that can do little else, and is safetensors from there on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from beph_store.errors import WeightsMismatch

_CHILD = Path(__file__).with_name("unpickle_child.py")
_SECONDS = 900.0
#: Bytes of files whose tensors stay in memory, a few of them.
_SMALL = 4 << 20
#: Of the caller's environment the child gets what finds libraries; no keys, no tokens, no proxies.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG")


def tensors_of(path: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """Every tensor of a torch file by name; entries called one of ``keys`` are looked into, one after the other.

    No code of the file runs: see `unpickle_child`. Takes the time to start torch once more, and for a moment the disk
    space of the file. Raises WeightsMismatch.
    """
    stat = path.stat()
    if stat.st_size <= _SMALL:
        return {
            name: tensor.clone()
            for name, tensor in _small(
                path.resolve(), (stat.st_ino, stat.st_size, stat.st_mtime_ns), tuple(keys)
            ).items()
        }
    return _opened(path, keys)


@lru_cache(maxsize=8)
def _small(path: Path, _stat: tuple[int, int, int], keys: tuple[str, ...]) -> dict[str, Tensor]:
    """A small file is often asked for several things in a row, and starting torch is what takes the time."""
    return _opened(path, keys)


def _opened(path: Path, keys: Sequence[str]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    with TemporaryDirectory(prefix="beph-store-weights-") as folder:
        out = Path(folder, "tensors.safetensors").resolve()
        answer = _converted(path.resolve(), out, keys)
        if answer.get("error") == "none":
            raise WeightsMismatch(f"{path} holds no state_dict of tensors", path=path)
        if answer.get("error") == "save":
            raise WeightsMismatch(
                f"the tensors of {path} cannot be taken over: {answer.get('why')}", path=path
            )
        if "error" in answer:
            raise WeightsMismatch(
                f"{path} is not a plain torch file of tensors ({answer.get('why')}): a file that holds Python objects "
                "is refused, as opening it would run its code; save its state_dict alone",
                path=path,
            )
        # Copied out of the map: the file goes with the folder.
        return {name: tensor.clone() for name, tensor in load_file(out).items()}


def _converted(path: Path, out: Path, keys: Sequence[str]) -> dict[str, str]:
    """What the child says; a child that died or took too long is a file that cannot be loaded."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(out.parent), "TMPDIR": str(out.parent)}
    command = [sys.executable, "-I", str(_CHILD), str(path), str(out), *keys]
    try:
        done = subprocess.run(
            command, env=environment, cwd=out.parent, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": "load", "why": f"more than {_SECONDS:.0f} s"}
    lines = done.stdout.decode(errors="replace").splitlines()
    try:
        said = json.loads(lines[-1]) if lines else None
    except ValueError:
        said = None
    if not isinstance(said, dict) or done.returncode != 0:
        return {"error": "load", "why": f"the process that opened it ended with {done.returncode}"}
    return {str(name): str(value) for name, value in said.items()}
