"""A map shows what is there, says how far to trust it, and no name that came with the slides can act in its page."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.search import colouring as shades
from beph_store.engine.search import thumbnails as packing
from beph_store.engine.search.colouring import colour_by, colours_of
from beph_store.engine.search.map import MapOptions, draw_map
from beph_store.engine.search.mapfile import save_map
from beph_store.engine.search.mappage import inert
from beph_store.engine.search.mappicture import picture
from beph_store.engine.search.sheet import tile_pixels
from beph_store.engine.search.table import open_table
from beph_store.engine.search.thumbnails import thumbnails
from beph_store.errors import QueryError, SearchError
from beph_store.records import Recipe
from beph_store.store import Store
from beph_store.testing.assemble import assemble_ebhi
from beph_store.testing.synthetic import SlidePlan, write_slide

from ..study.conftest import DIM, SPEC, _write, encoder, plant

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
QUICK = MapOptions(method="pca")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"), cases=20)


@pytest.fixture(scope="module")
def opened(planted):
    return open_table(planted.store, labels=planted.labels)


@pytest.fixture(scope="module")
def two_tissues(tmp_path_factory) -> Path:
    """Four drawn slides, two nearly all tumour and two without any, with labels.csv beside the store."""
    folder = tmp_path_factory.mktemp("tissues")
    rows = []
    for number, tumour in enumerate((0.0, 0.95, 0.0, 0.95)):
        name = f"d{number}.tif"
        write_slide(
            folder / name, SlidePlan(size=(2048, 2048), seed=number, tumour=tumour, nuisances=(), stain=0.1)
        )
        rows.append([name, f"c{number}", "tumour" if tumour else "stroma"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["slide_id", "case_id", "label"], *rows])
    ingest([folder / row[0] for row in rows], folder / "S", options=IngestOptions(limit_tiles=24))
    return folder


@pytest.fixture(scope="module")
def drawn(two_tissues):
    """The map of these, by UMAP."""
    return draw_map(
        open_table(two_tissues / "S", labels=two_tissues / "labels.csv"), MapOptions(colour="label")
    )


class Reader(HTMLParser):
    """What a browser would see: the elements, their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._at = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._at = dict(attrs).get("id") or tag

    def handle_endtag(self, tag):
        self._at = ""

    def handle_data(self, data):
        self.inside[self._at] = self.inside.get(self._at, "") + data


def neighbours_agree(points: np.ndarray, labels: np.ndarray, owner: np.ndarray, k: int = 5) -> float:
    """Share of tiles whose nearest in the plane, of other slides, are mostly of their label."""
    away = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    away[owner[:, None] == owner[None]] = np.inf
    return float(((labels[np.argsort(away, axis=1)[:, :k]] == labels[:, None]).mean(axis=1) > 0.5).mean())


def test_two_tissues_lie_apart(drawn) -> None:
    """Among tiles of other slides, so that it is not the slides that are told apart."""
    labels, owner = np.array(drawn.colouring.texts), drawn.table.slide_of[drawn.rows]
    agree = neighbours_agree(drawn.points, labels, owner)
    shuffled = np.array(["stroma", "tumour"])[np.random.default_rng(0).integers(0, 2, len(labels))]
    assert agree > 0.8
    assert neighbours_agree(drawn.points, shuffled, owner) < 0.65
    assert drawn.quality.trustworthiness > 0.8


def test_the_same_seed_draws_the_same_map(drawn) -> None:
    again = draw_map(drawn.table, drawn.options)
    np.testing.assert_array_equal(again.points, drawn.points)
    first = draw_map(drawn.table, MapOptions(sample=30, method="pca"))
    np.testing.assert_array_equal(first.rows, draw_map(drawn.table, MapOptions(sample=30, method="pca")).rows)
    other = draw_map(drawn.table, MapOptions(sample=30, method="pca", seed=1))
    assert other.rows.tolist() != first.rows.tolist()


def test_where_acts_before_sampling_and_every_slide_is_seen(opened) -> None:
    drawn = draw_map(opened, MapOptions(sample=60, method="pca", where="label = 'tumour'", colour="label"))
    assert len(drawn) == 60
    assert set(drawn.colouring.texts) == {"tumour"}
    counts = np.unique(opened.slide_of[drawn.rows], return_counts=True)[1]
    assert len(counts) == drawn.slides == 13
    assert counts.max() - counts.min() <= 1
    assert "label = 'tumour'" in drawn.subtitle
    with pytest.raises(SearchError, match=r"needs 8 tiles, there are 0 with --where"):
        draw_map(opened, MapOptions(where="label = 'none'", method="pca"))
    with pytest.raises(QueryError, match="columns:"):
        draw_map(opened, MapOptions(where="lable = 'x'", method="pca"))


def test_columns_of_slides_registry_tiles_and_labels(opened) -> None:
    rows = np.arange(0, len(opened.flat), 3)
    by = {name: colour_by(opened, rows, name) for name in ("slide", "case", "label", "x", "tissue", "days")}
    assert by["slide"].texts[0] == opened.flat.slide_ids[0]
    assert by["case"].texts[0] == "c00"
    assert [row.name for row in by["label"].legend] == ["normal", "tumour"]
    assert by["x"].texts[1] == str(opened.flat.origin_l0[rows[1], 0])
    assert by["days"].scale is not None
    np.testing.assert_allclose(by["days"].scale.max(), 1)
    with pytest.raises(
        QueryError, match=r"--colour 'lable': no such column; there are slide_id.*label.*tissue"
    ):
        colour_by(opened, rows, "lable")


def test_classes_beyond_twelve_share_a_colour_and_the_legend_says_so(opened) -> None:
    found = colour_by(opened, np.arange(len(opened.flat)), "slide")
    classes = len(opened.flat.slide_ids)
    assert len(found.legend) == len(shades.PALETTE) + 1
    assert found.legend[-1].name == f"{classes - 12} other classes"
    assert sum(row.tiles for row in found.legend) == len(opened.flat)
    assert found.grouped == classes - 12
    assert "share one colour" in found.note
    assert len({row.colour for row in found.legend}) == 13
    kept = min(row.tiles for row in found.legend[:-1])
    counts = np.unique(found.texts, return_counts=True)[1]
    assert kept == np.sort(counts)[-12]


def test_what_has_no_value_is_grey_and_says_so(planted, tmp_path) -> None:
    table = pl.read_csv(planted.labels).with_columns(
        pl.when(pl.col("label") == "tumour").then("days").alias("days"),
        pl.when(pl.col("label") == "tumour").then(pl.lit(" high ")).otherwise(pl.lit(" ")).alias("grade"),
    )
    table.write_csv(tmp_path / "gaps.csv")
    opened = open_table(planted.store, labels=tmp_path / "gaps.csv")
    rows = np.arange(len(opened.flat))
    for column in ("days", "grade"):
        found = colour_by(opened, rows, column)
        grey = [row for row in found.legend if row.name == "not labelled"]
        assert [row.tiles for row in grey] == [sum(text is None for text in found.texts)]
        assert grey[0].tiles > 0
        colours = np.array(colours_of(found))
        assert set(colours[[text is None for text in found.texts]]) == {shades.MISSING}
        assert shades.MISSING not in colours[[text is not None for text in found.texts]]
    picture(draw_map(opened, MapOptions(colour="days", method="pca")))


#: What the three kinds of dichromat see, of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1.
DICHROMATS = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
}
TO_LMS = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
          [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
TO_LAB = [[0.2104542553, 0.793617785, -0.0040720468], [1.9779984951, -2.428592205, 0.4505937099],
          [0.0259040371, 0.7827717662, -0.808675766]]  # fmt: skip


@pytest.mark.parametrize("vision", DICHROMATS)
def test_no_two_colours_of_the_legend_look_alike_to_any_eye(vision: str) -> None:
    """Distances in OKLab; Okabe and Ito's own closest pair is 0.076 apart."""
    colours = [*shades.PALETTE, shades.OTHER, shades.MISSING]
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(DICHROMATS[vision]).T, 0, 1)
    lab = np.cbrt(seen @ np.array(TO_LMS).T) @ np.array(TO_LAB).T
    away = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab))
    assert away.min() > 0.065
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (1.05 / (luminance + 0.05)).min() > 1.6  # against white
    assert ((luminance + 0.05) / (0.009 + 0.05)).min() > 2.2  # against the page's dark


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(drawn, tmp_path) -> None:
    counts = save_map(drawn, tmp_path / "map.html")
    assert counts == {"from_slides": len(drawn), "from_overviews": 0, "none": 0}
    text = (tmp_path / "map.html").read_text("utf-8")
    seen = Reader(text)
    policy = next(a["content"] for tag, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(
        r"https?://|url\(|@import|\sstyle=|\son\w+=", re.sub(r"(?s)<script type.*?</script>", "", text)
    )
    assert drawn.trust.split(" ")[1] in text


def test_the_page_holds_every_tile_and_its_picture(drawn, tmp_path) -> None:
    save_map(drawn, tmp_path / "map.html")
    seen = Reader((tmp_path / "map.html").read_text("utf-8"))
    data = json.loads(seen.inside["data"])
    n = len(drawn)
    assert {len(data[key]) for key in ("u", "v", "x", "y", "word", "code", "slide", "order", "source")} == {n}
    assert sorted(data["order"]) == list(range(n))
    assert [data["words"][w] for w in data["word"]] == list(drawn.colouring.texts)
    np.testing.assert_allclose(np.array(data["u"]) / data["grid"], drawn.points[:, 0], atol=1e-4)
    i = 17
    hit = drawn.table.hit(int(drawn.rows[i]), 0)
    assert (data["slides"][data["slide"][i]], data["x"][i], data["y"][i]) == (
        [hit.slide_id, hit.case_id],
        *hit.origin_l0,
    )
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(seen.inside["sheet-0"]))))
    row, column = divmod(i, data["side"])
    cell = data["cell"]
    shown = sheet[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].astype(float)
    pixels = Image.fromarray(tile_pixels(drawn.table, [hit])[0][0]).resize((cell, cell), Image.Resampling.BOX)
    assert np.abs(shown - np.asarray(pixels, float)).mean() < 8
    assert np.abs(shown - np.roll(sheet, cell, axis=1)[:cell, column * cell : (column + 1) * cell]).mean() > 8


def test_names_with_markup_are_inert(tmp_path) -> None:
    store = Store.create(tmp_path / "<b>S&amp;", written_by="test")
    writer = store.writer(Recipe(SPEC, encoder()), run="test", encoder_source="test", parity={})
    rng = np.random.default_rng(0)
    name = "a<img src=x onerror=alert(3)>@@DATA@@\u2028.svs"
    for slide in (name, "b.svs"):
        _write(writer, slide, rng.normal(size=(12, DIM)).astype(np.float32))
    writer.close()
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["slide_id", EVIL], [name, EVIL], ["b.svs", "@@SCRIPT@@ $x^2$"]])
    opened = open_table(tmp_path / "<b>S&amp;", labels=tmp_path / "labels.csv")
    drawn = draw_map(opened, MapOptions(colour=EVIL, method="pca", where=f"slide_id <> '{EVIL}'"))
    save_map(drawn, tmp_path / "map.html")
    text = (tmp_path / "map.html").read_text("utf-8")
    seen = Reader(text)
    assert [tag for tag, _ in seen.tags].count("script") == 3
    assert not [tag for tag, _ in seen.tags if tag in ("img", "b")]
    assert not [key for _, attributes in seen.tags for key in attributes if key.startswith("on")]
    assert EVIL not in text
    data = json.loads(seen.inside["data"])
    assert set(data["words"]) == {EVIL, "@@SCRIPT@@ $x^2$"}
    assert name in [slide for slide, _ in data["slides"]]
    picture(drawn)


def test_the_script_makes_no_markup_from_data() -> None:
    script = (Path(shades.__file__).parent / "assets" / "map.js").read_text("utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|setAttribute\(.on",
        script,
    )
    assert "<" not in inert({"a": EVIL})
    assert json.loads(inert({"a": EVIL + "\u2028&"})) == {"a": EVIL + "\u2028&"}


def test_where_slides_have_moved_the_overview_stands_in_and_where_that_is_gone_the_point_stays(
    two_tissues, tmp_path
) -> None:
    shutil.copytree(two_tissues / "S", tmp_path / "S")
    for number in range(2):
        shutil.copy(two_tissues / f"d{number}.tif", tmp_path)
    registry = Store.open(tmp_path / "S")
    key = registry.recipe().recipe.key
    table = open_table(tmp_path / "S")
    gone = {
        name: dataclasses.replace(row, path="nowhere.tif")
        for name, row in table.rows.items()
        if name != "d0.tif"
    }
    moved = dataclasses.replace(table, rows={**table.rows, **gone})
    shutil.rmtree(registry.layout.raster(key, "d3.tif"))
    drawn = draw_map(moved, QUICK)
    tiles = np.bincount(moved.slide_of[drawn.rows]).tolist()
    told: list[tuple[int, int]] = []
    counts = save_map(drawn, tmp_path / "map.html", lambda done, total: told.append((done, total)))
    assert counts == {"from_slides": tiles[0], "from_overviews": tiles[1] + tiles[2], "none": tiles[3]}
    assert told[-1] == (len(drawn), len(drawn))
    data = json.loads(Reader((tmp_path / "map.html").read_text("utf-8")).inside["data"])
    assert len(data["u"]) == len(drawn)
    assert set(data["source"]) == {"0", "1", "2"}


def test_more_tiles_get_smaller_pictures(opened) -> None:
    few = thumbnails(opened, np.arange(300))
    assert (few.px, len(few.sheets)) == (112, 2)
    assert not (few.source == 2).any()
    assert Image.open(io.BytesIO(few.sheets[0])).size == (16 * 112, 16 * 112)


def test_the_picture_shows_points_legend_and_trust(drawn, tmp_path) -> None:
    save_map(drawn, tmp_path / "deep" / "map.png")
    shown = Image.open(tmp_path / "deep" / "map.png")
    assert shown.size == (1528, 1276)
    pixels = np.asarray(shown.convert("RGB")).astype(int)
    for row in drawn.colouring.legend:
        wanted = [int(row.colour[i : i + 2], 16) for i in (1, 3, 5)]
        near = np.abs(pixels - wanted).sum(axis=-1) < 60
        assert near[92:1172, 36:1116].sum() > 40 * row.tiles  # on the map: dots of some 90 px, some hidden
        assert near[:, 1152:].sum() > 100  # in the legend
    assert (pixels[1180:] < 130).any()  # the figures of trust, beneath
    assert "seed 0" in drawn.subtitle
    assert f"{len(drawn)} tiles" in drawn.subtitle


def test_the_facts_are_json(drawn) -> None:
    facts = json.loads(json.dumps(drawn.to_json()))
    assert {
        "tiles",
        "tiles_to_choose_from",
        "slides",
        "recipe",
        "method",
        "package",
        "seed",
        "where",
        "quality",
        "colour",
    } == set(facts)
    assert set(facts["quality"]) == {"trustworthiness", "kept", "neighbours"}
    assert facts["colour"]["kind"] == "classes"
    assert [row["name"] for row in facts["colour"]["legend"]] == ["stroma", "tumour"]
    assert facts["package"].startswith("umap-learn ")


def test_a_page_of_five_thousand_stays_small(drawn, monkeypatch) -> None:
    """Drawn tissue at the px that 5,000 tiles get; real tissue takes about the same."""
    px = next(size for most, size in packing._SIZES if most >= 5000)
    monkeypatch.setattr(packing, "_SIZES", ((1 << 62, px),))
    made = thumbnails(drawn.table, drawn.rows)
    assert made.px == px
    assert sum(map(len, made.sheets)) / len(drawn) * 5000 * 4 / 3 < 15e6


def test_real_tissue_keeps_its_classes_on_the_map(realdata, tmp_path) -> None:
    """Six classes of EBHI-Seg: tiles of other cases nearby are of the same class twice as often as by chance."""
    labels = assemble_ebhi(realdata / "ebhi_seg", tmp_path / "ebhi", limit=60)
    ingest([tmp_path / "ebhi"], tmp_path / "S")
    drawn = draw_map(
        open_table(tmp_path / "S", labels=tmp_path / "ebhi" / "labels.csv"),
        MapOptions(colour="label", seed=2),
    )
    assert drawn.slides_seen == len(labels)
    assert drawn.quality.trustworthiness > 0.9
    kind = np.array(drawn.colouring.texts)
    case = np.array(drawn.table.case_of)[drawn.table.slide_of[drawn.rows]]
    agree = neighbours_agree(drawn.points, kind, case)
    chance = neighbours_agree(drawn.points, np.random.default_rng(0).permutation(kind), case)
    assert agree > 0.5
    assert agree > 2 * chance
    counts = save_map(drawn, tmp_path / "map.html")
    assert counts["from_slides"] == len(drawn)
