"""One loop for every stage: step, log, keep a checkpoint, go on from it as if nothing had happened."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from beph_store.errors import StoreError, UsageError
from beph_store.pretrain.data import Batch
from beph_store.pretrain.parallel import Place, same_everywhere, share, wait

#: Names that are never decayed, and whatever has fewer than two axes.
_UNDECAYED = ("cls_token", "mask_token", "pos_embed", "positions", "relative_position_bias_table")
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class LoopSpec:
    """How a stage is trained; the defaults are BEPH's.

    ``lr`` peak learning rate for the batch in use, ``least`` its last; ``warmup`` steps of linear rise, then half a
    cosine; ``accumulate`` parts that a batch is computed in, for small memories; ``precision`` of the products, weights
    and sums stay float32; a row of the log each ``log_every`` steps; at the next row of it, a
    checkpoint once ``save_every`` steps have gone by, and a probe once ``probe_every`` have (0: never).
    """

    steps: int
    lr: float = 1.5e-3
    least: float = 1e-5
    warmup: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 3.0
    accumulate: int = 1
    precision: str = "fp32"
    log_every: int = 10
    save_every: int = 100
    probe_every: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"no precision {self.precision!r}: choose from {', '.join(PRECISIONS)}")
        if min(self.steps, self.accumulate, self.log_every, self.save_every) < 1 or self.warmup < 0:
            raise UsageError("steps, accumulate, log and save intervals must be at least 1")


class Stage(Protocol):
    """What is trained."""

    @property
    def name(self) -> str:
        """Of its rows in the log and of its checkpoint."""
        ...

    @property
    def model(self) -> nn.Module:
        """All that a checkpoint holds."""
        ...

    def loss(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``loss`` to descend and other figures to log, by calling ``net``: the model, or its copy among many."""
        ...

    def after(self, found: dict[str, Tensor]) -> dict[str, float]:
        """After each step; figures for the log."""
        ...


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told: ``log`` each row of the log, ``probe`` is asked for figures of the model as it is."""

    log: Callable[[dict[str, Any]], None]
    probe: Callable[[nn.Module], dict[str, float]] | None = None


def run(
    stage: Stage,
    batches: Callable[[range], Iterator[Batch]],
    spec: LoopSpec,
    out: Path,
    place: Place,
    watch: Watch,
    *,
    identity: str = "",
) -> None:
    """Train to the end, from the checkpoint in ``out`` where there is one.

    ``identity`` names data and options: StoreError for a checkpoint of other ones. A run that was killed and started
    again passes through the same numbers as one that was not: batches depend on the step alone, and the checkpoint
    holds the optimiser and the state of the random numbers.
    """
    loop = _Loop(stage, spec, out, place, watch, identity)
    loop.resume()
    loop.train(batches)


class _Loop:
    def __init__(
        self, stage: Stage, spec: LoopSpec, out: Path, place: Place, watch: Watch, identity: str
    ) -> None:
        self.stage, self.spec, self.out, self.place, self.watch = stage, spec, out, place, watch
        self.identity = identity
        self.step = 0
        self.spent = 0.0  # seconds of training, earlier runs included
        self.net = share(stage.model, place)
        self.optimiser = make_optimiser(stage.model, spec)
        self.scaler = torch.amp.GradScaler(
            place.device.type, enabled=spec.precision == "fp16" and place.device.type == "cuda"
        )

    # ---- the checkpoint ------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        return self.out / f"{self.stage.name}.checkpoint"

    def resume(self) -> None:
        if self.file.exists():
            self._take_up()
        if not same_everywhere(self.step, self.place):
            raise StoreError(
                f"the processes do not find the same {self.file}: --out must lie on a disk that all machines share",
                path=self.file,
            )

    def _take_up(self) -> None:
        kept: dict[str, Any] = torch.load(self.file, map_location=self.place.device, weights_only=True)
        if kept["identity"] != self.identity:
            raise StoreError(
                f"{self.file} is of a run on other tiles or with other options: choose another --out, or delete it",
                path=self.file,
            )
        self.stage.model.load_state_dict(kept["model"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.scaler.load_state_dict(kept["scaler"])
        self.step, self.spent = kept["step"], kept["spent"]
        torch.set_rng_state(kept["random"].cpu())
        if self.place.device.type == "cuda" and kept["random_gpu"] is not None:
            torch.cuda.set_rng_state(kept["random_gpu"].cpu(), self.place.device)

    def save(self) -> None:
        if self.place.first:
            on_gpu = self.place.device.type == "cuda"
            data = {
                "identity": self.identity,
                "step": self.step,
                "spent": self.spent,
                "model": self.stage.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": torch.get_rng_state(),
                "random_gpu": torch.cuda.get_rng_state(self.place.device) if on_gpu else None,
            }
            aside = self.file.with_name(
                f".{self.file.name}.aside"
            )  # one process writes, so one name is enough
            with aside.open("wb") as file:
                torch.save(data, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.file)
        wait(self.place)

    # ---- the steps -----------------------------------------------------------------------------

    def train(self, batches: Callable[[range], Iterator[Batch]]) -> None:
        spec = self.spec
        if self.step >= spec.steps:
            return
        self.stage.model.train()
        totals: dict[str, float] = {}
        waited, tiles, since, began = 0.0, 0, self.step, time.perf_counter()
        feed = batches(range(self.step, spec.steps))
        while self.step < spec.steps:
            asked = time.perf_counter()
            batch = next(feed)
            waited += time.perf_counter() - asked
            figures = self._step(batch)
            self.step += 1
            tiles += len(batch.pixels) * self.place.world
            for name, value in figures.items():
                totals[name] = totals.get(name, 0.0) + value
            last = self.step == spec.steps
            # Checkpoints are at rows only: one in between would split a row's means.
            if self.step % spec.log_every == 0 or last:
                seconds = time.perf_counter() - began
                self.spent += seconds
                row = {name: value / (self.step - since) for name, value in totals.items()}
                self._tell(row, tiles / seconds, waited / seconds)
                if last or crossed(self.step, spec.save_every, spec.log_every):
                    self.save()
                totals, waited, tiles, since, began = {}, 0.0, 0, self.step, time.perf_counter()

    def _step(self, batch: Batch) -> dict[str, float]:
        spec = self.spec
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(spec, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        parts, seen = split(batch, spec.accumulate, self.place.device), []
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with self._alone(last), self._precision():
                found = self.stage.loss(self.net, part)
            torch.autograd.backward(self.scaler.scale(found["loss"] / len(parts)))
            seen.append({k: v.detach() for k, v in found.items()})
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.stage.model.parameters(), spec.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        figures = _means(seen) | {"gradient": float(norm)}
        return figures | self.stage.after(
            {k: torch.cat([s[k] for s in seen]) for k in seen[0] if seen[0][k].ndim}
        )

    def _alone(self, last: bool) -> Any:
        """Gradients are summed over processes once a batch, not once a part of it."""
        if last or self.place.world == 1:
            return nullcontext()
        net: Any = self.net
        return net.no_sync()

    def _precision(self) -> Any:
        if self.spec.precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if self.spec.precision == "bf16" else torch.float16
        return torch.autocast(self.place.device.type, dtype=kind)

    def _tell(self, means: dict[str, float], rate: float, waited: float) -> None:
        probed = {}
        every = self.spec.probe_every
        due = every and (self.step == self.spec.steps or crossed(self.step, every, self.spec.log_every))
        if due and self.watch.probe is not None and self.place.first:
            self.stage.model.eval()
            probed = {f"probe_{name}": value for name, value in self.watch.probe(self.stage.model).items()}
            self.stage.model.train()
        if not all(math.isfinite(value) for value in means.values()):
            raise StoreError(
                f"the loss of {self.stage.name} is not finite at step {self.step}: lower --lr, or use --precision "
                "fp32; the last checkpoint is kept",
                path=self.file,
            )
        if self.place.first:
            self.watch.log(
                {
                    "stage": self.stage.name,
                    "step": self.step,
                    "of": self.spec.steps,
                    "seconds": round(self.spent, 2),
                    "lr": learning_rate(self.spec, self.step - 1),
                    "tiles_per_second": round(rate, 2),
                    "waiting": round(waited, 4),
                    **{name: round(value, 6) for name, value in (means | probed).items()},
                }
            )


def crossed(step: int, every: int, by: int) -> bool:
    """Whether a multiple of ``every`` lies in the last ``by`` steps, ``step`` the newest of them."""
    return step // every > (step - by) // every


def make_optimiser(model: nn.Module, spec: LoopSpec) -> torch.optim.AdamW:
    """AdamW; biases, norms, layer scale, tokens and positions are not decayed."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bare = parameter.ndim < 2 or name.rpartition(".")[2] in _UNDECAYED
            (free if bare else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas)


def learning_rate(spec: LoopSpec, step: int) -> float:
    """At ``step`` (0 the first): linear up to ``lr`` over the warm-up, then half a cosine down to ``least``."""
    if step < spec.warmup:
        return spec.lr * (step + 1) / spec.warmup
    part = (step - spec.warmup) / max(1, spec.steps - spec.warmup)
    return spec.least + (spec.lr - spec.least) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def split(batch: Batch, parts: int, device: torch.device) -> list[Batch]:
    """A batch on the device, in equal parts. UsageError where it does not divide."""
    count = len(batch.pixels)
    if count % parts:
        raise UsageError(f"a batch of {count} tiles does not divide into {parts} parts: choose --accumulate")
    pixels, mask = (x.to(device, non_blocking=True) for x in (batch.pixels, batch.mask))
    size = count // parts
    return [Batch(p, m) for p, m in zip(torch.split(pixels, size), torch.split(mask, size), strict=True)]


def _means(seen: list[dict[str, Tensor]]) -> dict[str, float]:
    names = [name for name, value in seen[0].items() if value.ndim == 0]
    return {name: float(torch.stack([found[name] for found in seen]).float().mean()) for name in names}


def identity(*parts: Any) -> str:
    """One line of JSON over plain data and dataclasses: what a checkpoint belongs to."""
    return json.dumps([asdict(p) if hasattr(p, "__dataclass_fields__") else p for p in parts], sort_keys=True)
