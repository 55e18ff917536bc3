"""A browser before the page: `beph-store serve` as a process of its own, and Debian's Chromium driven by Playwright.

The tests skip by name where Playwright, Chromium (``CHROMIUM`` names another one) or the built page is missing. The
content security policy stays on, so nothing may be evaluated from strings: tests wait on ``data-state`` attributes.
Whatever a test does, the page must not complain in the console, and must ask nobody but its own server.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import beph_store.serve
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.store import Store
from beph_store.testing.synthetic import demo_cohort

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
BUILT = Path(beph_store.serve.__file__).parent / "assets" / "index.html"
#: A name that would do harm as HTML, and must be shown as it is.
NASTY = "<img src=x onerror=alert(1)>\"'.tif"
WAIT_MS = 20_000


@dataclass(frozen=True)
class Server:
    """A running server. ``url`` has the token."""

    base: str
    url: str
    token: str


@contextmanager
def serving(store: Path, *arguments: str) -> Iterator[Server]:
    """`beph-store serve` on a free port; ended as Ctrl-C ends it."""
    line = [sys.executable, "-m", "beph_store_cli", "serve", str(store), "--port", "0", "--json", *arguments]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield Server(told["base"], told["url"], told["token"])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


@dataclass(frozen=True)
class World:
    """A store, its labels as text, and a slide to look at."""

    store: Path
    recipe: str
    labels: str
    slide_id: str
    """A slide with tissue in its middle."""
    classes: tuple[str, str]
    survival: str = ""


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium without a window. The package's, so that Playwright's event loop is gone before other tests need one."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: apt-get install chromium, or set CHROMIUM")
    if not BUILT.exists():
        pytest.skip("the page is not built: make page")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def drawn(browser, tmp_path_factory) -> World:
    """Thirteen drawn slides of ten cases; one of them has a name to be afraid of."""
    folder = tmp_path_factory.mktemp("page")
    slides = folder / "slides"
    demo_cohort(slides, n=13, size=(2048, 2048))
    with (slides / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (slides / rows[-1]["slide_id"]).rename(slides / NASTY)
    rows[-1] |= {"slide_id": NASTY, "path": NASTY}
    ingest(
        [slides], folder / "S", options=IngestOptions(mpp=1.0), manifest=table(slides / "manifest.csv", rows)
    )
    (record,) = Store.open(folder / "S").recipes()
    labels = table(slides / "labels.csv", rows).read_text()
    return World(
        folder / "S", record.recipe.key, labels, rows[1]["slide_id"], ("normal", "tumour"), outcomes(rows)
    )


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write them as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def outcomes(rows: list[dict[str, str]]) -> str:
    """A table of made-up survival: tumour cases die earlier, two of each are censored."""
    cases = sorted({(row["case_id"], row["label"]) for row in rows})
    lines = ["case_id,event,days"]
    for number, (case, label) in enumerate(cases):
        lines.append(
            f"{case},{int(number % 6 != 5)},{100 + 37 * number if label == 'tumour' else 900 + 61 * number}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="package")
def writable(drawn) -> Iterator[Server]:
    """The drawn store, served for writing."""
    with serving(drawn.store, "--allow-write") as server:
        yield server


@dataclass
class Tab:
    """A page in a context of its own, with what it complained about and whom it asked."""

    page: Any
    server: Server
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self, address: str = "#/") -> Tab:
        """Follow the printed URL, then go to an address of the page; OpenSeadragon draws by canvas, see docs."""
        self.page.goto(self.server.url)
        self.page.goto(f"{self.server.base}/?drawer=canvas{address}")
        self.see("html[data-state=ready]")
        return self

    def see(self, selector: str, state: str = "visible", timeout: float = WAIT_MS) -> Any:
        """The element, once it is there."""
        self.page.wait_for_selector(selector, state=state, timeout=timeout)
        return self.page.locator(selector).first

    def test(self, name: str, rest: str = "") -> Any:
        """The element with that ``data-test``."""
        return self.page.locator(f'[data-test="{name}"]{rest}').first

    def see_test(self, name: str, rest: str = "", timeout: float = WAIT_MS) -> Any:
        """The element with that ``data-test``, once it is there."""
        return self.see(f'[data-test="{name}"]{rest}', timeout=timeout)

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the server beside the page."""
        headers = {"authorization": f"Bearer {self.server.token}"}
        ask = self.page.request
        answer = (
            ask.get(self.server.base + path, headers=headers)
            if body is None
            else ask.post(self.server.base + path, headers=headers, data=body)
        )
        assert answer.ok, f"{answer.status}: {answer.text()}"
        return answer.json()


@pytest.fixture
def tab_of(browser) -> Iterator[Callable[..., Tab]]:
    """Opens tabs: ``tab_of(server, width=…)``. At the end none of them may have complained or asked elsewhere."""
    opened: list[tuple[Any, Tab]] = []

    def make(server: Server, width: int = 1280, height: int = 800, **options: Any) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        tab = Tab(page, server)
        watch(tab)
        opened.append((context, tab))
        return tab

    yield make
    for context, tab in opened:
        context.close()
        assert not tab.outside, f"asked outside: {tab.outside}"
        assert not tab.complaints, tab.complaints


def watch(tab: Tab) -> None:
    """Note errors of scripts, messages of the console, violations of the policy among them, and foreign requests."""
    host = urlsplit(tab.server.base).netloc

    def said(message: Any) -> None:
        # OpenSeadragon's own remark on a tile that came after its slide was left.
        if message.type in ("error", "warning") and "loaded before reset" not in message.text:
            tab.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def asked(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data") and parts.netloc != host:
            tab.outside.append(request.url)

    tab.page.on("console", said)
    tab.page.on("pageerror", lambda error: tab.complaints.append(f"script: {error}"))
    tab.page.on("request", asked)


@pytest.fixture
def tab(tab_of, writable) -> Tab:
    """One tab on the drawn store."""
    return tab_of(writable)
