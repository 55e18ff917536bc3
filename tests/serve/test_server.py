"""The command as a user starts it: an address, a token, Ctrl-C."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest

from beph_store.errors import MissingExtra, NotAStore, UsageError
from beph_store.serve.server import Address, serve
from beph_store_cli.commands import serve as command


def start(store, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "beph_store_cli", "serve", str(store), "--port", "0", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_it_says_where_answers_and_ends_quietly(ingested) -> None:
    process = start(ingested[0], "--json")
    try:
        told = json.loads(process.stdout.readline())
        assert told["url"] == f"{told['base']}/?token={told['token']}"
        assert told["base"] == f"http://127.0.0.1:{told['port']}"
        url, bearer = f"{told['base']}/api/store", f"Bearer {told['token']}"
        assert fetch(url)[0] == 401
        assert fetch(url, authorization=bearer, host="evil.example")[0] == 403
        status, body = fetch(url, authorization=bearer)
        assert (status, json.loads(body)["store"]) == (200, "S")
        too_large(told)
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def too_large(told) -> None:
    """A gigabyte is announced: the answer comes before a byte of it was sent."""
    with socket.create_connection(("127.0.0.1", told["port"]), timeout=30) as wire:
        head = (
            f"POST /api/recipes/x/search/image HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {told['token']}\r\n"
            "Content-Type: image/png\r\nContent-Length: 1073741824\r\n\r\n"
        )
        wire.sendall(head.encode())
        assert wire.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_port_that_is_taken_is_said(ingested) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="--port 0"):
            serve(ingested[0], port=taken.getsockname()[1])


def test_what_cannot_be_served_is_refused_before_listening(tmp_path, ingested) -> None:
    with pytest.raises(NotAStore):
        serve(tmp_path, ready=pytest.fail)
    with pytest.raises(UsageError, match="no such table"):
        serve(ingested[0], labels=tmp_path / "none.csv", ready=pytest.fail)
    with pytest.raises(UsageError, match="65535"):
        serve(ingested[0], port=70000, ready=pytest.fail)
    with pytest.raises(UsageError, match="--host"):
        serve(ingested[0], host="no such host", ready=pytest.fail)


def test_without_the_extra_the_error_names_it(monkeypatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    with pytest.raises(MissingExtra, match=r"beph-store\[serve\]"):
        command.serve("S")


def test_addresses_can_be_opened_in_a_browser() -> None:
    assert Address("0.0.0.0", 80, "t").url == "http://127.0.0.1:80/?token=t"
    assert Address("::1", 80, "t").base == "http://[::1]:80"
    assert [Address(h, 1, "t").is_private for h in ("127.0.0.1", "localhost", "::1", "0.0.0.0")] == [
        True
    ] * 3 + [False]
