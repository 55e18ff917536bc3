"""Who may ask, and what is refused before anything is read."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from beph_store.serve.app import make_app
from beph_store.serve.guard import new_token

from .conftest import BASE, TOKEN, client_of

HTML = "text/html"


@pytest.fixture(scope="module")
def stranger(served) -> TestClient:
    """No token, same server."""
    return TestClient(served.client.app, base_url=BASE)


def refused(answer, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("path", ["/", "/api/store", "/api/openapi.json", "/api/nothing", "/../etc/passwd"])
def test_without_the_token_nothing_is_answered(stranger, path: str) -> None:
    refused(stranger.get(path), 401)
    refused(stranger.get(path, headers={"authorization": "Bearer nonsense"}), 401)
    refused(stranger.get(path, headers={"cookie": "beph-store=nonsense"}), 401)
    refused(stranger.get(path, params={"token": "nonsense"}), 401)


def test_the_printed_url_becomes_a_cookie_and_leaves_the_address_bar(served) -> None:
    browser = TestClient(served.client.app, base_url=BASE)
    first = browser.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert browser.get("/api/store").status_code == 200
    page = browser.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith(HTML)


def test_the_token_in_the_url_opens_the_page_only(stranger) -> None:
    refused(stranger.get("/api/store", params={"token": TOKEN}), 401)
    refused(stranger.post("/", params={"token": TOKEN}), 401)


def test_tokens_are_long_and_differ() -> None:
    assert len({new_token() for _ in range(10)}) == 10
    assert len(new_token()) >= 40


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[", "localhost.x"]
)
def test_a_name_that_was_pointed_here_is_refused(served, host: str) -> None:
    refused(served.client.get("/api/store", headers={"host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1", "[::1]:8765", "10.1.2.3:80"])
def test_our_own_names_are_answered(served, host: str) -> None:
    assert served.client.get("/api/store", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_sites_page_is_refused(served, headers, method: str) -> None:
    refused(served.client.request(method, "/api/store", headers=headers), 403)


def test_our_page_may_ask_and_a_person_may_follow_a_link(served) -> None:
    get = served.client.get
    assert get("/api/store", headers={"origin": BASE}).status_code == 200
    assert get("/api/store", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert get("/", headers=followed).status_code == 200


def test_a_cookie_alone_is_not_enough_to_post(served) -> None:
    """A form of another site would send it."""
    browser = TestClient(served.client.app, base_url=BASE)
    browser.get("/", params={"token": TOKEN})
    url = f"/api/recipes/{served.key}/search"
    refused(browser.post(url, json={}), 401)
    refused(browser.post(url, json={}, headers={"origin": BASE}), 422)


def test_every_answer_carries_the_headers(served, stranger) -> None:
    for answer in (served.client.get("/"), served.client.get("/api/none"), stranger.get("/")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] in (
            "no-store",
            "private, no-cache",
        )  # the built page is asked for anew
        assert "access-control-allow-origin" not in answer.headers


def test_too_large_a_body_is_refused_by_its_length_and_by_its_bytes(ingested, tmp_path) -> None:
    """By its length before a byte is read; without a length once it is too long."""
    store, _, _ = ingested
    before = sorted(store.rglob("*"))
    with client_of(store, max_body_bytes=1000) as client:
        url = f"/api/recipes/{'0' * 16}/search/image"
        png = {"content-type": "image/png"}
        refused(client.post(url, content=b"x" * 1001, headers=png), 413)
        refused(client.post(url, content=iter([b"x" * 600] * 3), headers=png), 413)
        refused(client.post(url, content=b"", headers=png | {"content-length": "1000000000"}), 413)
        refused(client.post(url, content=b"", headers=png | {"content-length": "-1"}), 413)
        refused(client.post(url, content=b"x" * 900, headers=png), 404)
    assert sorted(store.rglob("*")) == before


def test_a_failure_of_ours_is_a_plain_error(ingested, monkeypatch) -> None:
    store, _, _ = ingested
    app = make_app(store, token=TOKEN)
    client = TestClient(
        app, base_url=BASE, headers={"authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False
    )
    monkeypatch.setattr("beph_store.serve.store_api._recipes", lambda desk: 1 / 0)
    answer = client.get("/api/store")
    refused(answer, 500)
    assert "division" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
