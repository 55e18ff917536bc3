"""Text that would be HTML, wherever a request or a file can put it, in every view of the page: it stays text."""

from __future__ import annotations

import pytest

from beph_store.serve.shelf import handle

from .conftest import NASTY, Tab, World

pytestmark = pytest.mark.timeout(180)

#: Each leaves a trace where it is taken for HTML: an element, an attribute, or a name of the window's.
HARM = "<img src=x onerror=harm=1><svg onload=harm=1><script>harm=1</script>\"' onfocus=harm=1 autofocus x='"


def put(tab: Tab, world: World) -> str:
    """Harm in a person's name, classes of tiles, labels of slides, a job's title and a table; the job."""
    root = f"/api/recipes/{world.recipe}"
    slide = handle(world.slide_id)
    grid = tab.api(f"{root}/slides/{slide}/grid.json")
    who = HARM[:60]
    for at, label in enumerate((f"a{HARM}"[:60], f"b{HARM}"[:60])):
        entry = {"slide": slide, "tile": grid["tile"][at], "label": label}
        tab.api(f"{root}/labels/tiles", {"who": who, "labels": [entry]})
    tab.api(
        f"{root}/labels/slides",
        {"who": who, "labels": [{"slide": slide, "column": HARM[:60], "value": HARM[:60]}]},
    )
    job = tab.api("/api/jobs", {"kind": "index", "recipe": world.recipe, "options": {"title": HARM}})
    return str(job["job"])


def take_back(tab: Tab, world: World) -> None:
    """The labels: others count what they gave in the same store."""
    root = f"/api/recipes/{world.recipe}/labels"
    for what in ("tiles", "tiles", "slides"):
        tab.api(f"{root}/{what}/undo", {"who": HARM[:60]})


def unharmed(tab: Tab) -> None:
    """Nothing of it became an element, an attribute or a script."""
    found = "img[onerror], img[src='x'], svg[onload], [onfocus], [autofocus][x], body script:not([src])"
    assert tab.page.locator(found).count() == 0
    assert tab.page.evaluate("() => window.harm") is None


def test_text_from_elsewhere_is_never_html(tab, drawn: World):
    tab.open()
    job = put(tab, drawn)
    try:
        look_everywhere(tab, drawn, job)
    finally:
        take_back(tab, drawn)


def look_everywhere(tab: Tab, drawn: World, job: str) -> None:
    """Every view that shows what was put, and the page's answer to a harmful address."""
    tab.see("[data-view=store][data-state=ready]")
    unharmed(tab)
    for view, seen in (
        (f"slides/{drawn.recipe}/{handle(drawn.slide_id)}", "[data-view=slide][data-state=loaded]"),
        (f"slides/{drawn.recipe}/{handle(NASTY)}", "[data-view=slide][data-state=loaded]"),
        ("jobs", "[data-view=jobs][data-state=ready]"),
        (f"jobs/{job}", f"[data-test=job-detail][data-job='{job}']"),
        ("heads", "[data-view=heads][data-state=ready]"),
        ("train", "[data-view=train]"),
        (f"slides/{HARM}/{HARM}?x={HARM}", "html[data-state=ready]"),
    ):
        tab.page.goto("about:blank")
        tab.page.goto(f"{tab.server.base}/?drawer=canvas#/{view}")
        tab.see(seen, timeout=60_000)
        tab.page.wait_for_timeout(200)
        unharmed(tab)
    tab.page.goto("about:blank")
    tab.page.goto(f"{tab.server.base}/?drawer=canvas#/jobs/{job}")
    assert tab.see(f"[data-test=job-detail][data-job='{job}']").get_by_text(HARM).first.is_visible()
    # The browser's own line about an address that names nothing.
    tab.complaints[:] = [one for one in tab.complaints if "404" not in one]
