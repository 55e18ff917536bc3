"""Train a network on bags.

Cross-entropy and discrete time are sums over cases: batches under the token budget add up to an optimiser step. Cox's
partial likelihood is not: its gradient needs every case's hazard at once. It is had exactly in one batch's memory
by going over the cases twice: score all without gradients, take the loss and its derivative by each hazard, then replay
every batch with the same dropout and send its derivative back.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beph_store.errors import HeadError
from beph_store.heads.head import Epoch, Head, HeadSpec
from beph_store.heads.options import HeadOptions, task_of
from beph_store.heads.survival import breslow, event_times
from beph_store.heads.torch_side.batches import Batch, Loader
from beph_store.heads.torch_side.bodies import Body, Output
from beph_store.heads.torch_side.hardware import device_of, dtype_of
from beph_store.heads.torch_side.head import TorchHead, build, new_body
from beph_store.heads.torch_side.objectives import Cox, Objective, objective_for
from beph_store.records import Bags, ClassTarget, SurvivalTarget, Target

__all__ = ["Trainer", "build", "fit_many"]

Index = NDArray[np.int64]


def fit_many(
    options: HeadOptions,
    bags: Bags,
    target: Target,
    splits: Sequence[tuple[Index, Index]],
    seed: int,
    report: Callable[[int, Epoch | None], None],
) -> list[Head]:
    """One head a (train, val), one after the other; options resolved."""
    heads: list[Head] = []
    for number, (train, val) in enumerate(splits):
        heads.append(_fit(options, bags, target, (train, val), seed, lambda e, n=number: report(n, e)))  # type: ignore[misc]
        report(number, None)
    return heads


def _fit(
    options: HeadOptions,
    bags: Bags,
    target: Target,
    split: tuple[Index, Index],
    seed: int,
    report: Callable[[Epoch], None],
) -> Head:
    train, val = split
    with _own_seed(seed, device_of(options)):
        trainer = Trainer.start(options, bags, target, split, seed)
        best = _Best(trainer.body)
        history = []
        for number in range(1, (options.epochs or 1) + 1):
            epoch = trainer.epoch(number)
            history.append(epoch)
            report(epoch)
            if len(val) and best.offer(epoch) >= options.patience:
                break
        if len(val):
            best.restore()
        times, baseline = trainer.objective.times, None
        if isinstance(target, SurvivalTarget) and isinstance(trainer.objective, Cox):
            hazard = trainer.centre()
            event, days = target.event[train], target.time_days[train]
            at = event_times(event, days)
            times, baseline = tuple(at.tolist()), breslow(hazard, event, days, at)
    spec = dataclasses.replace(
        trainer.spec,
        times=times,
        history=tuple(history),
        best_epoch=best.epoch if len(val) else len(history),
    )
    return TorchHead(spec, trainer.body, baseline)


class _Best:
    """The weights of the epoch with the lowest validation loss."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._loss = math.inf
        self._state: dict[str, Tensor] = {}
        self.epoch = 0

    def offer(self, epoch: Epoch) -> int:
        """Keep the weights if this epoch is the best; how many epochs ago the best was."""
        if epoch.val_loss is not None and epoch.val_loss < self._loss:
            self._loss, self.epoch = epoch.val_loss, epoch.number
            self._state = {name: value.clone() for name, value in self._body.state_dict().items()}
        return epoch.number - self.epoch

    def restore(self) -> None:
        self._body.load_state_dict(self._state)


@dataclass(slots=True, eq=False)
class Trainer:
    """The state of one training run, an epoch at a time."""

    spec: HeadSpec
    body: Body
    objective: Objective
    loader: Loader
    optimiser: torch.optim.Optimizer
    split: tuple[Index, Index]
    labels: Index | None
    dtype: torch.dtype

    @classmethod
    def start(
        cls, options: HeadOptions, bags: Bags, target: Target, split: tuple[Index, Index], seed: int
    ) -> Trainer:
        """A fresh network for resolved options, seeded by torch's global seed, and all that trains it."""
        train, val = split
        device = device_of(options)
        dtype = dtype_of(options, device)
        objective = objective_for(options, target, train, val, device)
        classes = target.classes if isinstance(target, ClassTarget) else ()
        spec = HeadSpec(
            name=options.head,
            task=task_of(target),
            classes=classes,
            dim=bags.dim,
            times=objective.times,
            options=options,
            train_cases=len(train),
            seed=seed,
        )
        body = new_body(spec, objective.outputs).to(device)
        return cls(
            spec,
            body,
            objective,
            Loader(bags, device, dtype, options.token_budget, seed),
            torch.optim.AdamW(
                body.parameters(), lr=options.lr or 0.0, weight_decay=options.weight_decay, fused=True
            ),
            split,
            target.index if isinstance(target, ClassTarget) else None,
            dtype,
        )

    def epoch(self, number: int) -> Epoch:
        """Train one epoch and judge it; HeadError where the loss is no longer finite."""
        start = time.perf_counter()
        self.body.train()
        cases = self._order(number)
        size = self.spec.options.batch_cases or len(cases)
        steps = [cases[at : at + size] for at in range(0, len(cases), size)]
        loss = self._joint_steps(steps, number) if self.objective.joint else self._steps(steps, number)
        val = self.split[1]
        val_loss = float(self.objective.loss(self.score(val), val)) if len(val) else None
        if not math.isfinite(loss) or not math.isfinite(val_loss or 0.0):
            raise HeadError(f"training diverged in epoch {number}: lower the learning rate")
        return Epoch(number, loss, val_loss, time.perf_counter() - start)

    def score(self, cases: Index) -> Tensor:
        """Logits (n, O) of whole bags, without dropout, float32 on the device."""
        self.body.eval()
        with torch.no_grad():
            stream = self.loader.stream(self.loader.plan(cases))
            return torch.cat([self._forward(batch).logits for batch in stream])

    def centre(self) -> NDArray[np.float64]:
        """Log hazards (n,) of the training cases, moved to a mean of 0, and the network with them.

        The partial likelihood leaves their level open; so it means the same in every head.
        """
        hazard = self.score(self.split[0])[:, 0].double()
        level = hazard.mean()
        with torch.no_grad():
            self.body.classifier.bias.sub_(level)
        return np.asarray((hazard - level).cpu().numpy())

    def _forward(self, batch: Batch) -> Output:
        half = self.dtype == torch.bfloat16
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=half):
            out: Output = self.body(batch.x, batch.lengths)
        return out

    def _order(self, epoch: int) -> Index:
        """The training cases of an epoch: each once, or with ``balanced`` drawn so that classes come equally often."""
        rng = np.random.default_rng((self.spec.seed, epoch))
        train = self.split[0]
        if not self.spec.options.balanced or self.labels is None:
            return rng.permutation(train)
        weight = 1 / np.bincount(self.labels[train])[self.labels[train]]
        return rng.choice(train, len(train), p=weight / weight.sum())

    def _steps(self, steps: Sequence[Index], epoch: int) -> float:
        """Optimiser steps whose loss is a sum over cases; mean training loss."""
        per_bag = self.spec.options.tiles_per_epoch
        plans = [self.loader.plan(step, per_bag) for step in steps]
        stream = self.loader.stream([group for plan in plans for group in plan], per_bag, epoch)
        total = torch.zeros((), device=next(self.body.parameters()).device)
        for step, plan in zip(steps, plans, strict=True):
            self.optimiser.zero_grad()
            for _ in plan:
                batch = next(stream)
                out = self._forward(batch)
                loss = self.objective.batch_loss(self.body, out, batch.cases, batch.lengths)
                (loss / len(step)).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()  # read once an epoch: reading waits for a GPU
            self.optimiser.step()
        return float(total) / sum(map(len, steps))

    def _joint_steps(self, steps: Sequence[Index], epoch: int) -> float:
        """Optimiser steps with Cox's loss over the cases of each; mean loss of the steps that have an event."""
        losses = []
        for number, step in enumerate(steps):
            if isinstance(self.objective, Cox) and not self.objective.informative(step):
                continue
            self.optimiser.zero_grad()
            losses.append(self._two_passes(step, (epoch, number)))
            self.optimiser.step()
        return sum(losses) / max(len(losses), 1)

    def _two_passes(self, cases: Index, where: tuple[int, int]) -> float:
        """The exact gradient of a joint loss in the memory of one batch; see the top of the file."""
        per_bag = self.spec.options.tiles_per_epoch
        plan = self.loader.plan(cases, per_bag)

        def forward() -> Iterator[Output]:
            for number, batch in enumerate(self.loader.stream(plan, per_bag, where[0])):
                torch.manual_seed(_seed(self.spec.seed, *where, number))  # the same dropout in both passes
                yield self._forward(batch)

        with torch.no_grad():
            logits = torch.cat([out.logits for out in forward()])
        logits.requires_grad_()
        loss = self.objective.loss(logits, cases)
        (slope,) = torch.autograd.grad(loss, logits)
        at = 0
        for out in forward():
            count = len(out.logits)
            out.logits.backward(slope[at : at + count])  # type: ignore[no-untyped-call]
            at += count
        return float(loss.detach())


@contextmanager
def _own_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random state set from ``seed`` inside, and as it was afterwards."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(_seed(seed))
        yield


def _seed(*parts: int) -> int:
    """One number from several, unlike for unlike parts."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
