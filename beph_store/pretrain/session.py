"""The whole of a pre-training: tokenizer, then masked modelling, on one process or as part of several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from beph_store.pretrain import loop
from beph_store.pretrain.data import Batch, Feed, TileSource, ViewSpec, batches, view
from beph_store.pretrain.masking import MaskSpec
from beph_store.pretrain.mim import MaskedModel, MimSpec, middle_of
from beph_store.pretrain.parallel import Place
from beph_store.pretrain.stages import MaskedStage, Pixels, Teacher, TokenizerStage
from beph_store.pretrain.tokenizer import Tokenizer, TokenizerSpec
from beph_store.pretrain.trunk import unfuse

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """Both stages. ``mean`` and ``std`` normalise what tokenizer and trunk see; ``workers`` processes make batches;
    ``distil`` see `MimSpec`.
    """

    tokenizer: TokenizerSpec
    tokenizer_loop: loop.LoopSpec
    masked_loop: loop.LoopSpec
    view: ViewSpec
    mask: MaskSpec
    mean: Triple
    std: Triple
    batch: int
    seed: int = 0
    workers: int = 2
    distil: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What is trained and by whom: the ``trunk``, the tokenizer's ``encoder``, the ``teacher`` with its ``dim``."""

    trunk: nn.Module
    encoder: nn.Module
    teacher: Teacher
    dim: int


def pretrain(
    parts: Parts, source: TileSource, plan: Plan, out: Path, place: Place, watch: loop.Watch
) -> tuple[nn.Module, Tensor]:
    """Train, from the checkpoints in ``out`` where there are any; returns the trunk and its mask token.

    Raises StoreError for a checkpoint of other tiles or options, and where a loss is not finite.
    """
    with _settings(place):
        return _pretrain(parts, source, plan, out, place, watch)


@contextmanager
def _settings(place: Place) -> Iterator[None]:
    """How torch computes meanwhile: quick and the same each time; afterwards as before."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.set_flush_denormal(True)  # on a CPU they cost ten times a number
    if place.device.type == "cpu":  # threads would add up a table's gradient in any order
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_num_threads(torch.get_num_threads())  # and MKL would choose how many it uses each time
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(before)


def _pretrain(
    parts: Parts, source: TileSource, plan: Plan, out: Path, place: Place, watch: loop.Watch
) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(plan.seed)
    for module in (parts.trunk, parts.encoder):
        if place.device.type == "cpu":
            unfuse(module)
    if isinstance(parts.teacher, nn.Module):
        parts.teacher.to(place.device)
    pixels = Pixels(plan.mean, plan.std).to(place.device)
    tokenizer = Tokenizer(parts.encoder, parts.dim, plan.tokenizer)
    named = loop.identity(plan.tokenizer, plan.view, plan.mask, plan.batch, plan.seed, source.fingerprint)
    work = _Work(source, plan, out, place)
    first = TokenizerStage(tokenizer, parts.teacher, pixels)
    work.train(first, plan.tokenizer_loop, loop.Watch(watch.log), named, plan.seed)
    mim = MimSpec(
        codes=plan.tokenizer.codes,
        middle=middle_of(len(parts.trunk.blocks)),  # type: ignore[arg-type]
        distil=plan.distil,
        taught=parts.dim if plan.distil else 0,
    )
    torch.manual_seed(plan.seed + 1)
    model = MaskedModel(parts.trunk, mim)
    if place.device.type == "cpu":
        unfuse(model)
    tokenizer.to(place.device)
    second = MaskedStage(model, tokenizer, pixels, parts.teacher if plan.distil else None)
    # Another seed, or both stages would begin with the same tiles.
    work.train(second, plan.masked_loop, watch, loop.identity(named, mim), plan.seed + 1)
    return parts.trunk.eval(), model.mask_token.detach()


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What both stages share."""

    source: TileSource
    plan: Plan
    out: Path
    place: Place

    def train(self, stage: loop.Stage, spec: loop.LoopSpec, watch: loop.Watch, named: str, seed: int) -> None:
        plan, place = self.plan, self.place
        feed = Feed(plan.batch, seed, plan.view, plan.mask, place.rank, place.world)

        def make(steps: range) -> Iterator[Batch]:
            return batches(self.source, feed, steps, plan.workers, pin=place.device.type == "cuda")

        named = loop.identity(named, spec)
        loop.run(stage, make, spec, self.out, place, watch, identity=named)


def sample(source: TileSource, side: int, count: int, seed: int = 0) -> Tensor:
    """(count, 3, side, side) uint8: whole tiles drawn over all the source, not augmented beyond turns."""
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(source), min(count, len(source)), replace=False)).astype(np.int64)
    spec = ViewSpec(side=side, scale=1.0, jitter=0.0)
    tiles = source.read(rows)
    return torch.stack([view(torch.from_numpy(t.copy()).permute(2, 0, 1), spec, rng) for t in tiles])
