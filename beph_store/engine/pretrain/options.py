"""What a pre-training may be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from beph_store.errors import UsageError

Init = Literal["none", "beph", "timm", "beph-mini"]
INITS: tuple[Init, ...] = ("none", "beph", "timm", "beph-mini")
#: ``mini`` is beph-mini's hybrid; the others are BEiT v2's of three widths.
SIZES = ("mini", "tiny", "small", "base")
#: The only teacher whose first stages can be the stem of a ``mini``.
STEM = "timm:tf_efficientnet_lite0"


@dataclass(frozen=True, slots=True)
class Schedule:
    """``steps`` of the masked modelling and of the tokenizer before it, each of ``batch`` tiles on all processes;
    ``warmup`` share of the steps (0–1). ``lr`` None: see ``peak``. The rest as in `pretrain.loop.LoopSpec`.
    """

    steps: int = 20_000
    tokenizer_steps: int = 5_000
    batch: int = 64
    accumulate: int = 1
    lr: float | None = None
    warmup: float = 0.05
    precision: str = "fp32"
    log_every: int = 20
    save_every: int = 500
    probe_every: int = 500

    def __post_init__(self) -> None:
        if min(self.steps, self.tokenizer_steps, self.batch, self.accumulate) < 1:
            raise UsageError("steps, batch and accumulate must be at least 1")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"a warm-up of {self.warmup}: pass a share of the steps, 0 to below 1")
        if self.batch % self.accumulate:
            raise UsageError(f"a batch of {self.batch} does not divide into {self.accumulate} parts")

    @property
    def peak(self) -> float:
        """The learning rate: BEPH's 1.5e-3 at 1,024 tiles a batch, for a smaller one less by the root of the share."""
        return self.lr if self.lr is not None else 1.5e-3 * min(1.0, (self.batch / 1024) ** 0.5)


@dataclass(frozen=True, slots=True)
class Codes:
    """The tokenizer: ``count`` codes, 8,192 in BEPH; its ``decoder`` in blocks."""

    count: int = 8192
    decoder: int = 3


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Labelled images to see the encoder grow by; their labels are not trained on. See `cohort.image_sets`."""

    images: Path
    layout: str = "csv"
    most: int = 600


@dataclass(frozen=True, slots=True)
class PretrainOptions:
    """``size`` None is that of ``init``, else base. ``teacher`` any encoder by name, with its ``teacher_weights``; None
    is the bundled beph-mini. ``name``, ``mpp`` (µm/px; None that of the tiles) and ``licence`` go into the bundle.
    ``masked`` of the 196 patches, ``scale`` the least share of a tile that a crop keeps, ``jitter`` of its colours.
    ``distil``: weight of the teacher's own tokens in the masked stage, 0 is BEiT v2.
    """

    size: str | None = None
    init: Init = "none"
    weights: Path | None = None
    teacher: str | None = None
    teacher_weights: Path | None = None
    name: str = "pretrained"
    mpp: float | None = None
    licence: str = "not stated"
    schedule: Schedule = field(default_factory=Schedule)
    codes: Codes = field(default_factory=Codes)
    masked: int = 75
    scale: float = 0.2
    jitter: float = 0.4
    distil: float = 0.0
    device: str = "auto"
    workers: int = 2
    seed: int = 0
    probe: ProbeSet | None = None

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise UsageError(f"--init {self.init}: choose from {', '.join(INITS)}")
        if self.size is not None and self.size not in SIZES:
            raise UsageError(f"--size {self.size}: choose from {', '.join(SIZES)}")
        if self.init == "beph" and self.weights is None:
            raise UsageError("--init beph needs BEPH_backbone.pth: pass --weights")
        if self.init in ("none", "beph-mini") and self.weights is not None:
            raise UsageError(f"--weights has no use with --init {self.init}: pass --init beph or --init timm")
        given = {"beph": "that of the file", "timm": "base", "beph-mini": "mini"}
        allowed: tuple[str | None, ...] = (None, "base") if self.init == "timm" else (None, "mini")
        if self.init == "beph":
            allowed = (None,)
        if self.init != "none" and self.size not in allowed:
            raise UsageError(f"--init {self.init} has its own size, {given[self.init]}: leave --size out")
        if self.size == "mini" and self.init == "none" and self.teacher != STEM:
            raise UsageError(
                f"--size mini takes its stem from its teacher: pass --teacher {STEM}, or --init beph-mini"
            )
        if not (0 < self.scale <= 1 and 0 <= self.jitter < 1 and self.distil >= 0 and self.seed >= 0):
            raise UsageError(
                "--scale is above 0 and at most 1, --jitter below 1, --distil and --seed not negative"
            )
        if self.mpp is not None and self.mpp <= 0:
            raise UsageError(f"--mpp {self.mpp}: µm/px, above 0")
