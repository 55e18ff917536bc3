"""Tiles labelled by clicking: the head follows at once, what is taken back is taken back, and proposals are made."""

from __future__ import annotations

import pytest

from .conftest import Tab, World
from .test_page import click_the_middle, look_at_a_tile

pytestmark = pytest.mark.timeout(180)


def labelled(tab: Tab, count: int) -> None:
    """Wait until so many tiles of the slide have labels."""
    tab.see(f"[data-view=slide][data-labels='{count}']")


def test_clicked_tiles_become_a_head_that_lies_over_the_slide(tab, drawn: World):
    tab.open()
    first = look_at_a_tile(tab, drawn, drawn.slide_id, 0.3)
    tab.test("mode-label").click()
    tab.test("new-class").fill("<b>tumour</b>")
    tab.test("add-class").click()
    click_the_middle(tab)
    tab.see_test("person").fill("Ann")  # asked once
    tab.page.keyboard.press("Enter")
    labelled(tab, 1)
    tab.test("new-class").fill("stroma")
    tab.test("add-class").click()
    labels = f"/api/recipes/{drawn.recipe}/labels/tiles"
    (label,) = tab.api(labels)["labels"]
    assert (label["tile"], label["label"], label["who"]) == (first, "<b>tumour</b>", "Ann")

    look_at_a_tile(tab, drawn, drawn.slide_id, 0.7)
    tab.test("mode-label").click()
    tab.test("new-class").fill("stroma")
    tab.test("add-class").click()
    click_the_middle(tab)
    labelled(tab, 2)
    tab.see("[data-test=label-panel][data-state=fitted]")
    tab.see("[data-view=slide][data-overlay=classes][data-overlay-state=ready]")

    tab.test("undo").click()
    labelled(tab, 1)
    tab.test("redo").click()
    labelled(tab, 2)
    tab.test("propose").click()
    tab.see("#tray[data-kind=proposals][data-state=ready] [data-test=hit]")
    tab.page.locator("[data-test=hit]").nth(1).click()
    tab.see("[data-view=slide][data-state=loaded][data-tiles]", timeout=60_000)
    before = len(tab.api(labels)["labels"])
    tab.page.keyboard.press("2")
    for _ in range(50):
        if len(tab.api(labels)["labels"]) > before:
            break
        tab.page.wait_for_timeout(100)
    assert len(tab.api(labels)["labels"]) == before + 1


def test_the_name_of_who_labels_is_kept(tab, drawn: World):
    """Another browser asks anew; a question that is closed labels nothing."""
    tab.open()
    before = len(tab.api(f"/api/recipes/{drawn.recipe}/labels/tiles")["labels"])
    look_at_a_tile(tab, drawn, drawn.slide_id, 0.5)
    tab.test("mode-label").click()
    tab.see_test("class").click()
    click_the_middle(tab)
    tab.see_test("person")
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_timeout(300)
    assert len(tab.api(f"/api/recipes/{drawn.recipe}/labels/tiles")["labels"]) == before
