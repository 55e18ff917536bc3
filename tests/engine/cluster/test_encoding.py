"""What an encoder writes, and the encoder's files on another machine; without a cluster."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beph_store.encoders import load_bundle
from beph_store.engine.cluster import bundles, encoding
from beph_store.engine.cluster.encoding import PartSink, Target, Wrote
from beph_store.engine.cluster.seats import Seat
from beph_store.engine.messages import Failed
from beph_store.engine.pipeline import Encoded
from beph_store.engine.report import ReadStats
from beph_store.errors import BundleInvalid, ClusterUnavailable
from beph_store.store.layout import Layout

DIM = 4


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def sink(tmp_path: Path, told: list[Any]) -> PartSink:
    return PartSink(Target(Layout(tmp_path), "key", "run", DIM), told.append)


def _encoded(*index: int, bad: bool = False, value: float = 1.0) -> Encoded:
    vectors = np.full((len(index), DIM), value, np.float32)
    return Encoded("a", np.array(index, np.int32), np.full(len(index), not bad), vectors)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("staging/key/*/part-*.npz"))


def test_a_part_is_written_when_no_more_is_expected(sink: PartSink, told: list[Any], tmp_path: Path) -> None:
    sink.expect("a", 4)
    sink.take(_encoded(0, 1, 2))
    assert not told
    sink.take(_encoded(3, bad=True))
    (wrote,) = told
    assert isinstance(wrote, Wrote)
    assert (wrote.tile_index.tolist(), wrote.good) == ([0, 1, 2, 3], 3)
    with np.load(_parts(tmp_path)[0]) as part:
        assert part["index"].tolist() == [0, 1, 2, 3]
        assert part["ok"].tolist() == [True, True, True, False]


def test_a_part_is_written_every_few_seconds_and_on_demand(
    sink: PartSink, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink.expect("a", 100)
    sink.take(_encoded(0))
    sink.flush()
    assert [wrote.tile_index.tolist() for wrote in told] == [[0]]
    monkeypatch.setattr(encoding, "FLUSH_SECONDS", -1.0)
    sink.take(_encoded(1))
    assert [wrote.tile_index.tolist() for wrote in told] == [[0], [1]]


def test_what_was_encoded_of_a_slide_that_fails_stays(
    sink: PartSink, told: list[Any], tmp_path: Path
) -> None:
    sink.expect("a", 10)
    sink.take(_encoded(0, 1))
    sink.take(Failed("a", "why", ReadStats()))
    sink.take(_encoded(2))  # was under way
    assert [type(news) for news in told] == [Wrote, Failed]
    assert len(_parts(tmp_path)) == 1


def test_vectors_that_must_not_be_stored_end_their_slide(
    sink: PartSink, told: list[Any], tmp_path: Path
) -> None:
    sink.expect("a", 2)
    sink.take(_encoded(0, 1, value=float("nan")))
    (failed,) = told
    assert isinstance(failed, Failed)
    assert not _parts(tmp_path)


def test_the_encoder_on_another_machine_is_the_same_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEPH_STORE_CACHE", str(tmp_path / "cache"))
    here = load_bundle("beph-mini")
    sent = bundles.shipped(here)
    assert bundles.unpack(sent).path == here.path  # the same files lie at the same path
    elsewhere = bundles.Shipped(tmp_path / "nothing", sent.digest, "reference")
    folder = tmp_path / "cache" / "bundles" / sent.digest[:32]
    bundles._put(bundles.packed(here), folder)
    there = bundles.unpack(elsewhere)
    assert there.path == folder.resolve()
    assert there.spec == here.spec
    bundles._put(bundles.packed(here), folder)  # by another encoder of that machine
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    (folder / "encoder.onnx").write_bytes(b"another graph")
    with pytest.raises(BundleInvalid):
        bundles.unpack(elsewhere)
    shutil.rmtree(folder)


def test_a_node_that_does_not_see_the_store_or_has_another_version_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # it sets it for its own process
    encoder = encoding.Encoder(Seat("node", 0, 1, 0, 1, 1, 1.0))
    with pytest.raises(ClusterUnavailable, match="does not see the store at"):
        encoder.begin(Target(Layout(tmp_path / "elsewhere"), "key", "run", DIM))
    orders = encoding.Orders(
        bundles.shipped(load_bundle("beph-mini")), "auto", None, None, "another version", "driver"
    )
    with pytest.raises(ClusterUnavailable, match="install one version everywhere"):
        encoder.open(orders)
