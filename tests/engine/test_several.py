"""Several encoders in one pass: each gets what it would have got alone, and a tile is read once."""

import shutil
import threading

import numpy as np
import pytest
import timm
import torch

from beph_store.engine import sharing
from beph_store.engine.ingest import IngestOptions, ingest
from beph_store.engine.messages import Closed, Failed, Opened
from beph_store.engine.readers import ReaderPool, Tiles
from beph_store.engine.report import ReadStats
from beph_store.engine.several import ingest_several
from beph_store.engine.sharing import Meeting, Stopped
from beph_store.errors import EncoderError, UsageError
from beph_store.store import Store

OPTIONS = IngestOptions(limit_tiles=40, workers=1, runtime="onnxruntime")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A small encoder for the same tiles as beph-mini's, and one for tiles of another side."""
    from beph_store.encoders.torch_side.export import ExportOptions, export_loaded
    from beph_store.encoders.torch_side.published import OwnEncoder, load_own

    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "w.pth")
    for name, tile_px in (("second", 224), ("small", 160)):
        loaded = load_own(OwnEncoder(name, "test_vit", 0.5, tile_px=tile_px), folder / "w.pth")
        export_loaded(loaded, folder / name, ExportOptions(fp16_twin=False))
    return folder / "second"


@pytest.fixture(scope="module")
def slides(drawn_slide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    for name in ("a.tif", "b.tif"):
        shutil.copy(drawn_slide.path, folder / name)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """How many tiles the readers were asked for, by slide."""
    counts = {}
    inner = ReaderPool.read

    def read(self, slide_id, tile_index):
        counts[slide_id] = counts.get(slide_id, 0) + len(tile_index)
        inner(self, slide_id, tile_index)

    monkeypatch.setattr(ReaderPool, "read", read)
    return counts


def vectors(store, key, slide_id):
    bag = Store.open(store).bag(key, slide_id)
    return bag.vectors.astype(np.float32)


def test_each_gets_what_it_would_have_got_alone_and_tiles_are_read_once(slides, second, tmp_path, asked):
    both = ingest_several([slides], tmp_path / "S", ["beph-mini", str(second)], options=OPTIONS)
    assert asked == {"a.tif": 40, "b.tif": 40}
    assert [report.tiles for report in both.reports] == [80, 80]
    assert both.tiles == 160
    for report, encoder in zip(both.reports, ("beph-mini", str(second)), strict=True):
        assert [outcome.status for outcome in report.slides] == ["done", "done"]
        alone = ingest(
            [slides], tmp_path / "alone", options=IngestOptions(encoder, limit_tiles=40, workers=1)
        )
        assert alone.recipe == report.recipe
        for name in ("a.tif", "b.tif"):
            one, other = (vectors(tmp_path / s, report.recipe, name) for s in ("S", "alone"))
            np.testing.assert_allclose(one, other, atol=4e-3)
    runs = Store.open(tmp_path / "S").layout.runs
    assert len(list(runs.glob("*.json"))) == 2


def test_the_same_again_skips_and_what_one_lacks_is_read_for_it_alone(slides, second, tmp_path, asked):
    ingest([slides / "a.tif"], tmp_path / "S", options=OPTIONS)
    asked.clear()
    both = ingest_several([slides], tmp_path / "S", ["beph-mini", str(second)], options=OPTIONS)
    assert asked == {"a.tif": 40, "b.tif": 40}
    statuses = [[outcome.status for outcome in report.slides] for report in both.reports]
    assert statuses == [["skipped", "done"], ["done", "done"]]
    asked.clear()
    again = ingest_several([slides], tmp_path / "S", ["beph-mini", str(second)], options=OPTIONS)
    assert asked == {}
    assert [[outcome.status for outcome in report.slides] for report in again.reports] == [
        ["skipped"] * 2
    ] * 2
    ingest_several([slides], tmp_path / "S", ["beph-mini"], options=OPTIONS)


def test_a_bad_slide_fails_for_all_and_the_others_go_on(slides, second, tmp_path):
    (tmp_path / "slides").mkdir()
    shutil.copy(slides / "a.tif", tmp_path / "slides" / "a.tif")
    (tmp_path / "slides" / "bad.tif").write_bytes(b"nonsense")
    both = ingest_several([tmp_path / "slides"], tmp_path / "S", ["beph-mini", str(second)], options=OPTIONS)
    for report in both.reports:
        assert {o.slide_id: o.status for o in report.slides} == {"a.tif": "done", "bad.tif": "failed"}


def test_an_encoder_that_breaks_ends_the_run_of_all_and_it_can_be_taken_up(
    slides, second, tmp_path, monkeypatch
):
    from beph_store.engine import several

    inner = several._InTurn.submit
    calls = []

    def submit(self, count):
        calls.append(count)
        if len(calls) > 2:
            raise EncoderError("the device is gone")
        inner(self, count)

    monkeypatch.setattr(several._InTurn, "submit", submit)
    with pytest.raises(EncoderError, match="the device is gone"):
        ingest_several([slides], tmp_path / "S", ["beph-mini", str(second)], options=OPTIONS)
    assert not [t for t in threading.enumerate() if t.name.startswith(("run", "several"))]
    monkeypatch.setattr(several._InTurn, "submit", inner)
    both = ingest_several([slides], tmp_path / "S", ["beph-mini", str(second)], options=OPTIONS)
    assert all(o.status == "done" for report in both.reports for o in report.slides)


def test_tiles_that_cannot_be_shared_are_refused_in_one_line(slides, second, tmp_path):
    small = str(second.with_name("small"))
    for encoders, options, words in (
        (["beph-mini", small], OPTIONS, r"take different tiles \(224 px at 0\.5 µm/px, 160 px at 0\.5\)"),
        (["beph-mini", "beph-mini"], OPTIONS, "beph-mini is named twice"),
        (["beph-mini", str(second)], IngestOptions(keep_tiles=True), "with one encoder"),
        (["beph-mini", str(second)], IngestOptions(ray_address="local"), "leave out --ray"),
        (["beph-mini", str(second)], IngestOptions(workers=0), "at least 1"),
    ):
        with pytest.raises(UsageError, match=words):
            ingest_several([slides], tmp_path / "S", encoders, options=options)
    assert not (tmp_path / "S").exists()


# ---- what a pass hands out, with readers of the test's own ----------------------------------------


SPEC = object()


class FakePool:
    """Two slides of six tiles; three chunks of two each."""

    def __init__(self, tasks, spec, *, workers, admit):
        self.tasks, self.admit = tasks, admit
        self.asked, self.back, self.stopped = {}, [], False
        self.told = threading.Event()
        FakePool.last = self

    def events(self):
        for task in self.tasks:
            if not self.admit(task) or self.stopped:
                continue
            self.told.clear()
            yield Opened(task.slide_id, None, range(6), None, "fake")
            assert self.told.wait(5)
            todo = self.asked[task.slide_id]
            for at in range(0, len(todo), 2):
                index = todo[at : at + 2]
                pixels = np.repeat(index[:, None, None, None], 3, -1).astype(np.uint8)
                yield Tiles(task.slide_id, index, np.ones(len(index), bool), pixels, None, at)
            yield (
                Closed(task.slide_id, ReadStats())
                if task.slide_id != "bad"
                else Failed("bad", "no", ReadStats())
            )

    def read(self, slide_id, index):
        self.asked[slide_id] = index
        self.told.set()

    def give_back(self, tiles):
        self.back.append(tiles)

    def stop(self):
        self.stopped = True


class FakeAhead:
    def __init__(self, tasks, spec, *, workers, ahead, admit):
        self.admit = admit

    def close(self):
        pass


class FakeIntake:
    def admit(self, task):
        return True


class FakeTask:
    def __init__(self, slide_id):
        self.slide_id = slide_id


@pytest.fixture
def meeting(monkeypatch):
    monkeypatch.setattr(sharing, "ReaderPool", FakePool)
    monkeypatch.setattr(sharing, "FetchAhead", FakeAhead)
    return Meeting(2, IngestOptions())


def take(meeting, todo, seen, *, hold=False):
    """One run: it lacks ``todo`` of each slide, and collects what it gets."""
    share = meeting.arrive([FakeTask(name) for name in todo], SPEC, FakeIntake())
    for event in share.events():
        if isinstance(event, Opened):
            share.read(event.slide_id, np.array(todo[event.slide_id], np.int32))
        elif isinstance(event, Tiles):
            assert (event.pixels[:, 0, 0, 0] == event.tile_index).all()
            seen.setdefault(event.slide_id, []).extend(event.tile_index.tolist())
            if not hold:
                share.give_back(event)
    meeting.leave()


def both(meeting, first, second, **second_options):
    seen = {}, {}
    threads = [
        threading.Thread(target=take, args=(meeting, first, seen[0])),
        threading.Thread(target=take, args=(meeting, second, seen[1]), kwargs=second_options),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    return seen


def test_each_gets_the_tiles_that_it_lacks_of_the_union(meeting):
    first, second = both(meeting, {"a": [0, 1, 2, 5], "b": [0]}, {"a": [1, 3], "c": [4, 5]})
    assert first == {"a": [0, 1, 2, 5], "b": [0]}
    assert second == {"a": [1, 3], "c": [4, 5]}
    pool = FakePool.last
    assert pool.asked["a"].tolist() == [0, 1, 2, 3, 5]
    assert len(pool.back) == 5  # three chunks of a, one of b, one of c


def test_a_slot_is_free_only_when_the_last_has_used_it(meeting):
    both(meeting, {"a": [0, 1]}, {"a": [0, 1]}, hold=True)
    assert FakePool.last.back == []


def test_a_slide_of_which_nothing_is_lacking_is_closed(meeting):
    first, second = both(meeting, {"a": []}, {"a": []})
    assert (first, second) == ({}, {})
    assert FakePool.last.asked["a"].tolist() == []


def test_one_that_is_over_is_not_waited_for(meeting):
    seen = {}
    meeting.leave()
    take(meeting, {"a": [2]}, seen)
    assert seen == {"a": [2]}


def test_a_stopped_meeting_lets_nobody_wait(meeting):
    caught = []

    def wait():
        try:
            meeting.arrive([FakeTask("a")], SPEC, FakeIntake())
        except Stopped as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    meeting.stop()
    thread.join(10)
    assert len(caught) == 1
