"""Labels in, a head out: uploaded or pasted, checked, trained as a job, looked at, cancelled, reloaded."""

from __future__ import annotations

import csv
import re

import pytest

from beph_store.serve.shelf import handle

from .conftest import Tab, World, serving

pytestmark = pytest.mark.timeout(300)


def upload(tab, name: str, text: str) -> None:
    tab.see("[data-view=train][data-state=ready]")
    tab.test("file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": text.encode()})


@pytest.fixture(scope="module")
def trained() -> dict[str, str]:
    """What earlier tests of this module have trained, by task."""
    return {}


def test_a_csv_is_uploaded_understood_trained_and_its_auroc_and_heatmap_are_seen(tab, drawn: World, trained):
    tab.open("#/train")
    upload(tab, "grades.csv", drawn.labels + "no-such-slide.tif,case-99,tumour,x\n")
    assert tab.see_test("columns").inner_text().count("slide_id") == 1
    ready = tab.see_test("ready").inner_text()
    assert "10 cases, 13 slides" in ready
    balance = tab.test("balance").inner_text()
    assert re.search(r"normal\s+5 cases", balance)
    assert re.search(r"tumour\s+5 cases", balance)
    tab.test("dropped").locator("summary").click()
    assert "no-such-slide.tif" in tab.test("dropped").inner_text()

    tab.test("folds").fill("3")
    tab.test("folds").blur()
    tab.see("[data-check=ok]")
    tab.test("start").click()
    tab.see("[data-test=job-detail][data-state=done]", timeout=90_000)
    assert re.search(r"#/jobs/\w+", tab.page.url)

    tab.test("open-head").click()
    tab.see("[data-view=heads][data-state=ready]")
    shown = float(tab.see_test("metric-auroc").inner_text())
    assert 0.5 < shown <= 1
    head = tab.page.url.rsplit("/", 1)[1]
    trained["classify"] = head
    metric = tab.api(f"/api/heads/{head}")["metrics"]["auroc"]
    assert f"{metric['value']:.3f}" == f"{shown:.3f}"
    cells = [int(text.split()[0]) for text in tab.test("confusion").locator("td b").all_inner_texts()]
    assert sum(cells) == 10
    tab.see_test("roc", " svg.chart[tabindex]").focus()
    tab.page.keyboard.press("ArrowLeft")
    assert "specificity 0.00" in tab.see_test("roc", " .tip-text").text_content()

    tab.see("[data-test=cases-panel][data-state=ready]")
    worst = tab.page.locator("[data-test=cases] tr").first
    assert worst.get_attribute("data-case") == tab.api(f"/api/heads/{head}/cases")["cases"][0]["case_id"]
    worst.locator("[data-test=heatmap]").first.click()
    tab.see("[data-view=slide][data-overlay=head][data-overlay-state=ready]", timeout=60_000)
    assert head in tab.page.url


def test_a_table_may_be_dropped(tab, drawn: World):
    tab.open("#/train")
    tab.see("[data-view=train][data-state=ready]")
    make = "text => { const made = new DataTransfer(); made.items.add(new File([text], 'dropped.tsv')); return made; }"
    carried = tab.page.evaluate_handle(make, drawn.labels.replace(",", "\t"))
    tab.page.dispatch_event("[data-test=drop]", "drop", {"dataTransfer": carried})
    assert "10 cases, 13 slides" in tab.see_test("ready").inner_text()
    assert tab.test("tables").inner_text().count("dropped.tsv") == 1
    tab.page.locator("[aria-label='Delete dropped.tsv']").click()
    tab.see_test("yes").click()
    tab.page.locator("[data-test=table]", has_text="dropped.tsv").wait_for(state="detached")
    assert tab.test("start").count() == 0


def test_the_head_survives_a_reload(tab, trained):
    head = trained.get("classify") or pytest.skip("nothing was trained")
    tab.open(f"#/heads/{head}")
    before = tab.see_test("metric-auroc").inner_text()
    tab.page.reload()
    assert tab.see_test("metric-auroc").inner_text() == before
    tab.page.goto(f"{tab.server.base}/?drawer=canvas#/heads")
    assert tab.see(f"[data-test=head][data-head='{head}']").is_visible()


def test_a_head_is_applied_to_all_slides(tab, trained):
    head = trained.get("classify") or pytest.skip("nothing was trained")
    tab.open(f"#/heads/{head}")
    tab.see_test("apply").click()
    tab.see("[data-test=job-detail][data-state=done]", timeout=90_000)
    tab.test("open-head").click()
    tab.see("[data-test=predictions][data-state=made]")
    tab.test("show-predictions").click()
    assert tab.see_test("predictions-table").locator("tbody tr").count() == 13
    assert tab.test("predictions-table").locator("tbody a").count() == 13
    with tab.page.expect_download() as saved:
        tab.test("download").click()
    assert saved.value.suggested_filename.endswith(".zip")


def test_survival_is_pasted_and_shown_as_kaplan_meier(tab, drawn: World):
    tab.open("#/train")
    tab.see_test("way-paste").click()
    tab.test("paste").fill(drawn.survival)
    tab.test("use-paste").click()
    tab.see("[data-test=task-survive][aria-pressed=true]")
    tab.see_test("ready")
    assert "event seen" in tab.test("balance").inner_text()
    tab.test("folds").fill("2")
    tab.test("folds").blur()
    tab.see("[data-check=ok]")
    tab.test("start").click()
    tab.see("[data-test=job-detail][data-state=done]", timeout=90_000)
    tab.test("open-head").click()
    figure = tab.see_test("km")
    assert "log-rank p" in figure.inner_text()
    assert "at risk" in figure.locator("svg.chart").last.text_content()
    assert 0 <= float(tab.test("metric-cindex_harrell").inner_text()) <= 1


def test_labels_that_were_given_in_the_page_are_learnt(tab, drawn: World):
    rows = list(csv.DictReader(drawn.labels.splitlines()))
    labels = [{"slide": handle(row["slide_id"]), "value": row["label"]} for row in rows]
    tab.api(f"/api/recipes/{drawn.recipe}/labels/slides", {"who": "Ann", "labels": labels})
    tab.open("#/train")
    tab.see_test("way-here").click()
    assert "13 labels" in tab.see_test("labels-here", " button").locator("xpath=..").inner_text()
    tab.test("use-here").click()
    assert "10 cases, 13 slides" in tab.see_test("ready").inner_text()
    assert tab.test("target").input_value() == "label"


def test_what_cannot_be_learnt_is_explained_before_it_is_tried(tab, drawn: World):
    few = "\n".join(line for line in drawn.labels.splitlines() if not re.search(r"case-(0[7-9]|1\d)", line))
    tab.open("#/train")
    upload(tab, "few.csv", few)
    problem = tab.see_test("problem").inner_text()
    assert "fold" in problem
    assert tab.test("folds").get_attribute("aria-invalid") == "true"
    assert tab.test("start").is_disabled()


def test_a_malformed_table_is_refused_with_its_line_and_nothing_is_kept(tab):
    before = tab.api("/api/cohorts")["cohorts"]
    tab.open("#/train")
    upload(tab, "bad.csv", "slide_id,label\na.tif,1\nb.tif,2,3\n")
    assert "line 3" in tab.see_test("upload-problem", " .note").inner_text()
    # The browser's own line about a refusal.
    tab.complaints[:] = [one for one in tab.complaints if "422" not in one]
    assert tab.api("/api/cohorts")["cohorts"] == before


def test_names_in_a_table_are_text(tab, drawn: World):
    harm = "<img src=x onerror=alert(1)>"
    text = drawn.labels.replace("tumour", f"<b>{harm}</b>")
    tab.open("#/train")
    upload(tab, f"{harm}.csv", text)
    tab.see_test("ready")
    assert harm in tab.test("understood").inner_text()
    assert tab.page.locator("img[onerror], [data-test=understood] img, [data-test=tables] img").count() == 0


def epochs_of(tab: Tab, job: str, above: int) -> int:
    """How many epochs the curves of a job show, once they are more than ``above``."""
    detail = tab.see(f"[data-test=job-detail][data-job='{job}'][data-epochs]")
    for _ in range(200):
        shown = int(detail.get_attribute("data-epochs") or 0)
        if shown > above:
            return shown
        tab.page.wait_for_timeout(100)
    raise AssertionError(f"no more than {above} epochs")


def test_a_running_job_outlives_a_reload_and_its_server_and_is_cancelled(tab_of, tab, drawn: World):
    long = {"task": "classify", "head": "abmil", "folds": 3, "epochs": 5000, "patience": 5000}
    with serving(drawn.store, "--allow-write") as first:
        early = tab_of(first).open("#/train")
        upload(early, "grades.csv", drawn.labels)
        early.see_test("ready")
        options = {"cohort": early.page.url.split("cohort=")[1], **long}
        body = {"kind": "train", "recipe": drawn.recipe, "options": options}
        job = early.api("/api/jobs", body)["job"]
        early.page.goto(f"{first.base}/?drawer=canvas#/jobs/{job}")
        early.see(f"[data-job='{job}'][data-state=running]", timeout=60_000)
        early.see("[data-test=curves] svg.chart", timeout=60_000)
        seen = epochs_of(early, job, 0)
        early.page.reload()  # nothing is lost: the curve comes back from the first epoch
        seen = epochs_of(early, job, seen)
        early.page.goto("about:blank")
    tab.open(f"#/jobs/{job}")
    epochs_of(tab, job, seen)
    assert "epochs" in tab.see_test("job-progress").inner_text()
    tab.test("cancel").click()
    tab.see_test("yes").click()
    tab.see(f"[data-test=job-detail][data-job='{job}'][data-state=cancelled]", timeout=60_000)
    assert tab.api(f"/api/jobs/{job}")["state"] == "cancelled"


def test_a_server_that_only_reads_says_how_to_start_one_that_trains(tab_of, drawn: World):
    with serving(drawn.store) as server:
        tab = tab_of(server).open("#/train")
        assert "--allow-write" in tab.see_test("read-only").inner_text()
        assert tab.test("file").is_disabled()
        tab.page.goto(f"{server.base}/?drawer=canvas#/jobs")
        tab.see("[data-view=jobs][data-state=ready]")
        assert tab.page.locator("[data-test=cancel], [data-test=delete-job]").count() == 0
        tab.page.goto("about:blank")  # or it would say, rightly, that the server is gone
