"""Train the transformer of a small encoder to predict the features of a ready-made teacher.

Works on arrays only: who cut the crops, and from which slides, is the caller's business. Teacher is
EfficientNet-Lite0. The student begins with the teacher's own first five stages, frozen, whose output has exactly
one cell a token; its transformer learns what the teacher's other stages make of them. So everything the student
reads and predicts is computed once a crop, and a step costs the transformer alone.

The objective is feature regression (FitNets, Romero et al. 2015) of standardised targets.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

#: Side of a crop, px.
CROP_PX = 224
#: Channels of the teacher at stride 16 (14 x 14, the student's input), at stride 32 (7 x 7), and pooled.
TOKENS, COARSE, POOLED = 112, 320, 1280
#: Standardised targets are clipped here: a few of the teacher's channels have heavy tails.
CLIP = 5.0


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How long and how to train. The learning rate follows the clock, so a slow machine still finishes.

    ``minutes`` wall time; ``steps`` instead of it, for a run that is the same on any machine; ``batch`` crops a step;
    ``lr`` peak learning rate; ``warmup`` share of the time (0–1); ``ema`` the decay of the averaged weights that are
    kept.
    """

    minutes: float
    steps: int | None = None
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    ema: float = 0.995
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The teacher's features of N crops, not standardised.

    ``tokens`` (N, 14, 14, 112) float16; ``coarse`` (N, 7, 7, 320) float16; ``pooled`` (N, 1280) float32.
    """

    tokens: NDArray[np.float16]
    coarse: NDArray[np.float16]
    pooled: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pooled)


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the log: seconds since the start, steps and crops done, mean loss by term since the last."""

    seconds: float
    steps: int
    crops: int
    loss: dict[str, float]


def make_teacher(state_dict: dict[str, Tensor]) -> nn.Module:
    """EfficientNet-Lite0 from a state dict in the original key order; ValueError when a shape disagrees."""
    model: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = model.state_dict()
    pairs = list(zip(own.items(), state_dict.items(), strict=True))
    wrong = [f"{theirs} for {ours}" for (ours, a), (theirs, b) in pairs if a.shape != b.shape]
    if wrong:
        raise ValueError(f"teacher tensors of another shape: {', '.join(wrong[:5])}")
    model.load_state_dict({ours: tensor for (ours, _), (_, tensor) in pairs})
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def teacher_features(teacher: nn.Module, pixels: NDArray[np.uint8], batch: int = 32) -> Features:
    """The teacher's features of (N, 224, 224, 3) uint8 RGB crops."""
    net: Any = teacher
    found = Features(
        np.empty((len(pixels), 14, 14, TOKENS), np.float16),
        np.empty((len(pixels), 7, 7, COARSE), np.float16),
        np.empty((len(pixels), POOLED), np.float32),
    )
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        x = (
            torch.from_numpy(np.ascontiguousarray(pixels[rows]))
            .permute(0, 3, 1, 2)
            .float()
            .sub_(127.5)
            .div_(127.5)
        )
        x = net.bn1(net.conv_stem(x))
        for stage, block in enumerate(net.blocks):
            x = block(x)
            if stage == 4:
                found.tokens[rows] = x.permute(0, 2, 3, 1).half().numpy()
        found.coarse[rows] = x.permute(0, 2, 3, 1).half().numpy()
        found.pooled[rows] = net.bn2(net.conv_head(x)).mean((2, 3)).numpy()
    return found


def adopt_stem(student: nn.Module, teacher: nn.Module, features: Features) -> None:
    """Give the student's stem the teacher's first stages and the statistics of their output; freeze it."""
    stem: Any = student.patch_embed
    own: Any = teacher
    stem.conv_stem.load_state_dict(own.conv_stem.state_dict())
    stem.bn1.load_state_dict(own.bn1.state_dict())
    stem.blocks.load_state_dict(own.blocks[: len(stem.blocks)].state_dict())
    mean, scale = _statistics(features.tokens)
    stem.mean.copy_(mean)
    stem.scale.copy_(scale)
    for part in (stem.conv_stem, stem.bn1, stem.blocks):
        part.requires_grad_(False)


class Distiller(nn.Module):
    """The student's transformer, with throw-away linear heads onto the teacher's standardised features.

    Three terms: each token keeps what the stem said of it, each 2 x 2 of them says what the teacher's last
    stage sees there, and the embedding says what the teacher says of the crop.
    """

    def __init__(self, student: nn.Module, features: Features) -> None:
        super().__init__()
        self.student = student
        self.dim = int(student.num_features)  # type: ignore[arg-type]
        self.heads = nn.ModuleList(nn.Linear(self.dim, c) for c in (TOKENS, COARSE, POOLED))
        for name in ("tokens", "coarse", "pooled"):
            mean, scale = _statistics(getattr(features, name))
            self.register_buffer(f"{name}_mean", mean)
            self.register_buffer(f"{name}_scale", scale)

    def forward(self, tokens: Tensor, coarse: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """Loss terms of a batch of ``Features``, float32."""
        seen = self._transform(tokens)
        cells = functional.layer_norm(seen, [self.dim])
        blocks = functional.avg_pool2d(cells.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        embedding = functional.layer_norm(seen.mean((1, 2)), [self.dim])
        losses = {}
        wanted = {"tokens": tokens, "coarse": coarse, "pooled": pooled}
        for head, view, (name, target) in zip(
            self.heads, (cells, blocks, embedding), wanted.items(), strict=True
        ):
            standard = (target - self.get_buffer(f"{name}_mean")) * self.get_buffer(f"{name}_scale")
            losses[name] = functional.mse_loss(head(view), standard.clamp(-CLIP, CLIP))
        return losses

    def _transform(self, features: Tensor) -> Tensor:
        """Patch tokens after the last block (B, 14, 14, dim), class token left out."""
        net: Any = self.student
        x = net.patch_embed.tokens(features)
        x = torch.cat((net.cls_token.expand(len(x), -1, -1), x), 1)
        bias = net.rel_pos_bias()
        for block in net.blocks:
            x = block(x, shared_rel_pos_bias=bias)
        cells: Tensor = x[:, 1:].unflatten(1, features.shape[1:3])
        return cells


def train(
    student: nn.Module,
    features: Features,
    config: DistillConfig,
    report: Callable[[nn.Module, Progress], None],
) -> nn.Module:
    """Distil for ``config.minutes`` or ``config.steps`` and return the averaged student, in eval mode.

    ``report`` gets it every 25 steps and may save it: the run can be stopped at any time.
    """
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    for block in student.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False  # a trained bias has no fused backward on the CPU
    model = Distiller(student, features)
    kept = copy.deepcopy(student)
    optimiser = _optimiser(model, config)
    start, terms = time.monotonic(), []
    for step, batch in enumerate(_batches(features, config.batch, rng), 1):
        clock = (time.monotonic() - start) / (60 * config.minutes)
        done = clock if config.steps is None else step / config.steps
        terms.append(_step(model, optimiser, batch, learning_rate(config, done)))
        _average(kept, student, min(config.ema, step / (step + 10)))
        if step % 25 == 0 or done >= 1:
            names = {k: round(float(np.mean([t[k] for t in terms])), 4) for k in terms[0]}
            report(kept, Progress(time.monotonic() - start, step, step * config.batch, names))
            terms = []
        if done >= 1:
            break
    return kept.eval()


def learning_rate(config: DistillConfig, done: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth, at ``done`` (0–1) of the time."""
    if done < config.warmup:
        return config.lr * max(done, 1e-3) / config.warmup
    part = min(1.0, (done - config.warmup) / (1 - config.warmup))
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


def turn(array: NDArray[Any], k: int) -> NDArray[Any]:
    """One of the eight symmetries of the square (k 0–7) of (H, W, C), as a view."""
    return np.rot90(array[:, ::-1] if k & 4 else array, k & 3)


def _batches(
    features: Features, size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless shuffled batches, turned: arguments of ``Distiller.forward``."""
    while True:
        order = rng.permutation(len(features))
        for start in range(0, len(order) - size + 1, size):
            rows, ks = order[start : start + size], rng.integers(0, 8, size)
            turned = (
                np.stack([turn(maps[r], k) for r, k in zip(rows, ks, strict=True)]).astype(np.float32)
                for maps in (features.tokens, features.coarse)
            )
            tokens, coarse = map(torch.from_numpy, turned)
            yield tokens, coarse, torch.from_numpy(features.pooled[rows])


def _statistics(array: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each channel, float32, over a sample of at most 512 crops."""
    flat = array[:: max(1, len(array) // 512)].astype(np.float32).reshape(-1, array.shape[-1])
    mean, deviation = flat.mean(axis=0), flat.std(axis=0)
    return torch.from_numpy(mean), torch.from_numpy(1.0 / (deviation + 1e-3))


def _optimiser(model: nn.Module, config: DistillConfig) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def _step(
    model: Distiller, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor], lr: float
) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = lr
    losses = model(*batch)
    total = torch.stack(list(losses.values())).sum() + losses["pooled"]
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return {k: float(v.detach()) for k, v in losses.items()}


@torch.no_grad()
def _average(kept: nn.Module, now: nn.Module, decay: float) -> None:
    for a, b in zip(kept.parameters(), now.parameters(), strict=True):
        a.lerp_(b, 1 - decay)
