"""What stands in front of every request: Host, Origin, token, size of the body; and the headers of every answer.

The server listens on this machine, and so does every web page that is open here: a page may send requests to
127.0.0.1 and, by a name that it re-points, even read the answers. So the Host must be ours, the Origin our own, and the
token, which only the printed URL holds, must be there; a browser keeps it as a cookie that scripts cannot read.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from beph_store.serve.answers import Refused, error

MAX_BODY_BYTES = 16 << 20

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_SAFE = ("GET", "HEAD")


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Guard:
    """An application with the guard before it. ``hosts`` are the names it answers to, IP addresses and localhost apart.

    Any IP address will do, because a foreign page's requests carry its own name, and any port, because of tunnels.
    """

    inner: ASGIApp
    token: str
    hosts: Collection[str] = ()
    max_body_bytes: int = MAX_BODY_BYTES
    cookie: str = field(init=False)

    def __post_init__(self) -> None:
        # Cookies do not tell ports apart: two servers on one machine must not overwrite each other's.
        name = "beph-store-" + hashlib.sha256(self.token.encode()).hexdigest()[:8]
        object.__setattr__(self, "cookie", name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
        elif scope["type"] == "http":
            refusal = self._refusal(scope)
            await (refusal or self.inner)(scope, self._counted(receive), _with_headers(send))
        # Anything else, websockets, gets no answer: the server closes it.

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that must not reach the application; None where it may."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return error(403, "this server does not answer to that Host")
        if not _same_origin(headers, scope["method"], host):
            return error(403, "another site's pages may not ask here")
        if scope["path"] == "/" and scope["method"] in _SAFE:
            given = QueryParams(scope["query_string"]).get("token")
            if given is not None and self._is_token(given):
                return self._welcome()
        if not self._has_token(headers, scope["method"]):
            message = "no valid token: open the URL that was printed, or send authorization: Bearer TOKEN"
            return error(401, message, {"www-authenticate": "Bearer"})
        return self._length_refusal(headers)

    def _length_refusal(self, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers and "content-length" in headers:
            # What follows would be a body to one reader and a request to another.
            return error(400, "the body's length is said twice", {"connection": "close"})
        plain = length.isascii() and length.isdigit() and len(length) <= 18
        if not plain or int(length) > self.max_body_bytes:
            return error(413, self._too_large, {"connection": "close"})
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self.token.encode())

    def _has_token(self, headers: Headers, method: str) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(given.strip())
        # A cookie is sent whoever wrote the page: what does more than read must say where it comes from.
        stated = method in _SAFE or "origin" in headers or headers.get("sec-fetch-site") == "same-origin"
        return stated and self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, ""))

    def _welcome(self) -> Response:
        """The token moves from the address bar into a cookie."""
        answer = Response(status_code=303, headers={"location": "/"})
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax", path="/")
        return answer

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.max_body_bytes >> 20} MiB"

    def _counted(self, receive: Receive) -> Receive:
        """``receive``, which refuses a body that turns out larger than allowed, whatever its length was said to be."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body_bytes:
                raise Refused(413, self._too_large)
            return message

        return counted


def _same_origin(headers: Headers, method: str, host: str) -> bool:
    """Whether the request is from our own page, from no page at all, or a person following a link."""
    origin = headers.get("origin")
    if origin is not None:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
    site = headers.get("sec-fetch-site", "none")
    followed = method in _SAFE and headers.get("sec-fetch-mode") == "navigate" and _opens_a_page(headers)
    return site in ("same-origin", "none") or followed


def _opens_a_page(headers: Headers) -> bool:
    return headers.get("sec-fetch-dest", "document") == "document"


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=_scope(message))
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return sent


def _scope(message: Message) -> MutableMapping[str, Any]:
    message.setdefault("headers", [])
    return message
