"""A pipe, a socket, a device or a folder in the place of a file: one line at once, and never a wait for a writer."""

import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from beph_store.errors import BephStoreError
from beph_store.interop.features import FORMATS, Format
from tests.interop import layouts
from tests.interop.test_frames_formats import features

SECONDS = 20.0


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may be 100 bytes long
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = {"pipe": _pipe, "socket": _socket, "device": _device, "folder": Path.mkdir}


def _ends(call, path: Path) -> BaseException | None:
    """What the call raises. Fails where it goes on waiting for whatever stands at ``path``."""
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - looked at by the test's own thread
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        if path.is_fifo():
            os.close(os.open(path, os.O_RDWR))  # lets go of the thread
        pytest.fail(f"it waits for {path.name}")
    return ended[0]


class _NoStore:
    """As much of a store as a query over another table asks for."""

    def recipe(self, _):
        return SimpleNamespace(recipe=SimpleNamespace(key="k"))

    def tiles(self, _):
        return pl.LazyFrame()

    def slides(self, _):
        return pl.DataFrame()


def _store(path: Path) -> None:
    from beph_store.store import Store

    Store.open(path.parent)


def _new_store(path: Path) -> None:
    from beph_store.store import Store

    Store.create(path.parent, written_by="a test")


def _recipe(path: Path) -> None:
    from beph_store.store.reader import _read_recipe

    _read_recipe(path)


def _slide(path: Path) -> None:
    from beph_store.slides import open_slide

    open_slide(path)


def _planned(path: Path) -> None:
    from beph_store.engine.plan import plan

    plan([path])


def _manifest(path: Path) -> None:
    from beph_store.engine.plan import plan

    plan([], manifest=path)


def _labels(path: Path) -> None:
    from beph_store.cohort import read_labels

    read_labels(path, "classify")


def _features(path: Path) -> None:
    from beph_store.interop.table import read_feature_table

    read_feature_table(path, columns=r"f\d+")


def _joined(path: Path) -> None:
    from beph_store.store.query import query

    query(_NoStore(), "SELECT * FROM t", tables={"t": path})


def _weights(path: Path) -> None:
    from beph_store.encoders.torch_side.loaded import read_tensors

    read_tensors(path)


def _bundle(path: Path) -> None:
    from beph_store.encoders import load_bundle

    load_bundle(path.parent)


def _run(path: Path) -> None:
    from beph_store.engine.study.trained import TrainedRun

    TrainedRun.open(path.parent)


def _head(path: Path) -> None:
    from beph_store.heads.head import read_spec

    read_spec(path.parent)


def _import_manifest(path: Path) -> None:
    from beph_store.engine.importing_slides import Hand

    Hand.find(None, path)


def _image(path: Path) -> None:
    from beph_store.engine.embed import find_images, read_image

    for image in find_images([path.parent]):
        read_image(image)


def _predictions(path: Path) -> None:
    from beph_store.engine.study.trained import TrainedRun

    TrainedRun(path.parent, {}).predictions()


def _classifier(path: Path) -> None:
    from beph_store.heads.tile_classifier import load_classifier

    load_classifier(path.parent)


def _released_split(path: Path) -> None:
    from beph_store.engine.protocols.splits import take

    (path.parent / "splits_0.csv").write_text(",train,val,test\n0,a,b,c\n")
    protocol = SimpleNamespace(released="s", level="slide", scheme="monte-carlo", name="a protocol")
    options = SimpleNamespace(splits=path.parent, draws=2)
    take(SimpleNamespace(options=options, protocol=protocol, out=path.parent / "out"), 100)


PLACES = {
    "store.json": _store,
    "new/store.json": _new_store,
    "0123456789abcdef.json": _recipe,
    "a.svs": _slide,
    "b.svs": _planned,
    "manifest.csv": _manifest,
    "labels.csv": _labels,
    "features.csv": _features,
    "joined.csv": _joined,
    "weights.pth": _weights,
    "weights.safetensors": _weights,
    "bundle/encoder.json": _bundle,
    "run/train.json": _run,
    "head/head.json": _head,
    "import.csv": _import_manifest,
    "tiles/0.png": _image,
    "run/predictions.parquet": _predictions,
    "classifier/classifier.json": _classifier,
    "splits/splits_1.csv": _released_split,
}


def test_the_names_of_the_files_are_those_that_are_read():
    from beph_store.encoders.bundle import MANIFEST
    from beph_store.engine.study.trained import PREDICTIONS_FILE, RUN_FILE
    from beph_store.heads import head, tile_classifier

    names = {Path(name).name for name in PLACES}
    assert {MANIFEST, RUN_FILE, PREDICTIONS_FILE, head.SPEC_FILE, tile_classifier.SPEC_FILE} <= names


@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX's")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_at_once(kind, place, tmp_path):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    KINDS[kind](path)
    if (kind, place) == ("folder", "b.svs"):
        pytest.skip("a folder of slides is what may be named here")
    error = _ends(lambda: PLACES[place](path), path)
    assert isinstance(error, BephStoreError), repr(error)
    assert "\n" not in str(error)


@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX's")
def test_slides_of_a_manifest_that_are_pipes_fail_and_the_others_are_read(tmp_path):
    from beph_store.engine.ingest import IngestOptions, ingest
    from beph_store.testing.synthetic import SlidePlan, write_slide

    os.mkfifo(tmp_path / "pipe.tif")
    write_slide(tmp_path / "sound.tif", SlidePlan(size=(2048, 2048), seed=1, nuisances=()))
    pl.DataFrame({"path": ["pipe.tif", "sound.tif"]}).write_csv(tmp_path / "m.csv")
    report = ingest([], tmp_path / "S", manifest=tmp_path / "m.csv", options=IngestOptions(limit_tiles=3))
    assert [slide.status for slide in report.slides] == ["failed", "done"]
    assert "regular file" in report.slides[0].error


@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX's")
@pytest.mark.parametrize("kind", [*FORMATS, "slide2vec npz"])
def test_a_pipe_for_any_file_of_features_is_refused_at_once(kind, tmp_path):
    form, root = FORMATS[kind.split()[0]], tmp_path / "features"
    if form.needs:
        pytest.importorskip(form.needs)
    if kind in ("stamp", "slide2vec npz"):
        getattr(layouts, form.name)(root, layouts.draw("a", 9), **({"npz": True} if "npz" in kind else {}))
    else:
        form.write(root, features("a"))
    assert [slide.slide_id for slide in form.read(root)] == ["a"]
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    refused = [_refused(form, root, path, tmp_path / "aside") for path in files]
    assert any(refused)


def _refused(form: Format, root: Path, path: Path, aside: Path) -> bool:
    """Whether the features are refused while a pipe stands for one of their files; some files nobody needs."""
    path.rename(aside)
    os.mkfifo(path)
    error = _ends(lambda: list(form.read(root)), path)
    path.unlink()
    aside.rename(path)
    assert error is None or (isinstance(error, BephStoreError) and "\n" not in str(error)), (path, error)
    return error is not None
