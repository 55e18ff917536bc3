"""The loop: fine-tune a network on a split, keep the epoch that validation likes best, go on after a kill.

Every epoch sets the generators from the seed and its own number, so nothing has to be remembered of them: a run that
goes on from the checkpoint of its last epoch ends where an uninterrupted one does.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from beph_store.errors import HeadError
from beph_store.heads.finetuning import FinetuneOptions, Index, TileEpoch, TileTask, best_epoch, is_over
from beph_store.heads.options import HeadOptions
from beph_store.heads.torch_side.finetuning.layers import parameter_groups
from beph_store.heads.torch_side.finetuning.model import TileNetwork, prepare
from beph_store.heads.torch_side.finetuning.tiles import Batch, TileLoader
from beph_store.heads.torch_side.hardware import device_of, dtype_of

F64 = NDArray[np.float64]
State = dict[str, Tensor]
#: Called with the tiles of an epoch that are done, and with the epoch once it is.
Report = Callable[[int, TileEpoch | None], None]

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """``encoder`` the state of the encoder at its best epoch, on the CPU; ``weight`` (K, dim) and ``bias`` (K,) float32
    of the head; ``history`` of all epochs.
    """

    encoder: State
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    history: tuple[TileEpoch, ...]
    best: int


class Finetuner:
    """One fit. ``folder`` keeps its checkpoint; a context manager, as processes read tiles for it."""

    def __init__(self, encoder: nn.Module, task: TileTask, options: FinetuneOptions, folder: Path) -> None:
        where = HeadOptions(device=options.device, precision=options.precision)
        self.task, self.options, self.file = task, options, folder / CHECKPOINT
        self.device = device_of(where)
        self.dtype = dtype_of(where, self.device)
        torch.manual_seed(options.seed)
        network = TileNetwork(copy.deepcopy(encoder), task)
        prepare(network.encoder, options.drop_path, fused=self.device.type == "cuda")
        self.network = network.to(self.device)
        groups = parameter_groups(network.encoder, network.head, options)
        self.optimiser = torch.optim.AdamW(groups, lr=options.peak)
        self.history: list[TileEpoch] = []
        self.restored = 0
        self.best: State = {}
        self.loader = TileLoader(task, options, gpu=self.device.type == "cuda")

    def __enter__(self) -> Finetuner:
        self.loader.__enter__()
        self._before = torch.are_deterministic_algorithms_enabled()
        if self.device.type == "cpu":  # threads would add up a table's gradient in any order
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.set_num_threads(torch.get_num_threads())  # and MKL would choose how many it uses each time
        return self

    def __exit__(self, *error: object) -> None:
        torch.use_deterministic_algorithms(self._before)
        self.loader.__exit__(*error)

    def fit(self, report: Report) -> Fitted:
        """Train from the last checkpoint on, until the epochs or the patience are used up.

        The epochs before it, ``restored`` of them, are reported again.
        """
        self._restore()
        self.restored = len(self.history)
        for epoch in self.history:
            report(len(self.task.train), epoch)
        while not is_over(self.history, self.options):
            epoch = self._epoch(len(self.history) + 1, report)
            self.history.append(epoch)
            if best_epoch(self.history) == epoch.number:
                self.best = {name: tensor.cpu().clone() for name, tensor in self.network.state_dict().items()}
            self._save()
            report(len(self.task.train), epoch)
        self.network.load_state_dict(self.best)
        encoder = {k.removeprefix("encoder."): v for k, v in self.best.items() if k.startswith("encoder.")}
        weight, bias = (self.best[f"head.{name}"].numpy().astype(np.float32) for name in ("weight", "bias"))
        return Fitted(encoder, weight, bias, tuple(self.history), best_epoch(self.history))

    @torch.inference_mode()
    def probabilities(self, rows: Index) -> F64:
        """(n, K) of tiles as they are tested, by the network as it is."""
        self.network.eval()
        parts = [torch.softmax(self._logits(b).double(), 1).cpu().numpy() for b in self.loader.test(rows)]
        return np.concatenate(parts) if parts else np.empty((0, self.task.classes))

    def _epoch(self, number: int, report: Report) -> TileEpoch:
        torch.manual_seed(int(np.random.SeedSequence((self.options.seed, number)).generate_state(1)[0]))
        self.network.train()
        began = time.perf_counter()
        batches = _Timed(self.loader.train(self.task.train, self.options.seed, number))
        total = torch.zeros((), device=self.device)
        done, steps = 0, math.ceil(len(self.task.train) / (self.options.batch * self.options.accumulate))
        for step, group in enumerate(_grouped(batches, self.options.accumulate)):
            rate = self.options.peak * self.options.rate(number - 1 + (step + 1) / steps)
            total += self._step(group, rate)
            done += sum(len(labels) for _, labels in group)
            report(done, None)
        mean = float(total) / done
        if not math.isfinite(mean):
            raise HeadError(
                f"the loss is no number any more in epoch {number}: pass a lower --lr, or --precision fp32"
            )
        seconds = time.perf_counter() - began
        loss, accuracy, balanced = self._validate()
        return TileEpoch(
            number=number,
            train_loss=mean,
            val_loss=loss,
            val_accuracy=accuracy,
            val_balanced_accuracy=balanced,
            lr=rate,
            seconds=round(time.perf_counter() - began, 3),
            tiles_per_second=round(done / seconds, 2),
            waiting=round(batches.waited / seconds, 4),
        )

    def _step(self, batches: list[Batch], rate: float) -> Tensor:
        """One step of the optimiser over some batches; returns the sum of the losses of their tiles."""
        tiles = sum(len(labels) for _, labels in batches)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            labels = torch.from_numpy(batch[1]).to(self.device)
            smoothing = self.options.smoothing
            loss = functional.cross_entropy(
                self._logits(batch), labels, reduction="sum", label_smoothing=smoothing
            )
            (loss / tiles).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.optimiser.step()
        return total

    def _logits(self, batch: Batch) -> Tensor:
        tiles = torch.from_numpy(batch[0]).to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits: Tensor = self.network(tiles)
        return logits

    def _validate(self) -> tuple[float, float, float]:
        """Log loss, accuracy and balanced accuracy of the validation tiles."""
        said, truth = self.probabilities(self.task.val), self.task.labels[self.task.val]
        chance = np.clip(said[np.arange(len(truth)), truth], np.finfo(np.float64).eps, 1)
        right = said.argmax(axis=1) == truth
        recalls = [float(right[truth == k].mean()) for k in np.unique(truth)]
        return float(-np.log(chance).mean()), float(right.mean()), float(np.mean(recalls))

    def _save(self) -> None:
        """Aside, then in place: a kill leaves the checkpoint of this epoch or of the one before it."""
        last = best_epoch(self.history) == len(self.history)
        content = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": None if last else self.best,
            "history": [dataclasses.asdict(epoch) for epoch in self.history],
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".new")
        with aside.open("wb") as target:
            torch.save(content, target)
            target.flush()
            os.fsync(target.fileno())
        aside.replace(self.file)

    def _restore(self) -> None:
        if not self.file.is_file():
            return
        try:
            content: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
            self.network.load_state_dict(content["network"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.history = [TileEpoch(**epoch) for epoch in content["history"]]
        except Exception as error:
            raise HeadError(
                f"{self.file} cannot be gone on from ({type(error).__name__}): remove it to begin this fit anew",
                path=self.file,
            ) from error
        state = content["best"] or content["network"]
        self.best = {name: tensor.clone() for name, tensor in state.items()}


class _Timed:
    """Batches, and how long they were waited for, s."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self.waited = batches, 0.0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            batch = next(self._batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch


def _grouped(batches: _Timed, size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
