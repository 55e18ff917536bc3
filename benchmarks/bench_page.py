"""Does the page stay smooth on a slide of 100,352 × 100,352 px, in a real browser?

    python benchmarks/bench_page.py [--side 100352] [--seconds 20] [--name page]

A drawn slide is served by `beph-store serve` and looked at in Chromium by Playwright, 1920 by 1080 px, canvas drawer,
without a GPU: browser, server and this script share the machine's cores. **open**: from the address to the moment all
tiles of the first view are there. **jump**: from a new place at full resolution to all of its tiles, places that nobody
has seen. **moving**: frames while the wheel zooms in and out and the mouse drags without pause for ``--seconds``; a
frame is late beyond 50 ms. ``CHROMIUM`` names another browser.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_serve import MAIN, Server, build
from common import command_line, conditions, write
from playwright.sync_api import Page, sync_playwright

from beph_store.serve.shelf import handle

WIDTH, HEIGHT = 1920, 1080
LATE_MS = 50
COUNT = """() => {
  window.frames_ = [];
  const next = (at) => { window.frames_.push(at); requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""
LOADED = "[data-view=slide][data-state=loaded]"


def opened(page: Page, base: str, place: str) -> float:
    """Seconds until a place is shown whole, the page itself loaded anew."""
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(f"{base}/?drawer=canvas{place}")
    page.wait_for_selector(LOADED, timeout=120_000)
    return time.perf_counter() - start


def moving(page: Page, seconds: float) -> dict[str, Any]:
    """Frames while the slide is zoomed and dragged."""
    rng = np.random.default_rng(3)
    page.evaluate(COUNT)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        x, y = (float(v) for v in rng.uniform((200, 200), (1200, 800)))
        page.mouse.move(x, y)
        for _ in range(4):
            page.mouse.wheel(0, float(rng.choice([-240, 240])))
            page.wait_for_timeout(80)
        page.mouse.down()
        page.mouse.move(x + 300, y + 150, steps=12)
        page.mouse.up()
    at = np.asarray(page.evaluate("() => window.frames_"))
    gaps = np.diff(at)
    return {
        "frames": len(at),
        "per_second": round(1000 * len(gaps) / float(at[-1] - at[0]), 1),
        "p50_ms": round(float(np.percentile(gaps, 50)), 1),
        "p95_ms": round(float(np.percentile(gaps, 95)), 1),
        "longest_ms": round(float(gaps.max()), 1),
        "late_share": round(float((gaps > LATE_MS).mean()), 4),
    }


def measure(server: Server, slide: str, side: int, seconds: float) -> dict[str, Any]:
    """Everything in one browser."""
    rng = np.random.default_rng(1)
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    base = f"http://{server.host}:{server.port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{base}/?token={server.token}")
        first = opened(page, base, slide)
        places = [tuple(int(v) for v in rng.uniform(0.2 * side, 0.8 * side, 2)) for _ in range(5)]
        jumps = [opened(page, base, f"{slide}?x={x}&y={y}&z=1") for x, y in places]
        opened(page, base, f"{slide}?x={side // 2}&y={side // 2}&z=0.25")
        found = {
            "browser": browser.version,
            "open_s": round(first, 2),
            "jump_s": sorted(round(v, 2) for v in jumps),
            "moving": moving(page, seconds),
        }
        browser.close()
    return found


def main() -> None:
    """Command line."""
    parser = command_line(__doc__, "page")
    parser.add_argument("--side", type=int, default=100_352)
    parser.add_argument("--seconds", type=float, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = build(Path(folder), asked.side, 1)
        (key,) = (path.stem for path in (store / "recipes").glob("*.json"))
        server = Server.start(store)
        try:
            found = measure(server, f"#/slides/{key}/{handle(MAIN)}", asked.side, asked.seconds)
        finally:
            server.stop()
    versions = conditions("starlette", "uvicorn", "playwright", "openslide-bin")
    write(asked.name, {"conditions": versions, "asked": vars(asked), **found})


if __name__ == "__main__":
    main()
