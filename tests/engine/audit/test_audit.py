"""Planted copies, blur, emptiness and another stain are found; where nothing is planted nothing is."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from beph_store.engine.audit.report import render
from beph_store.engine.audit.run import AuditOptions, audit
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.search.table import open_table
from beph_store.errors import UsageError
from beph_store.testing.pyramid import write_pyramid
from beph_store.testing.synthetic import SlidePlan, demo_cohort, draw
from beph_store.testing.tiff import Coding, TiledTiff

from ...cli.calling import call, call_json

SIZE = 2048
COPY, ODD, HOSTILE = "copied.tif", "odd.tif", 'a"&<i>.tif'


def pixels(seed: int) -> np.ndarray:
    return draw(SlidePlan((SIZE, SIZE), seed, 0.4, (), 0.3), 0, 0, SIZE, SIZE)


def save(path: Path, picture: np.ndarray, quality: int = 85) -> None:
    padded = np.full((-(-picture.shape[0] // 256) * 256, -(-picture.shape[1] // 256) * 256, 3), 244, np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    with TiledTiff(path, 0.5) as tiff:
        size = picture.shape[1], picture.shape[0]
        write_pyramid(
            tiff, size, (1, 4), Coding(quality=quality), lambda x, y: padded[y : y + 256, x : x + 256]
        )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, Path]:
    """Store and labels. Five plain slides, one of them with a hostile name; a flipped, off-grid, harder compressed copy
    of the first in another case; a second file of the second in its own case; one stained and scanned badly.
    """
    folder = tmp_path_factory.mktemp("audit")
    slides = folder / "slides"
    slides.mkdir()
    names = ["one.tif", "two.tif", "three.tif", "four.tif", HOSTILE]
    drawn = [pixels(seed) for seed in range(20, 25)]
    for name, picture in zip(names, drawn, strict=True):
        save(slides / name, picture)
    save(slides / COPY, drawn[0][70:, 100:][:, ::-1], quality=60)
    shutil.copy(slides / "two.tif", slides / "two again.tif")
    density = -np.log(np.maximum(pixels(30), 1) / 255)
    grey = 0.2 * density + 0.8 * density.mean(axis=2, keepdims=True)
    odd = np.rint(255 * np.exp(-grey)).astype(np.uint8)
    middle = SIZE // 2
    odd[:, :middle] = ndimage.gaussian_filter(odd[:, :middle], (4, 4, 0))
    odd[middle : middle + 700, middle : middle + 700] = (150, 140, 160)
    save(slides / ODD, odd)
    labels = folder / "labels.csv"
    cases = {name: f"case {name}" for name in [*names, COPY, ODD]} | {"two again.tif": "case two.tif"}
    cases["three.tif"] = "<script>alert(1)</script>"
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([["slide_id", "case_id"], *cases.items()])
    report = ingest([slides], folder / "S", options=IngestOptions())
    assert not report.failed
    return folder / "S", labels


@pytest.fixture(scope="module")
def found(cohort):
    store, labels = cohort
    return audit(store, AuditOptions(labels=labels))


def test_a_flipped_copy_in_another_case_is_a_leak_and_the_only_one(found) -> None:
    data = found.to_json()
    assert data["ok"] is False
    leak, same = data["duplicates"]
    assert (leak["slide_a"], leak["slide_b"], leak["across_cases"]) == (COPY, "one.tif", True)
    assert (leak["consistent"], leak["same_file"], leak["flipped"]) == (True, False, True)
    assert abs(leak["turn"]) < 4
    assert leak["pairs"] >= 12
    assert leak["share"] > 0.9
    assert "one case_id" in leak["verdict"]
    assert (same["slide_a"], same["slide_b"]) == ("two again.tif", "two.tif")
    assert (same["across_cases"], same["same_file"], same["share"]) == (False, True, 1.0)


def test_where_the_copy_lies_is_known_to_a_few_pixels_of_a_tile(found) -> None:
    """copy x = SIZE − 100 − x of the first slide, y = y − 70, in µm."""
    placing = found.leaks[0].placing
    there = placing.carry(np.array([[300.0, 400.0], [700.0, 600.0]]))
    expected = np.array([[SIZE / 2 - 300, 435.0], [SIZE / 2 - 700, 635.0]])
    assert np.linalg.norm(there - expected, axis=1).max() < 60


def test_without_labels_two_names_of_one_file_are_a_leak(cohort) -> None:
    data = audit(cohort[0], AuditOptions(pixels=False)).to_json()
    assert [one["across_cases"] for one in data["duplicates"]] == [True, True]


def test_the_badly_made_slide_is_the_only_outlier(found) -> None:
    by_name = {one.slide_id: one for one in found.slides}
    assert [name for name, one in by_name.items() if one.stain_outlier] == [ODD]
    assert by_name[ODD].blank >= 2
    assert by_name[ODD].blurred >= 8
    assert sum(one.blurred + one.blank for name, one in by_name.items() if name != ODD) <= 2


def test_blurred_and_blank_tiles_lie_where_they_were_drawn(found) -> None:
    pixels = found.pixels
    ids, flat = found.table.flat.slide_ids, found.table.flat
    own = found.table.slide_of[pixels.rows] == ids.index(ODD)
    where = flat.origin_l0[pixels.rows]
    assert (where[own & pixels.blurred][:, 0] < SIZE // 2).all()
    inside = ((where >= SIZE // 2) & (where < SIZE // 2 + 700)).all(axis=1)
    assert inside[own & pixels.blank].all()


def test_nothing_is_found_in_a_plain_cohort(tmp_path) -> None:
    demo_cohort(tmp_path / "slides", n=5, size=(SIZE, SIZE))
    ingest([tmp_path / "slides"], tmp_path / "S", manifest=tmp_path / "slides" / "labels.csv")
    plain = audit(tmp_path / "S")
    data = plain.to_json()
    assert (data["ok"], data["duplicates"]) == (True, [])
    assert not any(one["outlier"] for one in data["slides"])
    flagged = sum(one["blank"] + one["blurred"] for one in data["tiles"])
    assert flagged <= 0.02 * sum(one["read"] for one in data["tiles"])


def test_it_says_the_same_twice_and_draws_otherwise_with_another_seed(cohort) -> None:
    first, again, other = (
        audit(cohort[0], AuditOptions(sample=20, pixels=False, seed=seed)).to_json() for seed in (0, 0, 1)
    )
    assert first == again
    assert first["sampled"] == other["sampled"] == 20 * 8
    assert first["duplicates"] != other["duplicates"]


def test_moved_files_are_said_to_be_missing_and_the_rest_is_judged(found) -> None:
    table = found.table
    rows = dict(table.rows)
    rows["one.tif"] = dataclasses.replace(rows["one.tif"], path="/nowhere/one.tif")
    from beph_store.engine.audit.slides import judge_slides, look_at_pixels
    from beph_store.engine.audit.tissue import sample_rows

    pixels = look_at_pixels(dataclasses.replace(table, rows=rows), sample_rows(table, 4, 0))
    assert [table.flat.slide_ids[i] for i in pixels.unread] == ["one.tif"]
    one = next(one for one in judge_slides(table, pixels) if one.slide_id == "one.tif")
    assert (one.read, one.stain_z) == (0, None)
    said = dataclasses.replace(found, pixels=pixels).skipped
    assert "1 of 8 slides" in said
    assert "one.tif" in said


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.add(tag)
        self.sources += [value for name, value in attrs if name == "src"]
        assert not any(name.startswith("on") for name, _ in attrs)


def test_the_page_holds_everything_and_names_are_only_text(found) -> None:
    page = render(found)
    tags = _Tags()
    tags.feed(page)
    assert not {"script", "i", "link", "iframe"} & tags.seen
    assert tags.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert 'alt="a&quot;&amp;&lt;i&gt;.tif"' in page
    assert not re.search(r"https?://", page)
    assert "give both slides one case_id" in page


def test_the_command_keeps_the_contract(cohort, tmp_path) -> None:
    store, labels = cohort
    data = call_json(
        "audit", store, "--labels", labels, "--sample", 60, "--no-pixels", "-o", tmp_path / "audit.html"
    )
    assert {"ok", "duplicates", "tiles", "slides", "sampled", "seed"} <= set(data)
    assert data["ok"] is False
    assert set(data["slides"][0]) == {"slide_id", "case_id", "stain_z", "embedding_z", "outlier"}
    assert (tmp_path / "audit.html").read_text().startswith("<!doctype html>")
    assert "--no-pixels" in data["skipped"]
    json.dumps(data, allow_nan=False)
    out, err = call("audit", store, "--labels", labels, "--sample", 60, "--no-pixels")
    assert "leak" in out
    assert max(map(len, out.splitlines())) <= 100
    assert err == ""
    _, err = call("audit", store, "-o", tmp_path / "audit.pdf", code=2)
    assert ".html" in err
    _, err = call("audit", store, "--sample", 0, code=2)
    assert "--sample" in err


def test_a_store_of_one_slide_has_nothing_to_compare(drawn_slide, tmp_path) -> None:
    assert not ingest([drawn_slide.path], tmp_path / "S", options=IngestOptions(limit_tiles=6)).failed
    data = audit(tmp_path / "S").to_json()
    assert (data["ok"], data["duplicates"], data["sampled"]) == (True, [], 6)
    assert data["slides"][0]["stain_z"] is None
    with pytest.raises(UsageError, match="--sample"):
        audit(tmp_path / "S", AuditOptions(sample=0))
    assert "None found" in render(audit(tmp_path / "S", AuditOptions(pixels=False)))
    assert len(open_table(tmp_path / "S").flat) == 6


@pytest.mark.timeout(600)
def test_the_immunostain_is_the_stain_outlier_among_real_slides(realdata, tmp_path) -> None:
    ingest(
        [realdata / "wsi_atlas"],
        tmp_path / "S",
        options=IngestOptions(limit_tiles=40),
        manifest=realdata / "wsi_atlas" / "slides.csv",
    )
    data = audit(tmp_path / "S").to_json()
    assert data["ok"] is True
    assert [one["slide_id"] for one in data["slides"] if one["outlier"]] == [
        "ood_stomach_hpylori_IHC_20x.tif"
    ]
    assert sum(one["blurred"] for one in data["tiles"]) < 0.03 * data["sampled"]
