"""What a target asks of a network: how many outputs, and the loss of a batch or of a cohort."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from beph_store.errors import HeadError
from beph_store.heads.options import HeadOptions
from beph_store.heads.survival import bin_edges, bin_index
from beph_store.heads.torch_side.bodies import Body, Output
from beph_store.heads.torch_side.losses import INSTANCE_SHARE, cox_loss, discrete_nll, instance_loss
from beph_store.records import ClassTarget, SurvivalTarget, Target

Index = NDArray[np.int64]


class Objective(ABC):
    """A loss over cases named by their position. ``joint``: it exists for a set of cases only, not for one."""

    outputs: int
    joint = False
    #: Days at which the head will give survival, where the objective fixes them.
    times: tuple[float, ...] = ()

    @abstractmethod
    def loss(self, logits: Tensor, cases: Index) -> Tensor:
        """Mean loss of logits (n, O) of these cases; for Cox per seen event."""

    def batch_loss(self, body: Body, out: Output, cases: Index, lengths: tuple[int, ...]) -> Tensor:
        """Summed training loss of a batch."""
        return self.loss(out.logits, cases) * len(cases)


class CrossEntropy(Objective):
    """Classes; with CLAM's instance loss where the network has its branch."""

    def __init__(self, target: ClassTarget, device: torch.device) -> None:
        self.outputs = len(target.classes)
        self._labels = target.index
        self._index = torch.tensor(target.index, device=device)

    def loss(self, logits: Tensor, cases: Index) -> Tensor:
        """See the base."""
        return functional.cross_entropy(logits, self._index[cases])

    def batch_loss(self, body: Body, out: Output, cases: Index, lengths: tuple[int, ...]) -> Tensor:
        """0.7 bag + 0.3 instance loss with the branch, else the bag loss alone."""
        whole = super().batch_loss(body, out, cases, lengths)
        if body.instances is None:
            return whole
        weight = body.instances.weight.view(self.outputs, 2, -1)
        bias = body.instances.bias.view(self.outputs, 2)
        features, scores = (torch.split(part, list(lengths)) for part in (out.features, out.scores))
        instance = torch.stack(
            [
                instance_loss(features[bag], scores[bag], weight[label], bias[label])
                for bag, label in enumerate(self._labels[cases].tolist())
            ]
        )
        return (1 - INSTANCE_SHARE) * whole + INSTANCE_SHARE * instance.sum()


class DiscreteTime(Objective):
    """Survival in intervals between quantiles of the training cases' event times."""

    def __init__(
        self, target: SurvivalTarget, train: Index, options: HeadOptions, device: torch.device
    ) -> None:
        edges = bin_edges(target.event[train], target.time_days[train], options.bins)
        self.outputs = len(edges)
        self.times = tuple(edges.tolist())
        self._bins = torch.tensor(bin_index(target.time_days, edges), device=device)
        self._event = torch.tensor(target.event, device=device)
        self._alpha = options.alpha

    def loss(self, logits: Tensor, cases: Index) -> Tensor:
        """See the base."""
        return discrete_nll(logits, self._bins[cases], self._event[cases], self._alpha).mean()


class Cox(Objective):
    """Survival by the partial likelihood of a set of cases."""

    outputs = 1
    joint = True

    def __init__(self, target: SurvivalTarget, device: torch.device) -> None:
        self._target = target
        self._event = torch.tensor(target.event, device=device)
        self._time = torch.tensor(target.time_days, device=device)

    def informative(self, cases: Index) -> bool:
        """Whether these cases have an event to learn from."""
        return len(cases) > 1 and bool(self._target.event[cases].any())

    def loss(self, logits: Tensor, cases: Index) -> Tensor:
        """See the base."""
        return cox_loss(logits[:, 0], self._event[cases], self._time[cases])


def objective_for(
    options: HeadOptions, target: Target, train: Index, val: Index, device: torch.device
) -> Objective:
    """The objective of resolved options; HeadError where validation cases cannot judge it."""
    if isinstance(target, ClassTarget):
        return CrossEntropy(target, device)
    if options.loss == "nll":
        return DiscreteTime(target, train, options, device)
    cox = Cox(target, device)
    if len(val) and not cox.informative(val):
        raise HeadError(
            "the validation cases hold no event to judge a Cox model by: give more of them, or none"
        )
    return cox
