"""Train a small encoder of BEPH's own family to predict the features of a ready-made teacher.

Works on arrays only: who cut the crops, and from which slides, is the caller's business. The
student is a BEiT v2 with a shared relative-position table whose checkpoint is written in BEPH's own
key layout, so that it loads and exports by the same path as BEPH. The teacher is EfficientNet-Lite0:
its feature maps at stride 16 have exactly one cell a student token, which supervises every
token of every crop and makes minutes of training count.

The student grows: training starts with every fourth block, which is four times faster, and blocks are added
as copies of their neighbours whose layer scale is zero, so that growing changes no output.

Everything is float32: CPUs without bfloat16 instructions are several times slower with it.
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

#: Side of a crop and of a student token, px.
CROP_PX = 224
TOKEN_PX = 16
#: BEPH's statistics of H&E, per RGB channel on the 0–255 scale.
MEAN = (189.789, 128.245, 175.178)
STD = (38.394, 45.252, 32.213)
#: Channels of the teacher's maps: stages 3, 4, 5 (one cell a token) and 7 (one cell per 2 x 2 tokens).
MAP_CHANNELS = (40, 80, 112, 320)
POOLED = 1280
#: Standardised targets are clipped here: a few of the teacher's channels have heavy tails.
CLIP = 5.0
#: Optical density of haematoxylin, eosin and a residual, per RGB channel (Ruifrok and Johnston).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """How long and how to train. The learning rate follows the clock, so a slow machine still finishes.

    ``minutes`` wall time; ``batch`` crops a step; ``lr`` peak learning rate; ``warmup`` share of the time
    (0–1); ``ema`` the decay of the averaged weights that are kept; ``stages``: (share of the time from which
    on, every how many blocks), the last all of them.
    """

    minutes: float
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.04
    ema: float = 0.998
    seed: int = 0
    stages: tuple[tuple[float, int], ...] = ((0.0, 4), (0.35, 2), (0.65, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The teacher's features of N crops, not standardised.

    ``maps``: one (N, side, side, channels) float16 for each of ``MAP_CHANNELS``, side 14, 14, 14, 7;
    ``pooled`` (N, 1280) float32.
    """

    maps: tuple[NDArray[np.float16], ...]
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


def make_student(dim: int = 192, depth: int = 12, heads: int = 3, seed: int = 0) -> nn.Module:
    """A BEiT v2 with seeded random weights, one shared relative-position table, layer scale 0.1."""
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(
        "beitv2_base_patch16_224",
        pretrained=False,
        num_classes=0,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        init_values=0.1,
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
    )
    for block in model.blocks:  # type: ignore[union-attr]
        block.attn.fused_attn = False  # a trained bias has no fused backward on the CPU
    return model


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
def teacher_features(teacher: nn.Module, pixels: NDArray[np.uint8]) -> tuple[list[Tensor], Tensor]:
    """Maps (B, C, side, side) and pooled (B, 1280), both float32, of uint8 crops (B, 224, 224, 3)."""
    net: Any = teacher
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)
    x = net.bn1(net.conv_stem(x))
    maps: list[Tensor] = []
    for stage, block in enumerate(net.blocks):
        x = block(x)
        if stage in (2, 3, 4, 6):
            maps.append(x)
    maps[0] = functional.avg_pool2d(maps[0], 2)
    return maps, net.bn2(net.conv_head(x)).mean((2, 3))


def make_targets(teacher: nn.Module, pixels: NDArray[np.uint8], batch: int = 32) -> Targets:
    """The teacher's features of (N, 224, 224, 3) uint8 RGB crops."""
    sides = (14, 14, 14, 7)
    shapes = zip(sides, MAP_CHANNELS, strict=True)
    maps = tuple(np.empty((len(pixels), side, side, c), np.float16) for side, c in shapes)
    pooled = np.empty((len(pixels), POOLED), np.float32)
    for start in range(0, len(pixels), batch):
        rows = slice(start, start + batch)
        found, mean = teacher_features(teacher, pixels[rows])
        for target, got in zip(maps, found, strict=True):
            target[rows] = got.permute(0, 2, 3, 1).half().numpy()
        pooled[rows] = mean.numpy()
    return Targets(maps, pooled)


class Distiller(nn.Module):
    """The student, with throw-away linear heads onto the teacher's standardised features."""

    def __init__(self, student: nn.Module, targets: Targets) -> None:
        super().__init__()
        self.student = student
        depth = len(student.blocks)  # type: ignore[arg-type]
        dim = int(student.num_features)  # type: ignore[arg-type]
        self.active = set(range(depth))
        self.taps = [depth // 3 - 1, 2 * depth // 3 - 1, depth - 1]
        self.heads = nn.ModuleList(nn.Linear(dim, c) for c in (*MAP_CHANNELS, POOLED))
        arrays: tuple[NDArray[Any], ...] = (*targets.maps, targets.pooled)
        for name, array in zip("0123p", arrays, strict=True):
            flat = array[:: max(1, len(array) // 512)].astype(np.float32).reshape(-1, array.shape[-1])
            self.register_buffer(f"mean_{name}", torch.from_numpy(flat.mean(0)))
            self.register_buffer(f"scale_{name}", torch.from_numpy(1 / (flat.std(0) + 1e-3)))

    def forward(self, pixels: Tensor, maps: list[Tensor], pooled: Tensor) -> dict[str, Tensor]:
        """Loss terms of normalised pixels (B, 3, 224, 224) against maps (B, side, side, C) and pooled (B, 1280)."""
        dim = self.student.num_features
        tokens = [functional.layer_norm(t, [dim]) for t in self._tokens(pixels)]  # type: ignore[list-item]
        last = self._last
        coarse = functional.avg_pool2d(tokens[2].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        embedding = functional.layer_norm(last.mean((1, 2)), [dim])  # type: ignore[list-item]
        views = [*tokens, coarse, embedding]
        losses = {}
        for head, name, view, target in zip(self.heads, "0123p", views, [*maps, pooled], strict=True):
            wanted = (target - self.get_buffer(f"mean_{name}")) * self.get_buffer(f"scale_{name}")
            losses[name] = functional.mse_loss(head(view), wanted.clamp(-CLIP, CLIP))
        return losses

    def _tokens(self, pixels: Tensor) -> list[Tensor]:
        """Patch tokens after each tapped block, (B, 14, 14, dim), class token left out."""
        net: Any = self.student
        x = net.patch_embed(pixels)
        x = torch.cat((net.cls_token.expand(len(x), -1, -1), x), 1)
        bias = net.rel_pos_bias()
        side = CROP_PX // TOKEN_PX
        found = []
        for i, block in enumerate(net.blocks):
            if i not in self.active:
                continue
            x = block(x, shared_rel_pos_bias=bias)
            if i in self.taps:
                found.append(x[:, 1:].unflatten(1, (side, side)))
        self._last = found[-1]
        return found


def turn(array: NDArray[Any], k: int) -> NDArray[Any]:
    """One of the eight symmetries of the square (k 0–7) of (H, W, C): a view, alike for pixels and maps."""
    return np.rot90(array[:, ::-1] if k & 4 else array, k & 3)


def jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Vary the stains of (B, 3, H, W) pixels on the 0–255 scale, in optical density; float32, same scale."""
    stains = np.asarray(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    gain = rng.uniform(0.85, 1.2, (len(pixels), 3, 1))
    mix = (np.linalg.inv(stains) @ (gain * stains)).astype(np.float32)  # (B, rgb in, rgb out)
    shift = torch.from_numpy(rng.uniform(-0.04, 0.04, (len(pixels), 3, 1, 1)).astype(np.float32))
    density = torch.log((pixels + 1) / 256).neg_()
    density = torch.einsum("bihw,bio->bohw", density, torch.from_numpy(mix)) + shift
    return torch.exp(density.neg_()).mul_(256).sub_(1).clamp_(0, 255)


def batches(
    pixels: NDArray[np.uint8], targets: Targets, size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, list[Tensor], Tensor]]:
    """Endless shuffled batches, turned and recoloured: arguments of ``Distiller.forward``."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    while True:
        order = rng.permutation(len(pixels))
        for start in range(0, len(order) - size + 1, size):
            rows = np.sort(order[start : start + size])
            ks = rng.integers(0, 8, size)
            x = np.stack([turn(pixels[r], k) for r, k in zip(rows, ks, strict=True)])
            maps = [
                torch.from_numpy(
                    np.stack([turn(m[r], k) for r, k in zip(rows, ks, strict=True)]).astype(np.float32)
                )
                for m in targets.maps
            ]
            image = jitter(torch.from_numpy(x).permute(0, 3, 1, 2).float(), rng)
            yield (image - mean) / std, maps, torch.from_numpy(targets.pooled[rows])


def every(n: int, depth: int) -> range:
    """Each n-th block, the last always among them."""
    return range(n - 1, depth, n)


@torch.no_grad()
def silence(student: nn.Module, active: set[int]) -> None:
    """Take all but the active blocks out of the sum, so that a checkpoint is whole at any time."""
    for i, block in enumerate(student.blocks):  # type: ignore[arg-type]
        if i not in active:
            block.gamma_1.zero_()
            block.gamma_2.zero_()


@torch.no_grad()
def grow(student: nn.Module, before: set[int], after: set[int]) -> None:
    """Start the newly active blocks as copies of the next block that was active, with a layer scale of zero."""
    blocks: Any = student.blocks
    for i in after - before:
        blocks[i].load_state_dict(blocks[min(b for b in before if b > i)].state_dict())
    silence(student, before)


def learning_rate(config: DistillConfig, done: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth, at ``done`` (0–1) of the time."""
    if done < config.warmup:
        return config.lr * max(done, 1e-3) / config.warmup
    part = min(1.0, (done - config.warmup) / (1 - config.warmup))
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


def train(
    student: nn.Module,
    pixels: NDArray[np.uint8],
    targets: Targets,
    config: DistillConfig,
    report: Callable[[nn.Module, Progress], None],
) -> nn.Module:
    """Distil for ``config.minutes`` and return the averaged student.

    ``pixels`` (N, 224, 224, 3) uint8 RGB (a memory map will do). ``report`` gets the averaged student
    every 50 steps and may save it: the run can be stopped at any time. Raises ValueError for stages that leave
    out a block whose features are asked for (the ends of each third).
    """
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    model = Distiller(student, targets)
    model.active = set(every(config.stages[0][1], len(student.blocks)))  # type: ignore[arg-type]
    if not model.active >= set(model.taps):
        raise ValueError(f"the first stage must hold the tapped blocks {model.taps}")
    silence(student, model.active)
    kept = copy.deepcopy(student)
    optimiser = _optimiser(model, config)
    start, terms, step = time.monotonic(), [], 0
    for step, batch in enumerate(batches(pixels, targets, config.batch, rng), 1):
        done = (time.monotonic() - start) / (60 * config.minutes)
        step_now = [n for share, n in config.stages if done >= share][-1]
        grown = set(every(step_now, len(student.blocks)))  # type: ignore[arg-type]
        if grown != model.active:
            grow(student, model.active, grown)
            grow(kept, model.active, grown)
            model.active = grown
        terms.append(_step(model, optimiser, batch, learning_rate(config, done)))
        _average(kept, student, min(config.ema, step / (step + 10)))
        if step % 50 == 0 or done >= 1:
            names = {k: float(np.mean([t[k] for t in terms])) for k in terms[0]}
            report(kept, Progress(time.monotonic() - start, step, step * config.batch, names))
            terms = []
        if done >= 1:
            break
    return kept


def to_checkpoint(student: nn.Module, author: str) -> dict[str, Any]:
    """The student in the layout of BEPH's file: ``{'state_dict': {'backbone.…'}, 'author'}``."""
    state = {k: v.detach().clone().contiguous() for k, v in student.state_dict().items()}
    renamed = {f"backbone.{_mm_name(k)}": v for k, v in state.items() if not k.startswith("fc_norm.")}
    renamed["backbone.mask_token"] = torch.zeros_like(state["cls_token"])
    index: Tensor = student.rel_pos_bias.relative_position_index  # type: ignore[union-attr, assignment]
    renamed["backbone.rel_pos_bias.relative_position_index"] = index.clone()
    return {"state_dict": renamed, "author": author}


def load_checkpoint(student: nn.Module, state: dict[str, Tensor]) -> None:
    """Start from the ``state_dict`` of a file that ``to_checkpoint`` made; KeyError when a tensor is missing."""
    own = [k for k in student.state_dict() if not k.startswith("fc_norm.")]
    student.load_state_dict({k: state[f"backbone.{_mm_name(k)}"] for k in own}, strict=False)


def _mm_name(key: str) -> str:
    key = key.replace("patch_embed.proj.", "patch_embed.projection.").replace("blocks.", "layers.", 1)
    key = key.replace(".norm1.", ".ln1.").replace(".norm2.", ".ln2.")
    return key.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")


def _optimiser(model: nn.Module, config: DistillConfig) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))


def _step(
    model: Distiller, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, list[Tensor], Tensor], lr: float
) -> dict[str, float]:
    for group in optimiser.param_groups:
        group["lr"] = lr
    losses = model(*batch)
    total = torch.stack(list(losses.values())).sum() + losses["p"]
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return {k: float(v.detach()) for k, v in losses.items()}


@torch.no_grad()
def _average(kept: nn.Module, now: nn.Module, decay: float) -> None:
    for a, b in zip(kept.parameters(), now.parameters(), strict=True):
        a.lerp_(b, 1 - decay)
