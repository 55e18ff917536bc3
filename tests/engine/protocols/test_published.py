"""The authors' tables and splits: used as they are where asked for, with their leaks named, and refused otherwise."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from beph_store.cohort import read_labels
from beph_store.engine.protocols.options import RunOptions
from beph_store.engine.protocols.run import run
from beph_store.engine.protocols.studies import columns
from beph_store.engine.protocols.table import PROTOCOLS
from beph_store.errors import CohortError, UsageError
from beph_store.records import ClassLabel

from .conftest import cases_of, import_vectors, slide_split, vector

ONLY = {"encoders": ("table:signal",), "baselines": False, "epochs": 1, "bootstrap": 30}
SLIDES = [name for name, one in PROTOCOLS.items() if one.level != "tile"]


@pytest.fixture(scope="module")
def leaky(stand_in, tmp_path_factory) -> Path:
    """Splits with the faults of the released ones, laid out as theirs, for the stand-ins."""
    root = tmp_path_factory.mktemp("splits")
    cases = [case for case, _ in cases_of(stand_in.tables["tcga_brca_subset.csv"]) if "ZZ" not in case]
    idc, ilc = cases[:10], cases[10:18]
    for fold in range(2):
        # Survival: val and test are one list.
        held = cases[fold * 8 : fold * 8 + 8]
        rest = [case for case in cases if case not in held]
        slide_split(root / f"5foldcv_survival/tcga_crc/splits_{fold}.csv", rest, held, held)
        # Subtypes: two test slides are in train, and a second slide of a patient in val.
        test = [*idc[:3], *ilc[:3]]
        train = [*idc[1:8], *ilc[2:7]]
        val = [idc[9], ilc[7], f"{idc[0]}-01Z-00-DX2"]
        for place in ("p50", "p100/tcga_brca"):
            slide_split(root / f"10foldcv_subtype/tcga_brca/{place}/splits_{fold}.csv", train, val, test)
    return root


def test_leaks_are_named_in_the_result_and_on_the_page(stand_in, leaky, tmp_path) -> None:
    options = RunOptions(
        store=stand_in.store,
        cohort=stand_in.tables["tcga_brca_subset.csv"],
        splits=leaky,
        as_published=True,
        fractions=(50, 100),
        draws=1,
        **ONLY,
    )
    outcome = run("subtype-brca", tmp_path / "out", options)
    data, page = outcome.to_json(), (tmp_path / "out/report.html").read_text()
    assert data["ok"]
    assert data["splits"] == "as published"
    for share in ("p50", "p100"):
        assert f"{share}: 3 test slides are also in train or val, in 1 split" in data["leaks"]
        assert any(text.startswith(f"{share}: 1 patients of test also") for text in data["leaks"])
    for text in data["leaks"]:
        assert text in page
    assert any("each slide is a case" in note for note in data["notes"])
    # Slides are the cases: the two of one patient are apart, as in the file, which lies beside the result.
    train = json.loads((tmp_path / "out" / data["results"][0]["folder"] / "train.json").read_bytes())
    assert all(case.endswith(".svs") for case in train["cohort"]["cases"])
    assert (tmp_path / "out/splits/p50/splits_0.csv").read_bytes() == (
        leaky / "10foldcv_subtype/tcga_brca/p50/splits_0.csv"
    ).read_bytes()
    assert not (tmp_path / "out/splits/p50/splits_1.csv").exists()


def test_val_that_is_test_is_named(stand_in, leaky, tmp_path) -> None:
    options = RunOptions(
        store=stand_in.store,
        cohort=stand_in.tables["TCGA_CRC.csv"],
        splits=leaky / "5foldcv_survival",
        as_published=True,
        **ONLY,
    )
    (leak,) = run("survival-crc", tmp_path / "out", options).data.leaks
    assert (
        leak
        == "p100: val and test are the same 8 slides in 2 splits: what is chosen on val is chosen on test"
    )


def test_splits_that_leak_are_refused_unless_asked_for(stand_in, leaky, tmp_path) -> None:
    given = {"store": stand_in.store, "splits": leaky, **ONLY}
    brca, crc = (stand_in.tables[name] for name in ("tcga_brca_subset.csv", "TCGA_CRC.csv"))
    with pytest.raises(CohortError, match=r"the splits leak: .*--as-published"):
        run("subtype-brca", tmp_path / "a", RunOptions(cohort=brca, fractions=(100,), **given))
    with pytest.raises(CohortError, match="val and test are the same 8 slides"):
        run("survival-crc", tmp_path / "b", RunOptions(cohort=crc, **given))
    stad = RunOptions(cohort=stand_in.tables["TCGA_STAD.csv"], as_published=True, **given)
    with pytest.raises(UsageError, match=r"no splits_0\.csv of survival-stad"):
        run("survival-stad", tmp_path / "c", stad)
    few = RunOptions(cohort=brca, as_published=True, fractions=(25,), **given)
    with pytest.raises(UsageError, match="at 25 %"):
        run("subtype-brca", tmp_path / "d", few)


@pytest.fixture(scope="module")
def real(realdata, tmp_path_factory) -> tuple[Path, Path, Path]:
    """(store, tables, splits): vectors with a signal for some of the slides of every real table."""
    folder = tmp_path_factory.mktemp("real")
    tables = realdata / "beph/dataset_csv"
    with tarfile.open(realdata / "beph/splits/splits.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    rng = np.random.default_rng(2)
    vectors: dict[str, np.ndarray] = {}
    for name in SLIDES:
        one = PROTOCOLS[name]
        seen: dict[object, int] = {}
        for row in read_labels(tables / one.table, one.task, columns(one)).rows:
            label = row.label
            kind = label.value if isinstance(label, ClassLabel) else label.event
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] <= 8:
                number = one.classes.index(kind) if kind in one.classes else int(kind)
                vectors[row.slide_id or ""] = vector(rng, number, float(number))
    # What the first released split of breast cancer needs to be run.
    with next(folder.rglob("10foldcv_subtype/tcga_brca/p25/tcga_brca/splits_0.csv")).open() as file:
        for row, _ in zip(csv.DictReader(file), range(8), strict=False):
            for part in ("train", "val", "test"):
                vectors.setdefault(f"{row[part]}.svs", vector(rng, 0, 0.0))
    import_vectors(folder, "signal", vectors)
    return folder / "S", tables, next(folder.rglob("10foldcv_subtype")).parent


@pytest.mark.parametrize("name", SLIDES)
def test_the_real_tables_go_through(real, tmp_path, name) -> None:
    store, tables, _ = real
    one = PROTOCOLS[name]
    more = {"draws": 1, "fractions": (100,)} if one.level == "slide" else {"folds": 2}
    data = run(
        name, tmp_path / "out", RunOptions(store=store, cohort=tables / one.table, **ONLY, **more)
    ).to_json()
    assert data["ok"]
    assert len(data["results"]) == 1
    rows = {"tcga_kidney": 903, "tcga_brca": 937, "tcga_lung": 958, "tcga_crc": 315, "tcga_ccrcc": 512}
    rows |= {"tcga_prcc": 260, "tcga_stad": 348}
    total = 468 if one.table == "TCGA_LUAD.csv" else rows[one.released]
    of_table = {k: v for k, v in data["dropped"].items() if not k.startswith("slide of the store")}
    slides = sum(len(s) for s in _cases(tmp_path / "out", data).values())
    assert sum(of_table.values()) + slides == total
    assert data["dropped"]["no such slide in the store"] > total / 2
    if one.classes:
        assert set(data["counts"]) == set(one.classes)
    else:
        assert min(data["counts"].values()) >= 8


def test_the_released_splits_are_used_and_their_leaks_named(real, tmp_path) -> None:
    store, tables, splits = real
    given = {"store": store, "splits": splits, "as_published": True, **ONLY}
    brca = RunOptions(cohort=tables / "tcga_brca_subset.csv", fractions=(25,), draws=1, **given)
    leaks = run("subtype-brca", tmp_path / "a", brca).data.leaks
    assert "p25: 21 test slides are also in train or val, in 1 split" in leaks
    crc = RunOptions(cohort=tables / "TCGA_CRC.csv", folds=2, **given)
    leaks = run("survival-crc", tmp_path / "b", crc).data.leaks
    assert leaks[0].startswith("p100: val and test are the same 63 slides in 2 splits")


def _cases(out: Path, data: dict) -> dict[str, list[str]]:
    return json.loads((out / data["results"][0]["folder"] / "train.json").read_bytes())["cohort"]["cases"]
