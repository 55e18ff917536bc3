"""``ingest --keep-tiles`` as a user calls it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.calling import call, call_json


def test_keeping_tiles(drawn_slide, tmp_path: Path) -> None:
    arguments = ("ingest", drawn_slide.path, "--store", tmp_path / "S", "--limit-tiles", 3)
    assert call_json(*arguments)["kept_tiles"] is None
    _, err = call(*arguments, "--keep-tiles")
    (note,) = [line for line in err.splitlines() if line.startswith("note")]
    assert "pixels: 1; --keep-tiles --replace" in note
    report = call_json(*arguments, "--keep-tiles", "--replace")
    assert report["kept_tiles"] == {"slides": 1, "without": 0}
    assert set(report["stages"]) == {"read", "encode", "write", "keep"}
    assert "the tiles of 1 slides are kept" in call("info", tmp_path / "S")[0]
    (shard,) = (tmp_path / "S" / "pixels").glob("*/*.zarr/tiles/c/0/0/0/0")
    shard.unlink()
    report = call_json("verify", tmp_path / "S", code=1)
    assert "kept tiles" in report["problems"][0]
