"""What is interrupted: the jobs that write, each small, each with what has to be equal in the end.

``prepare`` makes what the job needs in an empty folder, once; ``run`` does it there and may be called again; ``state``
is what an uninterrupted run leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

ROWS = 5
_CLASSES = ("a", "b")


@dataclass(frozen=True)
class Operation:
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    state: Callable[[Path], Any]


def _draw(folder: Path) -> None:
    from beph_store.testing.synthetic import SlidePlan, write_slide

    (folder / "slides").mkdir()
    for seed in range(3):
        write_slide(folder / "slides" / f"{seed}.tif", SlidePlan(size=(2048, 2048), seed=seed, nuisances=()))


def _ingest(folder: Path) -> None:
    from beph_store.engine.ingest import IngestOptions, ingest

    report = ingest([folder / "slides"], folder / "S", options=IngestOptions(limit_tiles=10))
    assert not [outcome for outcome in report.slides if outcome.status == "failed"], report.slides


def _features(folder: Path, rows: int = ROWS) -> None:
    vectors = np.random.default_rng(0).normal(size=(rows, 16))
    frame = pl.DataFrame({f"f{i}": vectors[:, i] for i in range(16)})
    names = pl.Series("slide_id", [f"{n:05d}.svs" for n in range(rows)])
    frame.insert_column(0, names).write_csv(folder / "features.csv")
    labels = {"slide_id": names, "case_id": names, "label": [_CLASSES[int(x > 0)] for x in vectors[:, 0]]}
    pl.DataFrame(labels).write_csv(folder / "labels.csv")


def _import(folder: Path) -> None:
    from beph_store.engine.importing import import_table

    report = import_table(folder / "features.csv", folder / "S", columns=r"f\d+")
    assert not report.failed, report.failed


def _laid_out(folder: Path) -> None:
    """What CLAM leaves of three slides, the last of them larger."""
    from tests.interop import layouts

    for seed, tiles in enumerate((12, 9, 40)):
        layouts.clam(folder / "features", layouts.draw(f"s{seed}", tiles, seed=seed), pt=False)


def _import_clam(folder: Path) -> None:
    from beph_store.engine.importing import ImportOptions, import_features

    options = ImportOptions(encoder_name="drawn", mpp=0.5)
    report = import_features("clam", folder / "features", folder / "S", options=options)
    assert not report.failed, report.failed
    assert len(report.slides) == 3, report.slides


def _stored(folder: Path) -> None:
    _features(folder, 24)
    _import(folder)


def _much_stored(folder: Path) -> None:
    """One slide of many tiles: what an index is built over."""
    from beph_store.store import Store
    from tests.store.conftest import RECIPE, seal

    store = Store.create(folder / "S", written_by="a test")
    writer = store.writer(RECIPE, run="r", encoder_source="toy", parity={})
    seal(writer, "big.svs", 1500)
    writer.close()


def _compact(folder: Path) -> None:
    from beph_store.store import Store, compact

    compact(Store.open(folder / "S"))


def _fragmented(folder: Path) -> None:
    """Several commits, rows that a replaced slide has left, an unreferenced file: work for compact."""
    from beph_store.store import Store
    from tests.store.conftest import RECIPE, seal

    store = Store.create(folder / "S", written_by="a test")
    for name in ("a.svs", "b.svs", "c.svs"):
        writer = store.writer(RECIPE, run="r", encoder_source="toy", parity={})
        seal(writer, name, 40)
        writer.close()
    writer = store.writer(RECIPE, run="r", encoder_source="toy", parity={})
    seal(writer, "a.svs", 40, replaces=store.slide(RECIPE.key, "a.svs").ingest_id)
    writer.close()
    (folder / "S" / "tiles" / f"{RECIPE.key}.lance" / "data" / "orphan.lance").write_bytes(b"left behind")


def _index(folder: Path) -> None:
    from beph_store.search.ann import IndexPlan, build, describe, sample
    from beph_store.store import Store

    store = Store.open(folder / "S")
    key = store.recipe().recipe.key
    path, plan = str(store.layout.tiles(key)), IndexPlan("IVF_FLAT", 4)
    known = describe(path)
    if known is None or known.rows_unindexed:
        build(path, plan, sample(store.flat(key).vectors, plan))


def _train(folder: Path) -> None:
    from beph_store.engine.study.data import load_study
    from beph_store.engine.study.run import train_to
    from beph_store.engine.study.train import SplitOptions, TrainOptions

    study = load_study(folder / "S", folder / "labels.csv", "classify")
    train_to(folder / "head", study, TrainOptions(split=SplitOptions(folds=2), draws=20))


def _pretrainable(folder: Path) -> None:
    import torch
    from PIL import Image

    from beph_store.encoders.torch_side.trunks import Size, checkpoint, make_trunk

    torch.manual_seed(3)
    trunk = make_trunk(Size(32, 2, 2, 48, 2.0))
    torch.save(checkpoint(trunk, torch.full((1, 1, 32), 0.25)), folder / "tiny.pth")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for n in range(16):
        Image.fromarray(rng.integers(0, 255, (60, 60, 3), np.uint8)).save(folder / "images" / f"{n:02d}.png")


def _pretrain(folder: Path) -> None:
    import torch

    from beph_store.engine.pretrain.options import Codes, PretrainOptions, Schedule
    from beph_store.engine.pretrain.run import pretrain

    torch.set_num_threads(1)
    weights = folder / "tiny.pth"
    options = PretrainOptions(
        init="beph",
        weights=weights,
        teacher="beph",
        teacher_weights=weights,
        schedule=Schedule(steps=4, tokenizer_steps=3, batch=4, lr=1e-3, log_every=1, save_every=2),
        codes=Codes(8, 1),
        mpp=0.5,
        name="mine",
        workers=0,
        device="cpu",
    )
    pretrain([folder / "images"], folder / "out", options)


def _weights(folder: Path) -> dict[str, bytes]:
    import torch

    data = torch.load(next((folder / "out").glob("*.pth")), weights_only=True)
    return {name: tensor.numpy().tobytes() for name, tensor in sorted(data["state_dict"].items())}


def _rows(folder: Path) -> pl.DataFrame:
    from beph_store.store import Store

    store = Store.open(folder / "S")
    return store.tiles(store.recipe().recipe.key).drop("ingest_id").collect().sort("slide_id", "tile")


def _indexed(folder: Path) -> tuple[pl.DataFrame, int]:
    from beph_store.search.ann import describe
    from beph_store.store import Store

    store = Store.open(folder / "S")
    known = describe(str(store.layout.tiles(store.recipe().recipe.key)))
    return _rows(folder), known.rows_indexed if known else 0


def _predictions(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "head" / "predictions.parquet")


def _nothing(folder: Path) -> None:
    _features(folder)


OPERATIONS = {
    "ingest": Operation(_draw, _ingest, _rows),
    "import": Operation(_nothing, _import, _rows),
    "import-clam": Operation(_laid_out, _import_clam, _rows),
    "compact": Operation(_fragmented, _compact, _rows),
    "index": Operation(_much_stored, _index, _indexed),
    "train": Operation(_stored, _train, _predictions),
    "pretrain": Operation(_pretrainable, _pretrain, _weights),
}
