"""What holds for every route, by the application's own list: who is refused, and that no name becomes a path."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from beph_store.serve.app import ENDPOINTS, make_app
from beph_store.serve.shelf import handle
from beph_store.store import Store

from .conftest import TOKEN

OWN = {"host": "localhost", "authorization": f"Bearer {TOKEN}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
SECRET = b"nobody may read this 4711"
JSON = "application/json"


@dataclass
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class World:
    """An application over a store of its own, and what lies beside it. ``asked`` is how much of bodies it took."""

    app: Any
    store: Path
    secret: Path
    values: dict[str, str]
    asked: list[str] = field(default_factory=list)

    async def ask(
        self, method: str, target: str, headers: dict[str, str], body: bytes = b"", query: str = ""
    ) -> Got:
        """A request as uvicorn hands it on: the path with its escapes undone once."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            self.asked.append(target)
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        try:
            await self.app(scope, receive, send)
        except Exception as error:
            raise AssertionError(f"{method} {target} {query} {body[:200]!r}: {error!r}") from error
        start = {name.decode(): value.decode("latin-1") for name, value in told[0]["headers"]}
        return Got(told[0]["status"], start, b"".join(one.get("body", b"") for one in told[1:]))

    def outside(self) -> dict[str, bytes]:
        """Everything beside the store."""
        return {
            str(path): path.read_bytes()
            for path in self.secret.parent.rglob("*")
            if path.is_file() and not path.is_relative_to(self.store)
        }


@pytest.fixture(scope="module")
def world(ingested, tmp_path_factory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("every")
    shutil.copytree(ingested[0], folder / "S")
    secret = folder / "secret.json"
    secret.write_bytes(SECRET)
    (folder / "secret").mkdir()
    for name in ("train.json", "head.json", "job.json", "about.json"):
        (folder / "secret" / name).write_bytes(SECRET)
    store = Store.open(folder / "S")
    (record,) = store.recipes()
    key = record.recipe.key
    # Links that somebody put into the store itself, under names that could be asked for.
    for where in ("labels", f"classifiers/{key}", "jobs", f"predictions/{'0' * 16}", "runs", "annotations"):
        place = folder / "S" / where
        place.mkdir(parents=True, exist_ok=True)
        (place / "link.json").symlink_to(secret)
        (place / "link").symlink_to(folder / "secret")
    app = make_app(folder / "S", token=TOKEN, allow_write=True)
    values = {
        "recipe": key,
        "slide": handle("drawn.tif"),
        "format": "json",
        "level": "0",
        "column": "0",
        "row": "0",
    }
    yield World(app, folder / "S", secret, values)
    app.inner.state.desk.close()


def paths(app: Any) -> list[str]:
    return sorted({route.path for route in app.inner.routes})


def filled(path: str, values: dict[str, str], other: str = "x") -> str:
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda match: values.get(match[1], other), path)


def test_the_list_is_the_applications(world) -> None:
    routes = paths(world.app)
    assert {"/", "/page/{name}", "/api/events", "/api/jobs"} <= set(routes)
    assert {endpoint.path for endpoint in ENDPOINTS} < set(routes)
    assert len(routes) > 40


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, {"host": "localhost"}),
        (401, {"host": "localhost", "authorization": f"Bearer {TOKEN}x"}),
        (401, {"host": "localhost", "authorization": f"Basic {TOKEN}"}),
        (401, {"host": "localhost", "cookie": f"token={TOKEN}; beph-store-00000000={TOKEN}"}),
        (403, OWN | {"host": "rebound.example:8765"}),
        (403, OWN | {"host": "127.0.0.1.rebound.example"}),
        (403, OWN | {"host": "rebound.example", "origin": "http://rebound.example"}),
        (403, OWN | {"host": ""}),
        (403, OWN | {"origin": "http://evil.example"}),
        (403, OWN | {"origin": "null"}),
        (403, OWN | {"origin": "http://localhost.evil.example"}),
        (403, OWN | {"sec-fetch-site": "cross-site"}),
        (403, OWN | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}),
    ],
)
def test_nobody_else_gets_past_the_guard_anywhere(world, status: int, headers: dict[str, str]) -> None:
    """Page, static files, images, the stream of events and every method; and not a byte of a body is taken first."""

    async def all_of_them() -> None:
        for path in [*paths(world.app), "/api/nothing", "/favicon.ico"]:
            for method in METHODS:
                got = await world.ask(method, filled(path, world.values), headers, b"{}", f"token={TOKEN}x")
                assert got.status == status, (method, path)
                assert list(json.loads(got.body)) == ["error"]
                assert not [name for name in got.headers if name.startswith("access-control-")]
                assert "set-cookie" not in got.headers
                assert got.headers["x-content-type-options"] == "nosniff"
                assert "default-src 'none'" in got.headers["content-security-policy"]

    world.asked.clear()
    asyncio.run(all_of_them())
    assert world.asked == []


def test_a_preflight_allows_nothing(world) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}

    async def all_of_them() -> None:
        for path in paths(world.app):
            for origin, status in (("http://evil.example", 403), ("http://localhost", 401)):
                headers = {"host": "localhost", "origin": origin, **asks}
                got = await world.ask("OPTIONS", filled(path, world.values), headers)
                assert got.status == status, path
            got = await world.ask("OPTIONS", filled(path, world.values), OWN | asks)
            assert got.status == 405, path
            assert not [name for name in got.headers if name.startswith("access-control-")]

    asyncio.run(all_of_them())


def traversals(secret: Path) -> list[str]:
    """Ways to say the secret's path, as they stand in an address."""
    up = [f"{'../' * depth}secret.json" for depth in (1, 2, 3)]
    plain = [
        *up,
        "../secret",
        "..",
        ".",
        str(secret),
        f"file://{secret}",
        "link",
        "link.json",
        "~/secret.json",
    ]
    once = [quote(text, safe="") for text in plain]
    return [
        *plain[:4],
        *once,
        *(quote(text, safe="") for text in once[:4]),
        *(f"{text}%00.json" for text in once[:2]),
        "%00",
        "..%5c..%5csecret.json",
        "%2e%2e%c0%af%2e%2e%c0%afsecret.json",
        "%ff%fe",
        "%0d%0aset-cookie:%20a=b",
    ]


def test_no_part_of_an_address_becomes_a_path(world) -> None:
    ways = traversals(world.secret)
    before = world.outside()

    async def all_of_them() -> int:
        asked = 0
        for route in world.app.inner.routes:
            names = re.findall(r"\{(\w+)", route.path)
            for name in names:
                for way in ways:
                    target = filled(route.path, {**world.values, name: way})
                    for method in route.methods - {"HEAD"}:
                        got = await world.ask(method, target, OWN | {"content-type": JSON}, b'{"who":"a"}')
                        asked += 1
                        # A run may be a link that is in the store; what it leads to is no record, and is not shown.
                        seen = got.status == 200 and way.startswith("link") and b"unreadable" in got.body
                        assert seen or got.status in (404, 405, 409, 422), (method, target, got)
                        assert SECRET not in got.body
                        assert "set-cookie" not in got.headers
        return asked

    assert asyncio.run(all_of_them()) > 1000
    assert world.outside() == before


def texts_of(endpoint: Any) -> list[str]:
    """Fields of a JSON body that hold text."""
    fields = ((endpoint.body or {}).get(JSON) or {}).get("properties", {})
    return [name for name, schema in fields.items() if schema.get("type", "string") == "string"]


@pytest.mark.parametrize(
    "text",
    [
        "../../secret.json",
        "SECRET",
        "link",
        "\0",
        "\ud800",
        "x" * 100_000,
        "a\r\nset-cookie: a=b",
        "'; DROP TABLE t; --",
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_no_text_of_a_query_or_a_body_becomes_a_path_or_a_failure(world, text: str) -> None:
    text = str(world.secret) if text == "SECRET" else text
    before = world.outside()

    async def all_of_them() -> None:
        for endpoint in ENDPOINTS:
            if endpoint.path == "/api/events":
                continue
            target = filled(endpoint.path, world.values)
            queries = [one.name for one in endpoint.parameters if f"{{{one.name}}}" not in endpoint.path]
            fields = texts_of(endpoint)
            bodies = [json.dumps({name: text}) for name in fields]
            bodies += [
                json.dumps(dict.fromkeys(fields, text)),
                json.dumps({**world.values, "options": {"cohort": text, "head": text, "slides": [text]}}),
            ]
            kind = next(iter(endpoint.body), "") if endpoint.body else ""
            said = quote(text, errors="surrogatepass")
            for query in [f"{name}={said}" for name in queries] + [
                f"{name}[{said}]={said}" for name in queries
            ]:
                seen(await world.ask(endpoint.method, target, OWN | {"content-type": kind}, b"{}", query))
            for body in bodies if endpoint.body else []:
                seen(await world.ask(endpoint.method, target, OWN | {"content-type": kind}, body.encode()))

    def seen(got: Got) -> None:
        assert got.status < 500, got.body
        assert SECRET not in got.body
        assert "set-cookie" not in got.headers

    asyncio.run(all_of_them())
    assert world.outside() == before


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"who":' + b"1" * 5000 + b"}",
        b'{"who": 1e999, "k": NaN}',
        b'{"who":"a","who":{"a":1}}',
        b'{"labels":' + b"[" * 900 + b"]" * 900 + b"}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-32"),
        b"",
    ],
    ids=lambda body: ascii(body[:16]),
)
def test_json_that_is_too_deep_too_long_or_odd_is_refused_everywhere(world, body: bytes) -> None:
    async def all_of_them() -> int:
        asked = 0
        for endpoint in ENDPOINTS:
            if endpoint.body is None or JSON not in endpoint.body:
                continue
            got = await world.ask(
                endpoint.method, filled(endpoint.path, world.values), OWN | {"content-type": JSON}, body
            )
            assert 400 <= got.status < 500, (endpoint.path, got.status, got.body[:200])
            asked += 1
        return asked

    assert asyncio.run(all_of_them()) >= 10
