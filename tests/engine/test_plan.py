"""Which slides a command line means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from beph_store.engine.plan import plan
from beph_store.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.svs", "sub/a.tif", "sub/deep/c.svs", "notes.csv", ".hidden.svs"):
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "slides"


def test_a_folder_gives_relative_ids_in_order(folder: Path) -> None:
    assert [task.slide_id for task in plan([folder])] == ["b.svs", "sub/a.tif", "sub/deep/c.svs"]


def test_a_file_gives_its_name_and_a_glob_what_it_matches(folder: Path) -> None:
    assert [task.slide_id for task in plan([folder / "sub" / "a.tif"])] == ["a.tif"]
    assert [task.slide_id for task in plan([f"{folder}/sub/*.tif"])] == ["a.tif"]
    assert [task.slide_id for task in plan([f"{folder}/*/deep"])] == ["sub/deep/c.svs"]


def test_the_same_file_twice_is_one_slide(folder: Path) -> None:
    assert len(plan([folder, folder])) == 3


def test_two_files_of_one_id_fail_by_name(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.svs").write_bytes(b"y")
    (task,) = [t for t in plan([folder, other]) if t.slide_id == "b.svs"]
    assert task.error is not None
    assert "two files have this id" in task.error


@pytest.mark.parametrize("paths", [[], ["/nowhere/at-all.svs"], ["/nowhere/*.svs"]])
def test_nothing_to_ingest_is_a_usage_error(paths: list[str]) -> None:
    with pytest.raises(UsageError):
        plan(paths)


def test_a_folder_without_slides_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slides"):
        plan([tmp_path])


@pytest.mark.parametrize("mpp", [400, 0.0, -0.5, float("nan"), float("inf")])
def test_an_absurd_slide_mpp_is_a_usage_error(folder: Path, mpp: float) -> None:
    with pytest.raises(UsageError, match=r"--slide-mpp .* 0.05 to 20.0 µm"):
        plan([folder], slide_mpp=mpp)


def test_a_name_that_is_not_utf8_costs_one_slide(folder: Path) -> None:
    """Such a name cannot be stored in a table, and must not end the run that meets it."""
    try:
        (folder / os.fsdecode(b"z\xff.svs")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    *others, odd = plan([folder])
    assert [task.error for task in others] == [None] * 3
    assert "rename it" in (odd.error or "")
    assert odd.slide_id == r"z\xff.svs"
    assert str(odd.path).encode()  # what goes to the registry


def test_a_manifest_names_scales_and_cases(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(
        "\ufeffwsi,mpp,patient_id,slide_id\nb.svs,0.25,P1,first\nsub/a.tif,,P2,\n", encoding="utf-8"
    )
    by_id = {task.slide_id: task for task in plan([folder], manifest=manifest, slide_mpp=0.5)}
    assert (by_id["first"].mpp, by_id["first"].mpp_source, by_id["first"].case_id) == (0.25, "manifest", "P1")
    assert (by_id["sub/a.tif"].mpp, by_id["sub/a.tif"].mpp_source) == (0.5, "declared")
    assert by_id["sub/deep/c.svs"].case_id is None


def test_manifest_rows_without_a_slide_fail_by_name(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,mpp\nb.svs,0.25\ngone.svs,0.5\n")
    by_id = {task.slide_id: task for task in plan([folder], manifest=manifest)}
    assert "no such slide" in (by_id["gone.svs"].error or "")
    assert by_id["b.svs"].mpp == 0.25


@pytest.mark.parametrize(
    ("cell", "why"),
    [("20x", "is not a number"), ("0", "a pixel of a"), ("nan", "a pixel"), ("40", "a pixel")],
)
def test_a_manifest_cell_that_is_no_scale_costs_its_slide_and_names_the_unit(
    folder: Path, tmp_path: Path, cell: str, why: str
) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,mpp\nsub/a.tif,0.5\nb.svs,{cell}\n")
    by_id = {task.slide_id: task for task in plan([folder], manifest=manifest)}
    said = by_id["b.svs"].error or ""
    assert said.startswith(f"mpp '{cell}' in the manifest")
    assert why in said
    assert "20x is about 0.5" in said
    assert (by_id["sub/a.tif"].mpp, by_id["sub/a.tif"].error) == (0.5, None)


def test_a_manifest_alone_says_which_slides(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,case_id\n{folder}/b.svs,P1\n")
    assert [(t.slide_id, t.case_id) for t in plan([], manifest=manifest)] == [("b.svs", "P1")]


def test_an_ambiguous_manifest_row_is_not_guessed(folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "b.svs").write_bytes(b"z")
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,mpp\nb.svs,0.5\nsub/b.svs,0.25\nc.svs,1\nc.svs,2\n")
    tasks = plan([folder], manifest=manifest)
    by_id = {task.slide_id: task.mpp for task in tasks if task.error is None}
    assert by_id == {"b.svs": 0.5, "sub/b.svs": 0.25, "sub/a.tif": None, "sub/deep/c.svs": 1.0}
    assert [task.error for task in tasks if task.error] == ["the manifest has two rows for this slide"]
    (folder / "sub" / "c.svs").write_bytes(b"z")
    assert any("fits 2 slides" in (task.error or "") for task in plan([folder], manifest=manifest))


def test_a_manifest_without_a_path_column_says_what_it_needs(folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("name\nb.svs\n")
    with pytest.raises(UsageError, match="column 'path'"):
        plan([folder], manifest=manifest)
    manifest.write_text("path,mpp\n")
    with pytest.raises(UsageError, match="has no rows"):
        plan([folder], manifest=manifest)


def test_a_path_holds_wherever_the_next_command_is_typed(drawn_slide, tmp_path, monkeypatch) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.tif").symlink_to(drawn_slide.path)
    monkeypatch.chdir(tmp_path)
    (task,) = plan(["slides"])
    assert task.slide_id == "a.tif"
    assert task.path == tmp_path / "slides" / "a.tif"
