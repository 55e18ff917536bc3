"""Object storage servers on loopback for tests: two that keep every row, and one that does not."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

#: What the servers take. Long and odd, so that a test can look for them in everything that was printed.
ACCESS_KEY = "AKIATESTONLYACCESSKEY"
SECRET_KEY = "only-for-tests/SeCrEt+0123456789abcdef"
_CHANCE = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers at ``url``; ``make`` makes a bucket of that name."""

    name: str
    url: str
    make: Callable[[str], None]

    def environment(self) -> dict[str, str]:
        """The variables of a client."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    def bucket(self) -> str:
        """Make a new bucket; its address."""
        name = f"b{uuid.uuid4().hex[:12]}"
        self.make(name)
        return f"s3://{name}"


@contextlib.contextmanager
def environment(server: Server) -> Iterator[None]:
    """This process, and those it starts, use the server."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(server.environment())
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def moto_server() -> Iterator[Server]:
    """moto: in memory, takes any credentials."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [_script("moto_server"), "-H", "127.0.0.1", "-p", str(port)]

    def make(name: str) -> None:
        request = urllib.request.Request(f"{url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    with _running(command, port):
        yield Server("moto", url, make)


@contextlib.contextmanager
def seaweed_server() -> Iterator[Server]:
    """SeaweedFS: on disk, and it checks the credentials."""
    ports = list({free_port() for _ in range(16)})[:8]  # no two the same
    master, volume, filer, s3, *grpc = ports
    with tempfile.TemporaryDirectory(prefix="seaweed-", ignore_cleanup_errors=True) as folder:
        config = Path(folder, "s3.json")
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        data = Path(folder, "data")
        data.mkdir()
        options = {
            "dir": data, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.port": master, "volume.port": volume,
            "filer.port": filer, "s3.port": s3, "s3.config": config, "master.port.grpc": grpc[0],
            "volume.port.grpc": grpc[1], "filer.port.grpc": grpc[2], "s3.port.grpc": grpc[3],
            "s3.port.iceberg": 0, "s3.port.lance": 0,  # fixed ports: a second server beside it would end at once
            "volume.max": 400, "master.volumeSizeLimitMB": 64,
        }  # fmt: skip
        command = [_script("weed"), "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]

        def make(name: str) -> None:
            filing = http.client.HTTPConnection("127.0.0.1", filer, timeout=20)
            filing.request("POST", f"/buckets/{name}/")  # without a content type: makes a folder
            status = filing.getresponse().status
            assert status < 300, status
            filing.close()

        with _running(command, s3, cwd=folder):
            _until(lambda: _answers(filer), "SeaweedFS's filer")
            yield Server("seaweed", f"http://127.0.0.1:{s3}", make)


@contextlib.contextmanager
def rclone_server() -> Iterator[Server]:
    """rclone serve s3: it takes conditional puts and ignores their condition, so two writers lose rows on it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rclone-") as folder:
        command = [
            _script("rclone"),
            "serve",
            "s3",
            folder,
            "--addr",
            f"127.0.0.1:{port}",
            "--config",
            os.devnull,
        ]
        command += [
            "--auth-key",
            f"{ACCESS_KEY},{SECRET_KEY}",
            "--vfs-cache-mode",
            "off",
            "--cache-dir",
            f"{folder}/.c",
        ]
        with _running(command, port):
            yield Server("rclone", f"http://127.0.0.1:{port}", lambda name: Path(folder, name).mkdir())


def free_port() -> int:
    """A port of the loopback that nobody listens on now, nor is given to a client that asks for any."""
    while True:
        port = _CHANCE.randrange(20_000, 32_000)  # where no system takes its ephemeral ports from
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _script(name: str) -> str:
    found = Path(sys.executable).parent / name
    path = str(found) if found.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@contextlib.contextmanager
def _running(command: list[str], port: int, cwd: str | None = None) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=cwd)
        try:
            _until(lambda: _answers(port), command[0], process)
            yield
        finally:
            process.kill()  # SeaweedFS takes longer than 20 s to end of itself
            process.wait()


def _answers(port: int) -> bool:
    """Whether an HTTP server answers there, whatever it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()


def _until(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 60
    while not ready():
        if time.monotonic() > end or (process is not None and process.poll() is not None):
            raise RuntimeError(f"{what} did not start")
        time.sleep(0.05)
