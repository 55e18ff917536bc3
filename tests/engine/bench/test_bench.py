"""Rates: what is timed, what is left out and why, and that a rate is never of something else."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from beph_store.encoders import load_bundle
from beph_store.engine.bench import power
from beph_store.engine.bench.encoder import BenchOptions, bench_encoder, rate
from beph_store.engine.bench.ingest import bench_ingest
from beph_store.engine.ingest import IngestOptions
from beph_store.errors import SlideUnreadable, UsageError
from beph_store.runtimes import Direct
from beph_store.runtimes.peak import matrix_rate
from beph_store_cli.main import app

QUICK = BenchOptions(seconds=0.2, threads=1)


def test_the_encoder_is_timed_and_held_against_the_matrix_rate():
    (row,) = bench_encoder(runtime="onnxruntime", precision="fp32", options=QUICK)
    assert row.reason is None
    assert row.tiles_per_second > 0
    assert row.device == "1 CPU core"
    assert 0.5 < row.busy <= 1
    assert row.centred_cosine > 0.9999
    assert row.share_of_peak == pytest.approx(
        row.tiles_per_second * row.flop_per_tile / row.peak_flop_per_second
    )
    assert 0 < row.share_of_peak < 1.5


def test_what_cannot_run_is_a_row_with_its_reason():
    rows = bench_encoder(options=QUICK)
    names = {row.runtime for row in rows}
    assert {"onnxruntime", "onnxruntime-cuda"} <= names
    for row in rows:
        assert (row.reason is None) == (row.tiles_per_second > 0)


def test_an_unknown_runtime_is_told():
    with pytest.raises(UsageError, match="no runtime 'fastest'"):
        bench_encoder(runtime="fastest", options=QUICK)


def test_every_tile_that_is_counted_was_encoded():
    seen = []
    stream = Direct(
        lambda tiles: seen.append(len(tiles)) or np.zeros((len(tiles), 4), np.float32), (4, 8, 8, 3)
    )
    speed, busy = rate(stream, np.zeros((10, 8, 8, 3), np.uint8), 0.05)
    assert speed > 0
    assert 0 <= busy <= 1
    assert set(seen) == {4}


def test_a_stream_can_be_timed_again():
    """As a leaderboard does, round after round: what is left under way would be submitted over."""

    class Deep(Direct):
        depth = 3
        under_way = 0

        def submit(self, count):
            assert self.under_way < self.depth, "submitted with as many under way as it bears"
            self.under_way += 1
            super().submit(count)

        def collect(self):
            self.under_way -= 1
            return super().collect()

    stream = Deep(lambda tiles: np.zeros((len(tiles), 4), np.float32), (4, 8, 8, 3))
    for _ in range(3):
        rate(stream, np.zeros((10, 8, 8, 3), np.uint8), 0.01)
        assert stream.under_way == 0


def test_the_count_of_operations_is_that_of_the_architecture():
    """beph-mini: 196 tokens; a stem of convolutions and its transformer come to 1.9 GFLOP."""
    assert load_bundle("beph-mini").flop_per_tile == 1_908_198_016


def test_a_matrix_rate_is_told_only_where_it_can_be():
    import torch

    before = torch.get_num_threads()
    assert matrix_rate("fp32", threads=before + 1) > 1e9
    assert (
        torch.get_num_threads() == before
    )  # the process's own: a training after it would be many times slower
    assert matrix_rate("int8") is None


def test_power_is_none_where_no_driver_tells(monkeypatch):
    monkeypatch.setattr(power.shutil, "which", lambda name: None)
    with power.watched(gpu=0) as watts:
        pass
    assert watts.watts is None


def test_power_comes_from_the_package_counters(tmp_path, monkeypatch):
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("1000000")
    monkeypatch.setattr(power, "_RAPL", tmp_path)
    with power.watched() as watts:
        (zone / "energy_uj").write_text("5000000")
    assert watts.watts > 0
    assert "RAPL" in watts.source


def test_an_ingest_is_held_against_its_own_encoder(drawn_slide):
    found = bench_ingest([drawn_slide.path], options=IngestOptions(limit_tiles=24), seconds=0.3)
    assert found.report.tiles == 24
    assert 0 < found.ratio < 2
    assert found.to_json()["stages"]["encode"]["busy"] > 0


def test_no_rate_of_what_failed(tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    with pytest.raises(SlideUnreadable, match="1 slides failed, so there is no rate"):
        bench_ingest([tmp_path / "broken.svs"], seconds=0.1)


def test_the_commands(drawn_slide):
    told = CliRunner().invoke(
        app, ["bench", "encoder", "--seconds", "0.1", "--runtime", "onnxruntime", "--json"]
    )
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["rates"][0]["runtime"] == "onnxruntime"
    shown = CliRunner().invoke(
        app, ["bench", "ingest", str(drawn_slide.path), "--limit-tiles", "8", "--seconds", "0.1"]
    )
    assert shown.exit_code == 0, shown.output
    assert "ingest ÷ encoder alone" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100
