"""Fine-tune an encoder as a classifier of tiles, judge it on cases that it has not seen, and keep the model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.image_sets import ImageSet
from beph_store.cohort.tile_splits import TileSplit
from beph_store.engine.finetune.data import DataChoice, Material, gather, part_of
from beph_store.engine.finetune.fits import Done, Fits, Progress, claim
from beph_store.engine.finetune.keep import keep
from beph_store.engine.finetune.result import FinetuneResult, FoldResult, Kept, Side
from beph_store.engine.probe.draws import draws_by_group, mean_draws
from beph_store.engine.probe.figures import figures_of
from beph_store.engine.probe.run import HEADLINES
from beph_store.engine.probe.tiles import LabelledTiles
from beph_store.engine.study.wording import seen_by
from beph_store.errors import MissingExtra
from beph_store.heads.finetuning import FinetuneOptions
from beph_store.heads.tile_classifier import SPEC_FILE
from beph_store.metrics import with_point
from beph_store.metrics.tiles import case_draws

if TYPE_CHECKING:
    from beph_store.encoders.torch_side.loaded import Loaded

#: A class tested on fewer cases has a figure that says little.
_FEW_CASES = 3
_EXTRA = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class FinetuneChoice:
    """``encoder`` by name with its ``weights`` file; ``data`` and ``options`` of the training.

    ``final`` after cross-validation: train once more on all cases, and keep that model. ``mpp`` of the images, µm/px,
    recorded with the new encoder (None: what the encoder was made for). ``draws`` of the bootstrap over cases.
    """

    encoder: str = "beph-mini"
    weights: Path | None = None
    data: DataChoice = dataclasses.field(default_factory=DataChoice)
    options: FinetuneOptions = dataclasses.field(default_factory=FinetuneOptions)
    final: bool = True
    mpp: float | None = None
    draws: int = 1000


def finetune(
    images: ImageSet,
    table: Path,
    out: Path,
    choice: FinetuneChoice,
    *,
    reading: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Train the splits of a set one after the other, and write the model that is kept into ``out``.

    ``table`` is where the set was read from. A run that was stopped goes on after its last whole epoch. Raises
    MissingExtra without torch, UsageError where ``out`` holds something else, CohortError where the cases cannot be
    divided, EncoderError as the loaders do, HeadError where the training breaks down.
    """
    loaded = _load(choice)
    material = gather(images, table, loaded.spec, choice.data, final=choice.final, progress=reading)
    claim(out, _deciding(choice, loaded, material))
    fits = Fits(out, loaded, material, choice.options, progress)
    last = material.final or (material.splits[0] if len(material.splits) == 1 else None)
    kept_already = (out / SPEC_FILE).is_file()
    done = {
        split.name: fits.run(split, keep=split is last and not kept_already)
        for split in (*material.splits, *([material.final] if material.final else []))
    }
    kept = None
    if last is not None:
        if not kept_already:
            fits.announce(f"exporting the encoder of {last.name}: two graphs, each checked against torch")
        kept = keep(
            out,
            last.name,
            lambda: fits.fitted(last),
            loaded,
            material.tiles.classes,
            choice.mpp,
        )
        fits.forget(last)
    return _judge(choice, loaded, material, done, kept)


def _load(choice: FinetuneChoice) -> Loaded:
    try:
        from beph_store.encoders.torch_side.trainable import load_for_training
        from beph_store.heads.torch_side.finetuning import train as _needed  # noqa: F401
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in _EXTRA:
            raise
        raise MissingExtra(
            f"fine-tuning needs {missing}, which is not installed: pip install 'beph-store[train]'"
        ) from None
    return load_for_training(choice.encoder, choice.weights)


def _deciding(choice: FinetuneChoice, loaded: Loaded, material: Material) -> dict[str, Any]:
    """What has to be the same for a run to go on, by what it is called on the command line."""
    tiles, source = material.tiles, material.source
    listed = [
        (path, (source.root / path).stat().st_size, int(tiles.truth[i]), tiles.case_ids[tiles.case[i]])
        for i, path in enumerate(source.paths)
    ]
    sides = [[getattr(split, s).tolist() for s in ("train", "val", "test")] for split in material.splits]
    return {
        "encoder": choice.encoder,
        "weights": loaded.spec.weights_sha256,
        "mpp": choice.mpp,
        "fit": choice.data.fit,
        "images": _digest([tiles.classes, listed]),
        "split": _digest(sides),
        **choice.options.deciding(),
    }


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def _judge(
    choice: FinetuneChoice,
    loaded: Loaded,
    material: Material,
    done: dict[str, Done],
    kept: Kept | None,
) -> FinetuneResult:
    everything = material.tiles
    rows = np.concatenate([split.test for split in material.splits])
    said = np.concatenate([done[split.name].said for split in material.splits])
    fold = np.repeat(np.arange(len(material.splits)), [len(split.test) for split in material.splits])
    order = np.argsort(rows, kind="stable")
    tiles = part_of(everything, rows[order])
    seed = choice.options.seed
    weights = with_point(case_draws(tiles.truth, tiles.case, choice.draws, seed))
    figures = figures_of(tiles, said[order][None], weights)
    final = material.final
    return FinetuneResult(
        loaded.spec,
        tiles,
        said[order],
        fold[order],
        tuple(_fold(everything, split, done[split.name]) for split in material.splits),
        _fold(everything, final, done[final.name]) if final else None,
        figures.metrics,
        figures.groups,
        figures.spread,
        kept,
        tuple(_warnings(loaded.spec.name, material)),
        {
            **dataclasses.asdict(choice.options),
            **dataclasses.asdict(choice.data.split),
            "split_column": choice.data.split_column,
            "only_group": choice.data.only_group,
            "draws": choice.draws,
        },
    )


def _fold(tiles: LabelledTiles, split: TileSplit, done: Done) -> FoldResult:
    train, val, test = (_side(tiles, rows) for rows in (split.train, split.val, split.test))
    metrics: dict[str, float | None] = {}
    if len(split.test):
        part = part_of(tiles, split.test)
        once = np.ones((1, len(part.case_ids)), np.int16)
        found = mean_draws(draws_by_group(part, done.said[None], once))
        metrics = {name: None if np.isnan(found[name][0]) else float(found[name][0]) for name in HEADLINES}
    return FoldResult(split.name, train, val, test, done.history, done.best, metrics)


def _side(tiles: LabelledTiles, rows: NDArray[np.int64]) -> Side:
    return Side(len(np.unique(tiles.case[rows])), len(rows))


def _warnings(encoder: str, material: Material) -> Iterator[str]:
    tiles = material.tiles
    yield from seen_by(encoder, tiles.case_ids)
    if len(tiles) < tiles.found:
        yield (
            f"{len(tiles):,} of {tiles.found:,} labelled tiles were used, the same number at most from each class of "
            "each case; --max-tiles changes it."
        )
    tested = np.concatenate([split.test for split in material.splits])
    for k, name in enumerate(tiles.classes):
        cases = len(np.unique(tiles.case[tested[tiles.truth[tested] == k]]))
        if cases < _FEW_CASES:
            yield (
                f"Class {name} is tested on {cases} cases: its recall, and the balanced accuracy, hang on them; "
                "cross-validation (--folds) tests every case."
            )
