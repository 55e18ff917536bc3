"""Slides assembled from fields, and outcomes planted in them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
from PIL import Image

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.errors import CohortError, UsageError
from beph_store.records import TileSet, TileSpec
from beph_store.slides import TileReader, open_slide
from beph_store.store import Store, verify
from beph_store.testing.assemble import SEVERITY, assemble, assemble_ebhi, field_origins, plant_survival
from beph_store.testing.synthetic import Coding, SlidePlan, draw, truth

SIDE = 224
LOSSLESS = Coding("deflate")


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    """Six drawn fields full of tissue."""
    plan = SlidePlan(size=(4096, 4096), seed=3, nuisances=())
    drawn = truth(plan)
    places = [(x, y) for y in range(512, 3500, 448) for x in range(512, 3500, 448)]
    full = [place for place in places if drawn.share("glass", *place, SIDE) == 0]
    assert len(full) >= 6
    return [draw(plan, x, y, SIDE, SIDE) for x, y in full[:6]]


def tiles_at(path: Path, origins: np.ndarray) -> np.ndarray:
    """Read through the library's own reader, as an ingest does."""
    spec = TileSpec(SIDE, 0.5, SIDE, 0.0, "none")
    tiles = TileSet("s", spec, origins.astype(np.int32), SIDE, np.ones(len(origins), np.float32))
    out = np.zeros((len(origins), SIDE, SIDE, 3), np.uint8)
    with open_slide(path) as slide:
        reader = TileReader(slide, tiles)
        order = reader.order()
        assert reader.read(order, out).all()
    placed = np.zeros_like(out)
    placed[order] = out
    return placed


def test_fields_lie_row_by_row_with_gaps_between_and_around() -> None:
    assert field_origins(3, (10, 20), 5).tolist() == [[5, 5], [20, 5], [5, 30]]
    assert field_origins(3, (10, 20), 0, columns=3).tolist() == [[0, 0], [10, 0], [20, 0]]


@pytest.mark.parametrize(
    ("gap", "coding", "tolerance"), [(None, LOSSLESS, 0), (0, LOSSLESS, 0), (37, Coding(), 9)]
)
def test_the_slide_is_the_fields_on_white(fields, tmp_path: Path, gap, coding, tolerance) -> None:
    """Lossless to the bit; JPEG on average (single pixels at sharp edges may be further off)."""
    path = assemble(fields[:5], tmp_path / "sub" / "a.tif", mpp=0.5, gap_px=gap, coding=coding)
    origins = field_origins(5, (SIDE, SIDE), 2 * SIDE if gap is None else gap)
    found = tiles_at(path, origins).astype(int)
    assert np.abs(found - np.stack(fields[:5])).mean() <= tolerance
    with tifffile.TiffFile(path) as tiff:
        whole = tiff.pages[0].asarray()
    outside = np.ones(whole.shape[:2], bool)
    for x, y in origins.tolist():
        outside[y : y + SIDE, x : x + SIDE] = False
    if not tolerance:
        assert (whole[outside] == 244).all()
    assert np.abs(whole[outside].astype(int) - 244).mean() < 2 if outside.any() else gap == 0
    assert list(tmp_path.rglob("*.part")) == []


def test_the_file_states_its_scale_and_that_it_was_declared(fields, tmp_path: Path) -> None:
    path = assemble(fields, tmp_path / "a.tif", mpp=0.37, columns=6)
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx(0.37, rel=1e-3)
        assert slide.info.size_l0 == (6 * SIDE + 7 * 2 * SIDE, 5 * SIDE)
        assert [size[0] for size in slide.info.level_sizes] == [4480, 1120, 280]
        overview, _, _ = slide.overview(8.0)
        assert overview[0, 0].tolist() == pytest.approx([244] * 3, abs=2)
    with tifffile.TiffFile(path) as tiff:
        assert "declared, arbitrary" in tiff.pages[0].description


def test_fields_of_several_sizes_and_from_files(fields, tmp_path: Path) -> None:
    Image.fromarray(fields[0]).save(tmp_path / "field.png")
    small = fields[1][:100, :150]
    path = assemble([tmp_path / "field.png", small], tmp_path / "a.tif", mpp=0.5, gap_px=8, coding=LOSSLESS)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 8, 8, SIDE, SIDE), fields[0])
        np.testing.assert_array_equal(slide.read_level(0, 8 + SIDE + 8, 8, 150, 100), small)
        assert (slide.read_level(0, 8 + SIDE + 8 + 150, 8, 74, SIDE) == 244).all()


def test_bad_fields_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    out = tmp_path / "a.tif"
    with pytest.raises(UsageError, match="at least one field"):
        assemble([], out, mpp=0.5)
    with pytest.raises(UsageError, match=r"text\.png cannot be read"):
        assemble([tmp_path / "text.png"], out, mpp=0.5)
    with pytest.raises(UsageError, match=r"\(4, 4\) uint8"):
        assemble([np.zeros((4, 4), np.uint8)], out, mpp=0.5)
    with pytest.raises(UsageError, match="at least 0 px"):
        assemble([np.zeros((4, 4, 3), np.uint8)], out, mpp=0.5, gap_px=-1)
    assert not out.exists()


@pytest.fixture
def ebhi(fields, tmp_path: Path) -> Path:
    """A folder as EBHI-Seg's: case C1 in two spellings, C2 with two slides of two classes, C3 with one of two."""
    rows = [
        ("adenocarcinoma", "C1", "C1-1"),
        ("adenocarcinoma", "c1", "c1-1"),
        ("normal", "C2", "C2-1"),
        ("high_grade_in", "C2", "C2-2"),
        ("polyp", "C3", "C3-1"),
        ("low_grade_in", "C3", "C3-1"),
    ]
    root = tmp_path / "ebhi"
    root.mkdir()
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "case_id", "slide_id"])
        for i, (row, field) in enumerate(zip(rows, fields, strict=True)):
            Image.fromarray(field).save(root / f"{i}.png")
            writer.writerow([f"{i}.png", *row])
    return root


def test_a_slide_of_two_classes_becomes_two_and_its_case_stays_one(ebhi: Path, tmp_path: Path) -> None:
    labels = assemble_ebhi(ebhi, tmp_path / "out")
    shown = labels.select("slide_id", "case_id", "label", "case_label", "fields", "source_slide_id").rows()
    assert shown == [
        ("C1-1.tif", "C1", "adenocarcinoma", "adenocarcinoma", 2, "C1-1"),
        ("C2-1.tif", "C2", "normal", "high_grade_in", 1, "C2-1"),
        ("C2-2.tif", "C2", "high_grade_in", "high_grade_in", 1, "C2-2"),
        ("C3-1-a.tif", "C3", "low_grade_in", "low_grade_in", 1, "C3-1"),
        ("C3-1-b.tif", "C3", "polyp", "low_grade_in", 1, "C3-1"),
    ]
    assert all("declared, arbitrary" in note for note in labels["note"])
    assert pl.read_csv(tmp_path / "out" / "labels.csv").equals(labels)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tif")) == sorted(labels["slide_id"])


def test_what_is_seen_through_the_whole_library_are_the_fields(ebhi: Path, fields, tmp_path: Path) -> None:
    labels = assemble_ebhi(ebhi, tmp_path / "out", limit=2)
    assert labels["slide_id"].to_list() == ["C1-1.tif", "C3-1-b.tif"]
    report = ingest([], tmp_path / "S", manifest=tmp_path / "out" / "labels.csv", options=IngestOptions())
    assert [(o.slide_id, o.status, o.tiles) for o in report.slides] == [
        ("C1-1.tif", "done", 2),
        ("C3-1-b.tif", "done", 1),
    ]
    store = Store.open(tmp_path / "S")
    assert verify(store).ok
    assert [row.case_id for row in store.rows(report.recipe)] == ["C1", "C3"]
    for slide_id, own in (("C1-1.tif", fields[:2]), ("C3-1-b.tif", fields[4:5])):
        bag = store.bag(report.recipe, slide_id)
        found = tiles_at(tmp_path / "out" / slide_id, bag.origin_l0)
        assert np.abs(found.astype(int) - np.stack(own)).mean() < 2.5


def test_optical_density_is_of_the_pixels(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,label,case_id,slide_id\na.png,polyp,c,s\n")
    Image.new("RGB", (SIDE, SIDE), (255, 255, 255)).save(tmp_path / "a.png")
    assert assemble_ebhi(tmp_path, tmp_path / "white")["optical_density"].to_list() == [0.0]
    Image.new("RGB", (SIDE, SIDE), (25, 25, 25)).save(tmp_path / "a.png")
    (density,) = assemble_ebhi(tmp_path, tmp_path / "dark")["optical_density"]
    assert density == pytest.approx(np.log10(255 / 25), abs=1e-5)


def test_a_folder_that_is_not_ebhi_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.csv cannot be read"):
        assemble_ebhi(tmp_path, tmp_path / "out")
    (tmp_path / "manifest.csv").write_text("path,label\na,b\n")
    with pytest.raises(UsageError, match="lacks the columns case_id, slide_id"):
        assemble_ebhi(tmp_path, tmp_path / "out")
    (tmp_path / "manifest.csv").write_text("path,label,case_id,slide_id\na,cat,c,s\n")
    with pytest.raises(UsageError, match="none of EBHI's: cat"):
        assemble_ebhi(tmp_path, tmp_path / "out")


def test_the_real_fields(realdata: Path, tmp_path: Path) -> None:
    labels = assemble_ebhi(realdata / "ebhi_seg", tmp_path / "out", limit=2)
    report = ingest([tmp_path / "out"], tmp_path / "S", options=IngestOptions())
    store = Store.open(tmp_path / "S")
    manifest = (
        pl.read_csv(realdata / "ebhi_seg" / "manifest.csv")
        .sort("path")
        .with_columns(pl.col("slide_id").str.to_uppercase())
    )
    for row in labels.iter_rows(named=True):
        files = manifest.filter(slide_id=row["source_slide_id"], label=row["label"])["path"]
        own = np.stack(
            [np.asarray(Image.open(realdata / "ebhi_seg" / name).convert("RGB")) for name in files]
        )
        bag = store.bag(report.recipe, row["slide_id"])
        assert len(bag) == row["fields"] == len(own)
        found = tiles_at(tmp_path / "out" / row["slide_id"], bag.origin_l0)
        assert np.abs(found.astype(int) - own).mean() < 4  # camera noise, through JPEG


def cohort(n: int) -> pl.DataFrame:
    names = [SEVERITY[i % 6] for i in range(n)]
    ids = [f"case-{i:03d}" for i in range(n)]
    return pl.DataFrame(
        {
            "slide_id": [f"{i}.tif" for i in ids],
            "case_id": ids,
            "case_label": names,
            "density": np.linspace(0, 1, n),
        }
    )


def concordance(table: pl.DataFrame, score: np.ndarray) -> float:
    """Share of comparable pairs in which the higher score dies first; a half where scores are equal."""
    time = table["simulated_time_days"].to_numpy()
    event = table["simulated_event"].to_numpy()
    first = (time[:, None] < time[None, :]) & event[:, None]
    right = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    return float((right * first).sum() / first.sum())


def test_planted_outcomes_follow_the_class_as_strongly_as_asked() -> None:
    table = cohort(600)
    severity = np.array([SEVERITY.index(name) for name in table["case_label"]])
    found = [
        concordance(plant_survival(table, strength=s, seed=1), severity) for s in (-1.0, 0.0, 0.5, 1.0, 2.0)
    ]
    assert found == sorted(found)
    assert found[0] < 0.35
    assert found[1] == pytest.approx(0.5, abs=0.04)
    assert 0.68 < found[3] < 0.80
    assert found[4] > 0.8


def test_planted_outcomes_follow_a_number() -> None:
    planted = plant_survival(cohort(400), by="density", strength=1.5, seed=2)
    assert concordance(planted, planted["density"].to_numpy()) > 0.75
    hazard = planted["simulated_log_hazard"].to_numpy()
    assert (hazard.mean(), hazard.std()) == pytest.approx((0, 1.5))


def test_the_share_without_an_event_is_as_asked_and_says_nothing_of_the_hazard() -> None:
    for censored in (0.0, 0.3, 0.7):
        planted = plant_survival(cohort(300), strength=0.0, censored=censored, seed=5)
        assert 1 - planted["simulated_event"].mean() == pytest.approx(censored, abs=0.005)
    planted = plant_survival(cohort(3000), strength=0.0, censored=0.5, seed=5)
    days, seen = (planted[name].to_numpy() for name in ("simulated_time_days", "simulated_event"))
    assert days.min() >= 1
    # Kaplan–Meier of what was planted passes one half at the median that was asked for, censored or not.
    at_risk = (days[None, :] >= np.sort(days[seen])[:, None]).sum(axis=1)
    survival = np.cumprod(1 - 1 / at_risk)
    median = np.sort(days[seen])[np.searchsorted(-survival, -0.5)]
    assert median == pytest.approx(1000, rel=0.12)


def test_the_same_seed_gives_each_case_the_same_outcome_in_any_order_of_rows() -> None:
    table = cohort(50)
    twice = pl.concat([table, table.with_columns(slide_id=pl.col("slide_id") + "x")])
    planted = plant_survival(twice, seed=7)
    assert planted.height == 100
    assert planted["slide_id"].to_list() == twice["slide_id"].to_list()
    columns = ["case_id", "simulated_time_days", "simulated_event", "simulated_log_hazard"]
    assert planted.select(columns).unique().height == 50
    shuffled = plant_survival(twice.sample(fraction=1, shuffle=True, seed=0), seed=7)
    assert (
        shuffled.select(columns)
        .unique()
        .sort("case_id")
        .equals(planted.select(columns).unique().sort("case_id"))
    )
    other = plant_survival(twice, seed=8)
    assert other["simulated_time_days"].to_list() != planted["simulated_time_days"].to_list()


def test_every_added_column_says_that_it_is_simulated() -> None:
    table = cohort(12)
    added = set(plant_survival(table).columns) - set(table.columns)
    assert added == {"simulated_time_days", "simulated_event", "simulated_log_hazard"}


def test_what_cannot_be_planted_by_is_refused() -> None:
    table = cohort(6)
    with pytest.raises(UsageError, match="needs the columns case_id and grade"):
        plant_survival(table, by="grade")
    with pytest.raises(UsageError, match="censored share"):
        plant_survival(table, censored=1.0)
    with pytest.raises(UsageError, match="empty cells"):
        plant_survival(table.with_columns(density=pl.lit(None, pl.Float64)), by="density")
    with pytest.raises(UsageError, match="not finite"):
        plant_survival(table.with_columns(density=pl.lit(float("inf"))), by="density")
    two = pl.concat([table, table.with_columns(case_label=pl.lit("polyp"))])
    with pytest.raises(CohortError, match=r"case-000 has more than one case_label \(normal, polyp\)"):
        plant_survival(two)
