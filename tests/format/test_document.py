"""docs/format.md is enough: a store is read here with lance, pyarrow, json and zarr, and none of our code."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import zarr

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / "tests" / "data" / "format1" / "S"
EXPECTED = json.loads((STORE.parent / "expected.json").read_text(encoding="utf-8"))
DOCUMENT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")


# --- the reader, as the document says -------------------------------------------------------------------------------


def recipe_of(key: str) -> dict:
    """The recipe of a key, refused where it was altered."""
    record = json.loads((STORE / "recipes" / f"{key}.json").read_bytes())
    assert record["format"] == 1
    canonical = json.dumps(record["recipe"], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert hashlib.sha256(canonical.encode()).hexdigest()[:16] == key
    return record["recipe"]


def registry() -> dict[str, dict]:
    return {row["key"]: row for row in lance.dataset(str(STORE / "slides.lance")).to_table().to_pylist()}


def tiles_of(row: dict) -> pa.Table:
    """The rows of a finished slide in the order of their numbers."""
    table = lance.dataset(str(STORE / "tiles" / f"{row['recipe']}.lance")).to_table()
    own = pa.compute.and_(
        pa.compute.equal(table["slide_id"], row["slide_id"]),
        pa.compute.equal(table["ingest_id"], row["ingest_id"]),
    )
    return table.filter(own).sort_by("tile")


def vectors_of(table: pa.Table, dim: int) -> np.ndarray:
    return np.array([row or [0.0] * dim for row in table["embedding"].to_pylist()], "<f2")


def content_sha256(table: pa.Table, dim: int) -> str:
    digest = hashlib.sha256()
    digest.update(np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()]).astype("<i4").tobytes())
    digest.update(table["tissue"].to_numpy().astype("<f4").tobytes())
    digest.update(bytes(status == "ok" for status in table["read_status"].to_pylist()))
    digest.update(vectors_of(table, dim).tobytes())
    return digest.hexdigest()


def folder_of(slide_id: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", slide_id)[:48].strip("._") or "slide"
    return f"{readable}-{hashlib.sha256(slide_id.encode()).hexdigest()[:12]}"


# --- what it finds --------------------------------------------------------------------------------------------------


def test_the_marker():
    assert json.loads((STORE / "store.json").read_bytes())["format"] == 1


@pytest.mark.parametrize("key", [EXPECTED["full"], EXPECTED["sparse"]])
def test_a_recipe_has_its_key_and_the_fields_that_are_listed(key):
    recipe = recipe_of(key)
    flat = {f"{part}.{name}" for part in ("tile", "encoder") for name in recipe[part]}
    listed = set(re.findall(r"`((?:tile|encoder)\.\w+)`", DOCUMENT.split("**The key**")[0]))
    assert flat == listed
    assert set(recipe) == {"tile", "encoder", "format", "vector_dtype"}


def test_the_registry_holds_every_slide_once():
    found = registry()
    assert set(found) == set(EXPECTED["slides"])
    for key, expected in EXPECTED["slides"].items():
        assert {name: found[key][name] for name in expected} == expected


def test_every_slide_has_its_tiles_and_their_hash():
    done = [row for row in registry().values() if row["status"] == "done"]
    assert len(done) == 4
    for row in done:
        dim = recipe_of(row["recipe"])["encoder"]["dim"]
        table = tiles_of(row)
        assert table["tile"].to_pylist() == list(range(row["tiles"]))
        assert table["read_status"].to_pylist().count("unreadable") == row["unreadable"]
        assert content_sha256(table, dim) == row["sha256"]


def test_vectors_are_those_that_were_written():
    for slide_id, rows in EXPECTED["vectors"].items():
        row = registry()[f"{EXPECTED['full']}/{slide_id}"]
        table = tiles_of(row)
        ok = np.array([status == "ok" for status in table["read_status"].to_pylist()])
        assert np.array_equal(vectors_of(table, 6)[ok], np.array(rows, np.float16)[ok])


def test_rows_of_a_replaced_ingest_are_not_seen():
    row = registry()[f"{EXPECTED['full']}/beta.svs"]
    assert row["replaces"] is not None
    assert row["tiles"] == 12


def test_rasters():
    for row in registry().values():
        if row["status"] == "failed":
            continue
        folder = STORE / "rasters" / row["recipe"] / f"{folder_of(row['slide_id'])}.zarr"
        group = zarr.open_group(str(folder), mode="r", zarr_format=3)
        thumbnail, tissue = group["thumbnail"], group["tissue"]
        assert (thumbnail.ndim, thumbnail.shape[2], thumbnail.dtype) == (3, 3, np.uint8)
        assert tissue.dtype == np.bool_
        assert tissue.shape[1] * tissue.attrs["mpp_x"] == row["width_l0"] * row["mpp_x"]
        assert tissue.attrs["frame"] == "whole slide"


def test_kept_tiles_hold_the_pixels_that_the_vectors_are_of():
    kept = [row for row in registry().values() if row["pixels_sha256"]]
    assert len(kept) == 3
    for row in kept:
        folder = f"{folder_of(row['slide_id'])}.{row['ingest_id']}.zarr"
        group = zarr.open_group(str(STORE / "pixels" / row["recipe"] / folder), mode="r", zarr_format=3)
        assert {**group.attrs} == {
            "format": 1,
            "recipe": row["recipe"],
            "slide_id": row["slide_id"],
            "ingest_id": row["ingest_id"],
            "pixels_sha256": row["pixels_sha256"],
        }
        tiles, ok = group["tiles"][...], group["ok"][...]
        crcs = [zlib.crc32(tile.tobytes()) if good else 0 for tile, good in zip(tiles, ok, strict=True)]
        named = hashlib.sha256(ok.astype("u1").tobytes() + np.array(crcs, "<u4").tobytes()).hexdigest()
        assert named == row["pixels_sha256"]
        pixels = tiles[ok].astype(np.float32) / 255
        moments = np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)
        assert np.abs(moments - vectors_of(tiles_of(row), 6)[ok]).max() < 1e-3


def test_the_journal_as_it_is_described():
    lines = (STORE / "annotations" / f"{EXPECTED['full']}.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    entries = [json.loads(line) for line in lines]
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4]
    gone = {entry["action"] for entry in entries if entry["do"] == "undo"}
    held = {}
    for entry in entries:
        if entry["do"] == "tiles" and entry["n"] not in gone:
            held |= {(one["slide_id"], one["x"], one["y"]): one["label"] for one in entry["labels"]}
    assert held == {("a/alpha.svs", 768, 0): "tumour", ("a/alpha.svs", 256, 256): "other"}


def test_an_uploaded_table_has_the_name_of_its_content():
    (table,) = (STORE / "labels").glob("*.csv")
    assert hashlib.sha256(b".csv\0" + table.read_bytes()).hexdigest()[:16] == table.stem


# --- the tables of the document are the code's ----------------------------------------------------------------------


def listed(name: str) -> list[tuple[str, str, bool]]:
    """(column, type, may be null) of a table of the document."""
    body = DOCUMENT.split(f"<!-- {name} -->\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[2:]]
    return [(row[0].strip("`"), row[1], {"yes": True, "no": False}[row[2]]) for row in rows]


def test_the_columns_are_those_of_the_code():
    from beph_store.store.layout import REGISTRY, tiles_schema

    def said(schema: pa.Schema) -> list[tuple[str, str, bool]]:
        return [(field.name, str(field.type).replace("[7]", "[dim]"), field.nullable) for field in schema]

    assert listed("registry") == said(REGISTRY)
    assert listed("tiles") == said(tiles_schema(7))


def test_every_folder_of_the_layout_is_listed():
    from beph_store.store import layout

    there = set(re.findall(r"^      ([\w.]+)/?", layout.__doc__ or "", re.MULTILINE))
    described = {
        match.split("/")[0] for match in re.findall(r"^\| `([\w.]+[/\w.<>]*)", DOCUMENT, re.MULTILINE)
    }
    assert there - described == set()


def test_the_numbers_are_those_of_the_code():
    from beph_store.encoders import bundle
    from beph_store.engine.study import trained
    from beph_store.heads import head
    from beph_store.store import layout, pixels

    assert layout.FORMAT == pixels.FORMAT == head.FORMAT == trained.FORMAT == bundle.FORMAT == 1
    assert f"| Lance files | pinned when a table is made | {layout.LANCE_VERSION} |" in DOCUMENT
