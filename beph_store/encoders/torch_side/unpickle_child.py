"""A program of its own, run by `confined`: a torch file in, its tensors as safetensors out, and nothing else done.

    python -I unpickle_child.py CHECKPOINT OUT.safetensors [KEY …]

``weights_only=True`` is meant to run no code of the file, and has been got round twice (CVE-2025-32434,
CVE-2026-24747). So it is done here: in a process with limits on memory, processor and file size, without the network
where the system lets it, without the caller's environment, and under an audit hook that ends every attempt to unpickle
by Python's own pickle, to start a program, to open a socket, or to write a file but OUT. A hook cannot be taken off.

Imports nothing of ours: the less is loaded here, the less there is to reach.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_DENIED: tuple[str, ...] = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.kill",
    "subprocess.",
    "pty.",
)
_DENIED += (
    "pickle.find_class",
    "socket.",
    "ctypes.dlopen",
    "shutil.",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.chmod",
)
_DENIED += (
    "os.link",
    "os.symlink",
    "os.mkdir",
    "os.truncate",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "code.__new__",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CLONE_NEWUSER, _CLONE_NEWNET, _NO_NEW_PRIVS = 0x10000000, 0x40000000, 38


def leave_network() -> None:
    """Into a network namespace with nothing in it, and no new rights by programs, where the system lets us."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    except (OSError, AttributeError):
        pass


def limit(file_bytes: int) -> None:
    """Memory beyond what is loaded now, processor seconds, bytes of a written file; nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        if _LINUX
        else 4 << 30
    )
    wanted = (
        (resource.RLIMIT_AS, used + 4 * file_bytes + (1 << 30)),
        (resource.RLIMIT_CPU, 120 + file_bytes // 20_000_000),
        (resource.RLIMIT_FSIZE, 2 * file_bytes + (64 << 20)),
        (resource.RLIMIT_CORE, 0),
    )
    for what, most in wanted:
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


_LINUX = sys.platform == "linux"


def guard(out: Path) -> None:
    """From here on this process reads, computes and writes ``out``."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_DENIED):
            raise PermissionError(f"the file tried {event}")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            name = arguments[0]
            if not isinstance(name, int) and Path(os.fsdecode(name)) not in (out, Path(os.devnull)):
                raise PermissionError(f"the file tried to write {os.fsdecode(name)}")

    sys.addaudithook(hook)


def main(source: Path, out: Path, keys: list[str]) -> dict[str, Any]:
    """Convert; what to tell the caller."""
    leave_network()
    import torch
    from safetensors.torch import save_file

    limit(source.stat().st_size)
    guard(out)
    try:
        data = torch.load(source, map_location="cpu", weights_only=True)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the caller is told its name
        return {"error": "load", "why": type(error).__name__}
    for key in keys:
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if not isinstance(data, dict) or not data or not all(isinstance(v, torch.Tensor) for v in data.values()):
        return {"error": "none"}
    try:
        save_file({str(k): v.detach().contiguous().clone() for k, v in data.items()}, out)
    except BaseException as error:  # noqa: BLE001 - sparse and quantised tensors, a full disk, the limit of memory
        return {"error": "save", "why": f"{type(error).__name__}: {error}"[:300]}
    return {"tensors": len(data)}


if __name__ == "__main__":
    answer = main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # torch's threads and destructors may wait for what the limits forbid
