"""Stand-ins for the paper's cohorts: TCGA barcodes, the authors' columns, vectors with something to learn in them."""

from __future__ import annotations

import csv
import uuid
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from beph_store.engine.importing import import_table
from beph_store.records import EncoderSpec, Rasters, Recipe, SlideInfo, TileSet, TileSpec, TissueMask
from beph_store.store import SlideRow, Store

from ...threads import one_torch_thread

DIM = 8
RESNET = "timm:resnet50.tv_in1k"
TILES = TileSpec(tile_px=224, mpp=0.25, stride_px=224, tissue_min=0.0, tissue_method="none")
#: The three kinds of case in each table; the same people stand in for every cohort.
SUBTYPES = {
    "tcga_kidney": ("CCRCC", "PRCC", "CHRCC"),
    "tcga_brca": ("IDC", "ILC", "MDLC"),
    "tcga_lung": ("LUAD", "LUSC", "LUSC"),
}
OUTCOMES = ("CRC", "KIRC", "PRCC", "LUAD", "STAD")
KINDS = (10, 8, 6)


@dataclass(frozen=True)
class StandIn:
    """``tables`` by the authors' file names; ``store`` has vectors of their slides under two encoders: ``signal``,
    imported, in which class and hazard are planted, and one called like ResNet-50, of noise.
    """

    store: Path
    tables: dict[str, Path]


@dataclass(frozen=True)
class Person:
    """A case with its kind (0 to 2), its log hazard, and its slides."""

    case_id: str
    kind: int
    hazard: float
    days: int
    event: int
    slides: tuple[str, ...]


def people(rng: np.random.Generator, site: str = "A2") -> list[Person]:
    """Every seventh has two slides."""
    out = []
    for kind in np.repeat([0, 1, 2], KINDS).tolist():
        case = f"TCGA-{site}-{1000 + len(out):04d}"
        hazard = float(rng.normal())
        slides = [
            f"{case}-01Z-00-DX{i + 1}.{uuid.UUID(bytes=rng.bytes(16))}.svs"
            for i in range(1 + (len(out) % 7 == 0))
        ]
        days = max(1, round(800 * rng.uniform(0.7, 1.3) * np.exp(-1.5 * hazard)))
        out.append(Person(case, kind, hazard, days, int(rng.random() < 0.7), tuple(slides)))
    return out


def table(path: Path, columns: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def subtyping_table(path: Path, cohort: list[Person], classes: tuple[str, ...], absent: int = 2) -> Path:
    """As ``tcga_*_subset.csv``; ``absent`` further slides that nobody has."""
    rows = [
        [p.case_id, slide, classes[p.kind], round(p.days / 30.4375, 2), float(1 - p.event)]
        for p in cohort
        for slide in p.slides
    ]
    rows += [
        [f"TCGA-ZZ-000{i}", f"TCGA-ZZ-000{i}-01Z-00-DX1.svs", classes[0], 9.0, 1.0] for i in range(absent)
    ]
    return table(path, ["case_id", "slide_id", "oncotree_code", "survival_months", "censorship"], rows)


def survival_table(path: Path, cohort: list[Person]) -> Path:
    """As ``TCGA_*.csv``: one slide a case, named with the placeholder, and a case without follow-up."""
    rows = [
        [p.case_id, f"{p.slides[0][:23]}.hhhhh.svs", 0 if i == 3 else p.days, p.event]
        for i, p in enumerate(cohort)
    ]
    return table(path, ["case_id", "slide_id", "days", "OSFL"], rows)


def cases_of(file: Path) -> list[tuple[str, str]]:
    """(case, class) of a table of subtypes, each once."""
    with file.open(newline="") as opened:
        return list(dict.fromkeys((row["case_id"], row["oncotree_code"]) for row in csv.DictReader(opened)))


def slide_split(path: Path, *parts: list[str]) -> Path:
    """A CLAM-style CSV of the first slides of cases (or of slides, as they are) in train, val and test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    slides = [[f"{name}-01Z-00-DX1" if len(name) == 12 else name for name in part] for part in parts]
    return table(path, ["train", "val", "test"], [list(row) for row in zip_longest(*slides, fillvalue="")])


def vector(rng: np.random.Generator, kind: int, hazard: float) -> np.ndarray:
    """One of DIM values: class and hazard each on an axis of their own."""
    made = rng.normal(0, 0.5, DIM)
    made[kind] += 5
    made[4] += 3 * hazard
    return made


def import_vectors(folder: Path, name: str, vectors: dict[str, np.ndarray]) -> str:
    """Through the store's own import; the recipe's key."""
    rows = [[slide, *np.round(values, 4)] for slide, values in vectors.items()]
    file = table(folder / f"{name}.csv", ["slide_id", *(f"f{i}" for i in range(DIM))], rows)
    return import_table(file, folder / "S", columns=r"f\d+").recipe


def write_noise(store: Path, slides: list[str], name: str = RESNET, tiles: int = 3) -> None:
    """``tiles`` vectors a slide that say nothing, as if ingested with an encoder of that name."""
    rng = np.random.default_rng(9)
    spec = EncoderSpec(name, "test", "1" * 64, 224, 0.25, DIM, "none", (0.0,) * 3, (1.0,) * 3, "fp32", "none")
    opened = Store.create(store, written_by="test")
    writer = opened.writer(Recipe(TILES, spec), run="test", encoder_source="test", parity={})
    origin = np.stack([np.arange(tiles) * 224, np.zeros(tiles)], axis=1).astype(np.int32)
    rasters = Rasters(np.full((8, 24, 3), 230, np.uint8), TissueMask(np.ones((8, 24), bool), 7, 7, "none"))
    for slide in slides:
        size = (224 * tiles, 224)
        info = SlideInfo(slide, "nowhere", size, 0.25, 0.25, "declared", (size,), "0" * 64)
        claim = writer.claim(slide)
        spool = writer.open_spool(claim, info, TileSet(slide, TILES, origin, 224, np.ones(tiles, np.float32)))
        spool.add(
            np.arange(tiles, dtype=np.int32), np.ones(tiles, bool), rng.normal(size=(tiles, DIM)).astype("f4")
        )
        writer.seal(claim, rasters, SlideRow(writer.key, slide, "done", path="nowhere"))
    writer.close()


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Bags of a few tiles: several threads would only wait for each other."""
    with one_torch_thread():
        yield


@pytest.fixture(scope="package")
def stand_in(tmp_path_factory) -> StandIn:
    """All nine cohorts of slides: 24 people, 28 slides. Read only."""
    folder, rng = tmp_path_factory.mktemp("stand-in"), np.random.default_rng(5)
    cohort = people(rng)
    tables = {}
    for name, classes in SUBTYPES.items():
        file = folder / f"{name}_subset.csv"
        tables[file.name] = subtyping_table(file, cohort, classes)
    for name in OUTCOMES:
        file = folder / f"TCGA_{name}.csv"
        tables[file.name] = survival_table(file, cohort)
    vectors = {slide: vector(rng, p.kind, p.hazard) for p in cohort for slide in p.slides}
    import_vectors(folder, "signal", vectors)
    write_noise(folder / "S", list(vectors))
    return StandIn(folder / "S", tables)
