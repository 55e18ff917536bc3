"""Clients that are slow, silent or many, on raw sockets against a listening server: nobody else waits for them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from beph_store.serve import patience as patience_module
from beph_store.serve import server as server_module
from beph_store.serve.app import make_app
from beph_store.serve.patience import Patience
from beph_store.serve.patience_h11 import WatchedH11
from beph_store.serve.server import make_server
from beph_store.serve.watched import watched

from .conftest import TOKEN

SHORT = Patience(head_seconds=0.5, body_seconds=0.5, stall_seconds=0.6, head_bytes=8 << 10, connections=8)
BIG = 24 << 20
KNOWN = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"


@dataclass
class Live:
    """A server in a thread."""

    server: Any
    port: int
    opened: list[socket.socket] = field(default_factory=list)

    @property
    def connected(self) -> int:
        return len(self.server.server_state.connections)

    def wire(self, sent: str | bytes = b"", receive_bytes: int | None = None) -> socket.socket:
        made = socket.socket()
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.settimeout(10)
        made.connect(("127.0.0.1", self.port))
        made.sendall(sent.encode() if isinstance(sent, str) else sent)
        self.opened.append(made)
        return made

    def served(self) -> bool:
        """Whether an honest client is answered, soon."""
        began = time.monotonic()
        with contextlib.closing(
            self.wire(f"GET /api/store HTTP/1.1\r\n{KNOWN}Connection: close\r\n\r\n")
        ) as wire:
            head = rest(wire)
        return head.startswith(b"HTTP/1.1 200 ") and time.monotonic() - began < 5


def rest(wire: socket.socket) -> bytes:
    """All that comes until the other side closes, or cuts the line."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := wire.recv(1 << 16):
            data += more
    return data


def ends(true: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


async def big(request: Request) -> Response:
    return Response(b"\0" * BIG)


@pytest.fixture(scope="module", params=["httptools", "h11"])
def live(request, ingested) -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patience_module, "LOOK_SECONDS", 0.05)
        if request.param == "h11":
            patch.setattr(
                server_module, "watched", lambda patience: type("H11", (WatchedH11,), {"patience": patience})
            )
        else:
            assert watched(SHORT).__name__ == "WatchedHttpTools"
        app = make_app(ingested[0], token=TOKEN)
        app.inner.router.routes.append(Route("/big", big))
        server = make_server(app, SHORT)
        with server_module._listening("127.0.0.1", 0) as listening:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            made = Live(server, listening.getsockname()[1])
            assert ends(lambda: server.started)
            yield made
            server.should_exit = True
            thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def nobody_is_left(live) -> Iterator[None]:
    yield
    for wire in live.opened:
        wire.close()
    live.opened.clear()
    assert ends(lambda: live.connected == 0)


def test_a_head_that_never_ends_in_time_is_cut_off(live) -> None:
    """By drops of a byte each: a timeout that every byte renews would never come."""
    began = time.monotonic()
    wire = live.wire("GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 5:
            wire.sendall(b"x")
            time.sleep(0.05)
    assert time.monotonic() - began < 3
    half, silent = live.wire("GET / HT"), live.wire()
    assert live.served()
    assert rest(half).startswith(b"HTTP/1.1 408 ")
    assert rest(silent) == b""


def test_a_head_that_never_ends_in_bytes_is_refused(live) -> None:
    wire = live.wire("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 8 << 20:
            sent += wire.send(b"x" * 4096)
            time.sleep(0.001)
    assert sent < 4 << 20
    assert rest(wire)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")


@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_never_ends_is_cut_off_without_a_word_in_the_log(live, length: str, caplog) -> None:
    head = f"POST /api/recipes/x/search HTTP/1.1\r\n{KNOWN}Content-Type: application/json\r\n{length}\r\n\r\n"
    wire = live.wire(head)
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 5:
            wire.sendall(b"1\r\n[\r\n" if "chunked" in length else b"[")
            time.sleep(0.05)
    assert time.monotonic() - began < 3
    assert live.served()
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_a_body_after_a_refusal_is_not_listened_to_for_ever(live) -> None:
    wire = live.wire("POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert wire.recv(12) == b"HTTP/1.1 401"
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 5:
            wire.sendall(b"1\r\nx\r\n")
            time.sleep(0.05)
    assert time.monotonic() - began < 3


def test_who_never_reads_a_large_answer_is_let_go_and_who_reads_slowly_gets_it_all(live) -> None:
    ask = f"GET /big HTTP/1.1\r\n{KNOWN}Connection: close\r\n\r\n"
    never = live.wire(ask, receive_bytes=4096)
    slow = live.wire(ask, receive_bytes=1 << 20)
    assert live.served()
    got, began = 0, time.monotonic()
    while more := slow.recv(1 << 20):
        got += len(more)
        time.sleep(0.05)
    assert got > BIG
    assert time.monotonic() - began > 2 * SHORT.stall_seconds
    assert ends(lambda: live.connected == 0)
    assert len(rest(never)) < BIG


def test_connections_are_bounded_and_the_idle_make_place(live) -> None:
    silent = [live.wire() for _ in range(40)]
    assert live.served()
    assert live.connected <= SHORT.connections
    assert ends(lambda: live.connected == 0)  # the others ended at their time
    assert len(silent) == 40


def test_where_all_are_being_answered_one_more_is_told_so(live) -> None:
    streams = [live.wire(f"GET /api/events HTTP/1.1\r\n{KNOWN}\r\n") for _ in range(SHORT.connections)]
    assert [wire.recv(12) for wire in streams] == [b"HTTP/1.1 200"] * SHORT.connections
    time.sleep(2 * SHORT.head_seconds)  # a stream may last
    answer = rest(live.wire())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("too many connections")
    streams[0].close()
    assert ends(live.served)


def test_streams_of_events_have_an_end(live, monkeypatch) -> None:
    monkeypatch.setattr("beph_store.serve.events_api.MOST_STREAMS", 2)
    ask = f"GET /api/events HTTP/1.1\r\n{KNOWN}\r\n"
    assert all(live.wire(ask).recv(12) == b"HTTP/1.1 200" for _ in range(2))
    assert ends(lambda: live.wire(ask).recv(12) == b"HTTP/1.1 503", 2)


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 99999999999999999999999",
        " folded: x",
        "Bad Name: x",
    ],
)
def test_lengths_that_can_be_meant_twice_start_nothing(live, headers: str) -> None:
    """What one server takes for a body another takes for a request; the second must not be answered."""
    second = f"GET /api/store HTTP/1.1\r\n{KNOWN}\r\n"
    wire = live.wire(f"POST /api/jobs HTTP/1.1\r\n{KNOWN}{headers}\r\n\r\n5\r\nhello\r\n0\r\n\r\n{second}")
    answer = rest(wire)
    assert answer[:10] in (b"HTTP/1.1 4", b""), answer[:100]
    assert b'"recipes"' not in answer
    assert live.served()


def test_a_body_longer_than_it_was_said_to_be_is_no_request_of_its_own(live) -> None:
    wire = live.wire(f"POST /api/jobs HTTP/1.1\r\n{KNOWN}Content-Length: 2\r\n\r\n{{}}nonsense\r\n\r\n")
    answer = rest(wire)
    # This server only reads, and says so unless the rest was refused first.
    assert answer.replace(b"HTTP/1.1 403 ", b"", 1).count(b"HTTP/1.1 400 ") == 1
    assert b"HTTP/1.1 2" not in answer
    assert live.served()


@pytest.mark.parametrize("target", [b"/\xff\xfe", b"*", b"/%00", b"//evil.example/"])
def test_odd_targets_open_nothing(live, target: bytes) -> None:
    wire = live.wire(b"GET " + target + b" HTTP/1.1\r\n" + KNOWN.encode() + b"Connection: close\r\n\r\n")
    assert rest(wire)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405", b"")
    assert live.served()


def test_a_websocket_is_an_ordinary_request_and_as_guarded(live) -> None:
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
    )
    for headers, wanted in (
        (f"Host: localhost\r\n{upgrade}", b"401"),
        (KNOWN.replace("localhost", "evil.example") + upgrade, b"403"),
        (f"{KNOWN}{upgrade}Origin: http://evil.example\r\n", b"403"),
        (KNOWN + upgrade, b"404"),
    ):
        assert live.wire(f"GET /api/none HTTP/1.1\r\n{headers}\r\n").recv(12) == b"HTTP/1.1 " + wanted
