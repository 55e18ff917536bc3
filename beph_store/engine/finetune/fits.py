"""One fit after the other, each with a folder of its own, so that a run that was stopped goes on where it was.

work/run.json           what decides the result; a run with other settings does not go on here
work/FIT/checkpoint.pt  the last epoch of a fit that is under way, or whose model is still to be written
work/FIT/said.npz       its test tiles and what was said of them
work/FIT/fit.json       its epochs; written last, so a fit that has it is done
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.tile_splits import TileSplit
from beph_store.engine.finetune.data import Material
from beph_store.errors import UsageError
from beph_store.heads.finetuning import FinetuneOptions, TileEpoch, TileTask, best_epoch
from beph_store.store.durable import write_atomic, write_json

if TYPE_CHECKING:
    from beph_store.encoders.torch_side.loaded import Loaded
    from beph_store.heads.torch_side.finetuning.train import Finetuner, Fitted

WORK, RUN, LOG = "work", "run.json", "log.jsonl"
_SAID, _FIT, _CHECKPOINT = "said.npz", "fit.json", "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class Step:
    """How far a fine-tuning is: ``done`` of at most ``total`` tiles; ``epoch`` of ``fit`` has just ended, or None.

    ``what`` is done now, where it is something else.
    """

    fit: str
    done: int
    total: int
    epoch: TileEpoch | None = None
    what: str = ""


Progress = Callable[[Step], None]


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A fit: its ``history``, and the chances ``said`` (n, K) of its test tiles."""

    history: tuple[TileEpoch, ...]
    said: NDArray[np.float64]

    @property
    def best(self) -> int:
        """Number of the epoch that was kept."""
        return best_epoch(self.history)


class Fits:
    """Trains the splits of a ``Material`` in turn."""

    def __init__(
        self,
        out: Path,
        loaded: Loaded,
        material: Material,
        options: FinetuneOptions,
        progress: Progress | None,
    ) -> None:
        self._out, self._loaded, self._material, self._options = out, loaded, material, options
        self._progress = progress
        splits = [*material.splits, *([material.final] if material.final else [])]
        self._lengths = {split.name: len(split.train) * options.epochs for split in splits}
        self._before = 0
        self._log: dict[str, list[TileEpoch]] = {}

    def run(self, split: TileSplit, *, keep: bool) -> Done:
        """The fit of a split, from its files where it is done. ``keep`` its checkpoint for ``fitted``."""
        folder = self._folder(split)
        done = self._found(folder)
        if done is None:
            history, said = self._train(split, folder)
            _write_said(folder / _SAID, split.test, said)
            write_json(folder / _FIT, {"epochs": [dataclasses.asdict(epoch) for epoch in history]})
            done = Done(history, said)
        if not keep:
            self.forget(split)
        self._log[split.name] = list(done.history)
        self._write_log()
        self._before += self._lengths[split.name]
        self._tell(split.name, 0, None)
        return done

    def fitted(self, split: TileSplit) -> Fitted:
        """The model of a fit that is done and whose checkpoint was kept."""
        with self._trainer(split) as trainer:
            return trainer.fit(lambda done, epoch: None)

    def announce(self, what: str) -> None:
        """Say what comes after the training."""
        total = sum(self._lengths.values())
        if self._progress:
            self._progress(Step("", total, total, None, what))

    def forget(self, split: TileSplit) -> None:
        """Remove a checkpoint that is not needed any more."""
        (self._folder(split) / _CHECKPOINT).unlink(missing_ok=True)

    def _train(self, split: TileSplit, folder: Path) -> tuple[tuple[TileEpoch, ...], NDArray[np.float64]]:
        (folder / _FIT).unlink(missing_ok=True)
        with self._trainer(split) as trainer:
            epochs = self._log.setdefault(split.name, [])

            def report(done: int, epoch: TileEpoch | None) -> None:
                if epoch is not None:
                    epochs.append(epoch)
                    self._write_log()
                    if epoch.number <= trainer.restored:  # no news, and it would flatter the speed
                        return
                ended = len(epochs) - (epoch is not None)
                self._tell(split.name, ended * len(split.train) + done, epoch)

            fitted = trainer.fit(report)
            return fitted.history, trainer.probabilities(split.test)

    def _trainer(self, split: TileSplit) -> Finetuner:
        from beph_store.encoders.torch_side.trainable import as_trainable
        from beph_store.heads.torch_side.finetuning.train import Finetuner

        spec, tiles = self._loaded.spec, self._material.tiles
        task = TileTask(
            self._material.source,
            tiles.truth,
            len(tiles.classes),
            split.train,
            split.val,
            spec.tile_px,
            spec.dim,
            spec.mean,
            spec.std,
        )
        return Finetuner(as_trainable(self._loaded), task, self._options, self._folder(split))

    def _folder(self, split: TileSplit) -> Path:
        return self._out / WORK / split.name

    def _found(self, folder: Path) -> Done | None:
        try:
            epochs = json.loads((folder / _FIT).read_bytes())["epochs"]
            with np.load(folder / _SAID, allow_pickle=False) as data:
                said = np.asarray(data["said"], np.float64)
            return Done(tuple(TileEpoch(**epoch) for epoch in epochs), said)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _tell(self, fit: str, done: int, epoch: TileEpoch | None) -> None:
        if self._progress:
            self._progress(Step(fit, self._before + done, sum(self._lengths.values()), epoch))

    def _write_log(self) -> None:
        lines = [
            json.dumps({"fit": fit, **dataclasses.asdict(epoch)})
            for fit, epochs in self._log.items()
            for epoch in epochs
        ]
        write_atomic(self._out / LOG, "".join(f"{line}\n" for line in lines).encode())


def claim(out: Path, deciding: Mapping[str, Any]) -> None:
    """Begin in ``out``, or go on there with the same settings; UsageError names what differs."""
    file = out / WORK / RUN
    plain = json.loads(json.dumps(deciding))
    if file.is_file():
        before = json.loads(file.read_bytes())
        differs = sorted(name for name in {*before, *plain} if before.get(name) != plain.get(name))
        if differs:
            raise UsageError(
                f"{out} holds a fine-tuning with another {', '.join(differs)}: choose another --out, or remove it",
                path=out,
            )
        return
    write_json(file, plain)


def _write_said(path: Path, rows: NDArray[np.int64], said: NDArray[np.float64]) -> None:
    """Aside, then in place."""
    aside = path.with_name(f".{path.name}")
    with aside.open("wb") as target:
        np.savez(target, rows=rows, said=said)
    aside.replace(path)
