"""Run a Python module in a network of its own that has nothing but the loopback device, and in which all ends with it.

Ray listens on every address that it finds and takes 127.0.0.1 for the machine's own address in the network. In here
there is no other: nothing can be reached from outside, nothing leaves, and no process outlives the run.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import runpy
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

_SIOCSIFFLAGS, _SIOCGIFFLAGS, _IFF_UP = 0x8914, 0x8913, 0x1
_ROOT = Path(__file__).resolve().parents[3]


@functools.cache
def why_not() -> str | None:
    """Why there can be no such namespace here, or None."""
    if shutil.which("unshare") is None:
        return "there is no unshare(1) here"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    return f"unshare is not permitted here: {tried.stderr.strip()}" if tried.returncode else None


def needed() -> pytest.MarkDecorator:
    """Skips a test, and says why, where it cannot be had; and where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError:
        return pytest.mark.skip(reason="Ray is not installed")
    return pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


def run_alone(module: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments…`` in there. What it wrote is in the result; TimeoutExpired after ``timeout`` s."""
    command = [*_unshare(), sys.executable, "-m", __name__, module, *arguments]
    process = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(
                process.pid, signal.SIGKILL
            )  # its child is the namespace's first process: all there end
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _unshare() -> list[str]:
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *as_root, "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        asked = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(device, _SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(device, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _reap_until(child: int) -> int:
    """What the first process of a namespace is there for: orphans become its own. Returns the child's exit code."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    _loopback_up()
    if child := os.fork():
        sys.exit(abs(_reap_until(child)))
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
