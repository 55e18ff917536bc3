"""The page that vite built: its files, read once and held, by name."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from beph_store.serve.answers import missing

#: Where `make page` puts it. Not in git; in the wheel.
BUILT = Path(__file__).with_name("assets")

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
_PACKED = (".html", ".js", ".css", ".svg", ".txt")
#: A file's name holds a hash of its content, but for these, which a browser must ask for again.
_UNHASHED = ("index.html", "licences.txt")

_NO_PAGE = (
    '<!doctype html><meta charset="utf-8"><title>beph-store</title><p>The page is not built: run <code>make page</code>'
    ' in a checkout, then start again. The API is at <a href="/api/openapi.json">/api/openapi.json</a>.</p>\n'
)


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, ready to send: its bytes, the same packed by gzip where that helps, type and tag."""

    data: bytes
    packed: bytes | None
    media_type: str
    etag: str
    hashed: bool

    @classmethod
    def read(cls, path: Path) -> PageFile:
        """From disk."""
        data = path.read_bytes()
        packed = gzip.compress(data, 6, mtime=0) if path.suffix in _PACKED else None
        tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
        return cls(data, packed, _TYPES[path.suffix], tag, path.name not in _UNHASHED)

    def response(self, request: Request) -> Response:
        """What the browser gets: 304 where it has it already."""
        headers = {
            "cache-control": "private, max-age=31536000, immutable" if self.hashed else "private, no-cache",
            "etag": self.etag,
            "vary": "accept-encoding",
        }
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=304, headers=headers)
        body = self.data
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            body, headers["content-encoding"] = self.packed, "gzip"
        return Response(body, headers=headers, media_type=self.media_type)


def read_page_files(folder: Path) -> dict[str, PageFile]:
    """Every file of the built page by its name; none where it is not built.

    A request picks from these: nothing that a client sends is used as a path.
    """
    if not (folder / "index.html").is_file():
        return {}
    return {path.name: PageFile.read(path) for path in sorted(folder.iterdir()) if path.suffix in _TYPES}


def page_routes() -> list[Route]:
    """``/`` and ``/page/NAME``; without a build ``/`` says how to build it."""
    files: Mapping[str, PageFile] = read_page_files(BUILT)

    async def read_page(request: Request) -> Response:
        index = files.get("index.html")
        return HTMLResponse(_NO_PAGE) if index is None else index.response(request)

    async def read_page_file(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None:
            raise missing("the page has no such file")
        return found.response(request)

    return [Route("/", read_page), Route("/page/{name}", read_page_file)]
