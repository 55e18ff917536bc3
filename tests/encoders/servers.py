"""Small HTTP servers on loopback: they give files, can be made to misbehave, and answer as the hub does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Shelf:
    """What a server gives and does.

    ``files`` by path; ``cut`` bytes after which a reply's connection is dropped, once an entry; ``asked`` the requests
    as (path, Range header); ``pages`` paths answered by a web page; ``ranges`` whether Range is honoured.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    pages: set[str] = field(default_factory=set)
    moved: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    tags: bool = True
    status: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    shelf: Shelf

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        shelf, path = self.shelf, self.path.partition("?")[0]
        if body:
            shelf.asked.append((path, self.headers.get("Range")))
        if path in shelf.status:
            code, headers = shelf.status[path]
            self._head(code, headers)
        elif path in shelf.moved:
            self._head(302, {"Location": shelf.moved[path]})
        elif path in shelf.pages:
            self._head(200, {"Content-Type": "text/html; charset=utf-8"})
            self.wfile.write(b"<!DOCTYPE html><p>Too many people have downloaded this file")
        elif path not in shelf.files:
            self._head(404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._file(shelf.files[path], body=body)

    def _file(self, data: bytes, *, body: bool) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"Content-Type": "application/octet-stream", "X-Repo-Commit": "0" * 40}
        headers |= {"ETag": tag} if self.shelf.tags else {}
        wanted, start = self.headers.get("Range"), 0
        if wanted and self.shelf.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self._head(416, {})
                return
            self._head(
                206,
                headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"},
                len(data) - start,
            )
        else:
            self._head(200, headers, len(data))
        if body:
            rest = data[start:]
            self.wfile.write(rest[: self.shelf.cut.pop(0)] if self.shelf.cut else rest)

    def _head(self, code: int, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()


@contextmanager
def serving() -> Iterator[Shelf]:
    """A server on a free loopback port; its shelf says where."""
    shelf = Shelf()
    handler = type("Handler", (_Handler,), {"shelf": shelf})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    shelf.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield shelf
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
