"""A proxy in front of an object storage server that fails now and then, is slow, and counts what passes."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from tests.objects.server import Server

Fault = Literal["before", "after", "busy", "hang"]
_STEP = 1 << 18
_HOP = ("connection", "transfer-encoding", "content-length", "date", "server")


@dataclass(slots=True)
class Proxy:
    """What passed, and what is done to the next requests; ``server`` is what clients talk to.

    ``plan`` is asked first, with the method and the path of a request: "before" is a 500 and nothing done, "busy" a
    503 and nothing done, "after" a 500 where all of it was done (the lost answer), "hang" no answer at all. ``shares``
    says for what share of the other requests the same happens.
    """

    server: Server
    rng: random.Random
    shares: dict[Fault, float]
    latency_s: float = 0.0
    bytes_per_s: float = float("inf")
    plan: Callable[[str, str], Fault | None] = lambda method, path: None
    requests: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    received: int = 0
    sent: int = 0
    under_way: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> Fault | None:
        """What is to happen to a request."""
        with self.guard:
            self.requests[method] += 1
            found = self.plan(method, path) or self._drawn()
            if found:
                self.faults[found] += 1
            return found

    def _drawn(self) -> Fault | None:
        at = self.rng.random()
        for name, share in self.shares.items():
            if at < share:
                return name
            at -= share
        return None

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """While a request is ``under_way``."""
        with self.guard:
            self.under_way += 1
        try:
            yield
        finally:
            with self.guard:
                self.under_way -= 1

    def count(self, received: int, sent: int) -> None:
        """Bytes of bodies that passed, from the client and to it."""
        with self.guard:
            self.received += received
            self.sent += sent


class _Front(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy
    upstream: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Front

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle_one_request()

    def _pass(self) -> None:
        with self.server.proxy.passing():
            self._passed(self.server.proxy)

    def _passed(self, proxy: Proxy) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = proxy.fault(self.command, self.path)
        time.sleep(3600 if fault == "hang" else proxy.latency_s)
        if fault in ("before", "busy"):
            self._fail(503 if fault == "busy" else 500)
            return
        answer = self._ask(body)
        if fault == "after":
            self._fail(500)
            return
        proxy.count(len(body), len(answer[2]))
        self._return(*answer)

    def _return(self, status: int, headers: http.client.HTTPMessage, content: bytes) -> None:
        length = str(len(content)) if self.command != "HEAD" else headers.get("content-length", "0")
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        for at in range(0, len(content), _STEP):
            part = content[at : at + _STEP]
            time.sleep(len(part) / self.server.proxy.bytes_per_s)
            self.wfile.write(part)

    def _ask(self, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        to = urlsplit(self.server.upstream)
        connection = http.client.HTTPConnection(str(to.hostname), to.port, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the Host too: it is signed
            if name.lower() not in ("connection", "content-length"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def _fail(self, status: int) -> None:
        code = "SlowDown" if status == 503 else "InternalError"
        body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def faulty(
    server: Server, seed: int = 0, *, before: float = 0.0, after: float = 0.0, busy: float = 0.0
) -> Iterator[Proxy]:
    """A proxy in front of ``server`` that fails for those shares of the requests. ``Proxy.server`` is its address.

    Set ``latency_s`` (of each request) and ``bytes_per_s`` (of one connection, towards the client) on what you get.
    """
    with _Front(("127.0.0.1", 0), _Handler) as front:
        own = Server(f"faulty-{server.name}", f"http://127.0.0.1:{front.server_port}", server.make)
        proxy = Proxy(own, random.Random(seed), {"before": before, "after": after, "busy": busy})
        front.proxy, front.upstream = proxy, server.url
        threading.Thread(target=front.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            front.shutdown()
