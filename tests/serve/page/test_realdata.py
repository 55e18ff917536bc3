"""The whole of it on real tissue: a whole slide of the atlas, and assembled slides of EBHI-Seg with their labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.store import Store
from beph_store.testing.assemble import assemble_ebhi

from .conftest import Server, World, serving
from .test_page import find_the_like, look_at_a_tile
from .test_training import upload

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(600)]
ATLAS = "lung_scc_HE3_20x.tif"


@pytest.fixture(scope="module")
def tissue(browser, realdata: Path, tmp_path_factory) -> World:
    """Forty assembled slides, and the first 200 tiles of a whole one."""
    folder = tmp_path_factory.mktemp("tissue")
    slides = folder / "slides"
    table = assemble_ebhi(realdata / "ebhi_seg", slides, limit=40)
    (slides / ATLAS).symlink_to(realdata / "wsi_atlas" / ATLAS)
    with (slides / "labels.csv").open("a", newline="") as file:
        row = dict.fromkeys(table.columns, "") | {
            "slide_id": ATLAS,
            "case_id": "atlas-lung-scc",
            "path": ATLAS,
        }
        csv.writer(file).writerow(row.values())
    ingest([slides], folder / "S", options=IngestOptions(limit_tiles=200), manifest=slides / "labels.csv")
    (record,) = Store.open(folder / "S").recipes()
    malignant = pl.col("case_label") == "adenocarcinoma"
    two = pl.when(malignant).then(pl.lit("carcinoma")).otherwise(pl.lit("other"))
    labels = table.select("slide_id", "case_id", label=two).write_csv()
    return World(folder / "S", record.recipe.key, labels, ATLAS, ("carcinoma", "other"))


@pytest.fixture(scope="module")
def server(tissue: World) -> Iterator[Server]:
    with serving(tissue.store, "--allow-write") as running:
        yield running


def test_a_whole_slide_is_opened_zoomed_clicked_and_what_is_alike_is_opened(tab_of, tissue: World, server):
    tab = tab_of(server).open()
    look_at_a_tile(tab, tissue, ATLAS)
    find_the_like(tab)
    hits = tab.page.locator("[data-test=hit]")
    assert hits.count() >= 5
    hits.nth(1).click()
    tab.see("[data-view=slide][data-state=loaded]", timeout=60_000)


def test_labels_of_patients_become_a_head_its_auroc_and_its_heatmap(tab_of, tissue: World, server):
    tab = tab_of(server).open("#/train")
    upload(tab, "ebhi.csv", tissue.labels)
    tab.see_test("ready")
    tab.test("start").click()
    tab.see("[data-test=job-detail][data-state=done]", timeout=120_000)
    tab.test("open-head").click()
    assert float(tab.see_test("metric-auroc").inner_text()) > 0.7
    tab.see("[data-test=cases-panel][data-state=ready]")
    tab.page.locator("[data-test=cases] [data-test=heatmap]").first.click()
    tab.see("[data-view=slide][data-overlay=head][data-overlay-state=ready]", timeout=60_000)
