"""The screenshots of the documentation, light and dark, at 1280 and 1920 px, of a store of real tissue.

    python -m tests.serve.page.shots WORK [--out docs/images] [--all]

WORK is made once and used again: slides assembled from EBHI-Seg and the whole slides of the atlas (``shared/data``, or
BEPH_STORE_REALDATA), embedded with beph-mini, served for writing; heads are trained through the page's API. Without
``--all`` only the pictures that the documentation shows are kept: light at 1280 px and dark at 1920 px.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from playwright.sync_api import sync_playwright

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.serve.shelf import handle
from beph_store.store import Store
from beph_store.testing.assemble import assemble_ebhi, plant_survival

from .conftest import CHROMIUM, Server, Tab, serving, watch

ROOT = Path(__file__).resolve().parents[3]
SIZES = {1280: 800, 1920: 1080}
SHOWN = "lung_scc_HE2_20x.tif"


def build(work: Path) -> tuple[Path, Path, Path]:
    """The store, labels to learn and labels to filter by; what is there already is used."""
    data = Path(os.environ.get("BEPH_STORE_REALDATA") or ROOT.parent / "shared" / "data")
    slides, labels, filters = work / "slides", work / "labels.csv", work / "filters.csv"
    if not filters.exists():
        table = plant_survival(assemble_ebhi(data / "ebhi_seg", slides), by="optical_density", strength=1.5)
        malignant = pl.col("case_label") == "adenocarcinoma"
        table = table.with_columns(
            grade=pl.when(malignant).then(pl.lit("carcinoma")).otherwise(pl.lit("other"))
        )
        told = ("slide_id", "case_id", "case_label", "grade", "simulated_event", "simulated_time_days")
        table.select(told).write_csv(labels)
        atlas = pl.read_csv(data / "wsi_atlas" / "slides.csv").rename({"file": "slide_id"})
        for name in atlas["slide_id"]:
            (slides / name).unlink(missing_ok=True)
            (slides / name).symlink_to(data / "wsi_atlas" / name)
        known = table.select(
            "slide_id", "case_id", organ=pl.lit("colon"), stain=pl.lit("H&E"), diagnosis=pl.col("case_label")
        )
        every = pl.concat([known, atlas.select(known.columns)])
        every.with_columns(path="slide_id").write_csv(work / "manifest.csv")
        every.write_csv(filters)
    ingest([slides], work / "S", options=IngestOptions(), manifest=work / "manifest.csv")
    return work / "S", labels, filters


@dataclass
class Studio:
    """What the pictures are taken of."""

    tab: Tab
    recipe: str
    heads: dict[str, str]
    after: list[Callable[[], Any]] = field(default_factory=list)
    """What to do when the picture has been taken."""

    def address(self, path: str) -> str:
        return f"{self.tab.server.base}/?drawer=canvas{path}"

    def go(self, path: str) -> None:
        self.tab.page.goto("about:blank")
        self.tab.page.goto(self.address(path))
        self.tab.see("html[data-state=ready]")


def finished(tab: Tab, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended."""
    while job["state"] in ("queued", "running"):
        time.sleep(0.5)
        job = tab.api(f"/api/jobs/{job['job']}")
    assert job["state"] == "done", job
    return job


def trained(tab: Tab, recipe: str, labels: str) -> tuple[str, dict[str, str]]:
    """The table's id, and a head for each question; those of an earlier run are used."""
    name = {"content-type": "text/csv", "authorization": f"Bearer {tab.server.token}"}
    answer = tab.page.request.post(
        f"{tab.server.base}/api/cohorts?name=EBHI+cases.csv", headers=name, data=labels
    )
    cohort = answer.json()["cohort"]
    asked: dict[str, dict[str, Any]] = {
        "Carcinoma or not": {"task": "classify", "target": "grade", "classes": ["other", "carcinoma"]},
        "Carcinoma or not, attention": {
            "task": "classify",
            "target": "grade",
            "classes": ["other", "carcinoma"],
            "head": "abmil",
            "epochs": 12,
        },
        "Six classes": {"task": "classify", "target": "case_label", "head": "linear", "folds": 3},
        "Survival (simulated)": {
            "task": "survive",
            "event_column": "simulated_event",
            "event_means": "event",
            "time_column": "simulated_time_days",
            "time_unit": "days",
        },
    }
    heads = {head["title"]: head["head"] for head in tab.api("/api/heads")["heads"]}
    for title, options in asked.items():
        if title not in heads:
            body = {
                "kind": "train",
                "recipe": recipe,
                "options": {"cohort": cohort, "title": title, **options},
            }
            heads[title] = finished(tab, tab.api("/api/jobs", body))["result"]["head"]
    return cohort, heads


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", help="names of pictures, comma between")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    store, labels, filters = build(asked.work)
    with serving(store, "--allow-write", "--labels", str(filters)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"]
        )
        for width, height in SIZES.items():
            for theme in ("light", "dark"):
                if asked.all or (width, theme) in ((1280, "light"), (1920, "dark")):
                    context = browser.new_context(
                        viewport={"width": width, "height": height}, color_scheme=theme
                    )
                    take(context, server, store, labels, asked, f"{theme}-{width}")
                    context.close()
        browser.close()


def take(context: Any, server: Server, store: Path, labels: Path, asked: Any, suffix: str) -> None:
    """All pictures of one theme and size."""
    tab = Tab(context.new_page(), server)
    watch(tab)
    tab.open()
    recipe = max(Store.open(store).summaries(), key=lambda one: one.tiles).key
    cohort, heads = trained(tab, recipe, labels.read_text())
    studio = Studio(tab, recipe, {"cohort": cohort, **heads})
    for name, stage in STAGES.items():
        if asked.only and name not in asked.only.split(","):
            continue
        stage(studio)
        tab.page.wait_for_timeout(700)  # fonts, pictures and the last transition
        tab.page.screenshot(path=asked.out / f"{name}-{suffix}.jpg", type="jpeg", quality=86)
        sys.stdout.write("\n  ".join([f"{asked.out / name}-{suffix}.jpg", *tab.complaints]) + "\n")
        tab.complaints.clear()
        for act in studio.after:
            act()
        studio.after.clear()


def slides(studio: Studio) -> None:
    """Those with the most tiles first."""
    studio.go("#/")
    studio.tab.see("[data-view=store][data-state=ready]")
    studio.tab.test("layout-table").click()
    for _ in range(2):  # the least first, then the most
        studio.tab.see_test("order-tiles").click()
        studio.tab.page.wait_for_timeout(800)
    studio.tab.test("layout-grid").click()
    studio.tab.page.wait_for_timeout(1500)


def slide(studio: Studio) -> None:
    """A whole slide, seen by a head of which it is no part: the map of a head's scores."""
    head = studio.heads["Carcinoma or not"]
    studio.go(f"#/slides/{studio.recipe}/{handle(SHOWN)}?overlay=head%3A{head}%3Acarcinoma%3Ascore")
    studio.tab.see("[data-view=slide][data-state=loaded][data-overlay-state=ready]", timeout=60_000)


def search(studio: Studio) -> None:
    """A tile was clicked: its likeness lies over the slide, and what is alike below it."""
    grid = studio.tab.api(f"/api/recipes/{studio.recipe}/slides/{handle(SHOWN)}/grid.json")
    at, half = grid["tiles"] // 2, grid["footprint_l0"] // 2
    x, y = grid["x"][at] + half, grid["y"][at] + half
    studio.go(f"#/slides/{studio.recipe}/{handle(SHOWN)}?x={x}&y={y}&z=0.25")
    studio.tab.see("[data-view=slide][data-state=loaded]", timeout=60_000)
    box = studio.tab.see(".viewer").bounding_box()
    studio.tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    studio.tab.see("#tray[data-state=ready] [data-test=hit]")
    studio.tab.see("[data-view=slide][data-state=loaded][data-overlay-state=ready]", timeout=60_000)


def labels(studio: Studio) -> None:
    """Tiles of two classes were labelled; their head lies over the slide, and proposes what to label next."""
    base = f"/api/recipes/{studio.recipe}/slides/{handle(SHOWN)}"
    scores = studio.tab.api(f"{base}/head/{studio.heads['Carcinoma or not']}.json?class=carcinoma")["values"]
    grid = studio.tab.api(f"{base}/grid.json")
    order = sorted(range(len(scores)), key=lambda at: scores[at])
    given = [(at, "tumour") for at in order[-40:-10:3]] + [(at, "edge") for at in order[5:35:3]]
    entries = [{"slide": handle(SHOWN), "tile": grid["tile"][at], "label": label} for at, label in given]
    studio.tab.api(f"/api/recipes/{studio.recipe}/labels/tiles", {"who": "Ann", "labels": entries})
    studio.go(f"#/slides/{studio.recipe}/{handle(SHOWN)}?overlay=classes%3Atumour")
    studio.tab.see("[data-view=slide][data-state=loaded][data-overlay=classes][data-overlay-state=ready]")
    studio.tab.test("mode-label").click()
    studio.tab.see("[data-test=label-panel][data-state=fitted]")
    studio.tab.test("only-here").check()
    studio.tab.test("propose").click()
    studio.tab.see("#tray[data-kind=proposals][data-state=ready] [data-test=hit]")
    studio.tab.page.wait_for_timeout(800)
    studio.tab.see("[data-view=slide][data-state=loaded][data-overlay-state=ready]")


def train(studio: Studio) -> None:
    studio.go(f"#/train?cohort={studio.heads['cohort']}")
    studio.tab.see_test("understood")
    studio.tab.test("target").select_option("grade")
    studio.tab.test("positive").select_option("carcinoma")
    studio.tab.see("[data-check=ok]")


def jobs(studio: Studio) -> None:
    """A training that runs; it is cancelled once the picture is taken."""
    tab = studio.tab
    options = {
        "cohort": studio.heads["cohort"],
        "title": "Carcinoma or not, attention, more epochs",
        "task": "classify",
        "target": "grade",
        "head": "abmil",
        "epochs": 14,
        "patience": 14,
    }
    job = tab.api("/api/jobs", {"kind": "train", "recipe": studio.recipe, "options": options})["job"]
    studio.after.append(lambda: tab.api(f"/api/jobs/{job}/cancel", {}))
    studio.go(f"#/jobs/{job}")
    tab.see("[data-test=curves] svg.chart", timeout=120_000)
    while int(tab.page.locator("[data-test=job-detail]").get_attribute("data-epochs") or 0) < 24:
        tab.page.wait_for_timeout(200)


def heads(studio: Studio) -> None:
    studio.go("#/heads")
    studio.tab.see("[data-view=heads][data-state=ready]")


def head(studio: Studio) -> None:
    studio.go(f"#/heads/{studio.heads['Carcinoma or not']}")
    studio.tab.see("[data-test=cases-panel][data-state=ready]")


def classes(studio: Studio) -> None:
    studio.go(f"#/heads/{studio.heads['Six classes']}")
    studio.tab.see("[data-test=cases-panel][data-state=ready]")


def survival(studio: Studio) -> None:
    studio.go(f"#/heads/{studio.heads['Survival (simulated)']}")
    studio.tab.see("[data-test=cases-panel][data-state=ready]")


STAGES: dict[str, Callable[[Studio], None]] = {
    "slides": slides,
    "slide": slide,
    "search": search,
    "labels": labels,
    "train": train,
    "jobs": jobs,
    "heads": heads,
    "head": head,
    "classes": classes,
    "survival": survival,
}

if __name__ == "__main__":
    main()
