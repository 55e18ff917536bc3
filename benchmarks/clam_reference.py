"""CLAM's way of training a head, to measure against: written from its description, with torch's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

DIM, CLASSES = 768, 3
LR, DECAY = 2e-4, 1e-5


class PlainClam(nn.Module):
    """CLAM-SB in BEPH's widths, as anyone would write it with torch's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(DIM, 384)
        self.hidden = nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Dropout(0.25))
        self.a = nn.Sequential(nn.Linear(384, 256), nn.Tanh(), nn.Dropout(0.25))
        self.b = nn.Sequential(nn.Linear(384, 256), nn.Sigmoid(), nn.Dropout(0.25))
        self.c = nn.Linear(256, 1)
        self.classifier = nn.Linear(384, CLASSES)
        self.instances = nn.ModuleList(nn.Linear(384, 2) for _ in range(CLASSES))

    def forward(self, x: Tensor, label: int | None) -> tuple[Tensor, Tensor]:
        """Logits (1, C) and the instance loss of one bag (N, D)."""
        h = self.hidden(self.first(x))
        scores = self.c(self.a(h) * self.b(h)).T
        weights = functional.softmax(scores, dim=1)
        loss = torch.zeros(())
        if label is not None:
            top = h[torch.topk(weights[0], 8).indices]
            bottom = h[torch.topk(-weights[0], 8).indices]
            s = self.instances[label](torch.cat([top, bottom]))
            y = torch.tensor([1] * 8 + [0] * 8)
            other = functional.one_hot(1 - y, 2)
            loss = (torch.logsumexp(s + other, 1) - s[torch.arange(16), y]).mean()
        return self.classifier(weights @ h), loss

    def take(self, state: dict[str, Tensor]) -> None:
        """Begin from the weights of our network."""
        names = {
            "first": "encode.0",
            "hidden.0": "encode.1",
            "a.0": "tanh_branch",
            "b.0": "sigmoid_branch",
            "c": "attention",
            "classifier": "classifier",
        }
        with torch.no_grad():
            for mine, theirs in names.items():
                for part in ("weight", "bias"):
                    self.get_parameter(f"{mine}.{part}").copy_(state[f"{theirs}.{part}"])
            for label in range(CLASSES):
                for part in ("weight", "bias"):
                    rows = state[f"instances.{part}"][2 * label : 2 * label + 2]
                    self.get_parameter(f"instances.{label}.{part}").copy_(rows)


class Reference:
    """CLAM's training loop."""

    def __init__(self, paths: Sequence[Path], labels: NDArray[np.int64], state: dict[str, Tensor]) -> None:
        self.paths, self.labels = paths, labels
        self.model = PlainClam()
        self.model.take(state)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=LR, weight_decay=DECAY)

    def read(self, case: int) -> Tensor:
        """The bag of a slide from its own file."""
        with h5py.File(self.paths[case], "r") as file:
            return torch.from_numpy(file["features"][:])

    def epoch(self, order: NDArray[np.int64]) -> float:
        """One pass; mean training loss."""
        self.model.train()
        total = 0.0
        for case in order.tolist():
            label = int(self.labels[case])
            logits, instance = self.model(self.read(case), label)
            loss = 0.7 * functional.cross_entropy(logits, torch.tensor([label])) + 0.3 * instance
            total += loss.item()
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()
        return total / len(order)

    def val_loss(self, cases: NDArray[np.int64]) -> float:
        """Mean cross-entropy of whole bags."""
        self.model.eval()
        with torch.no_grad():
            losses = [
                functional.cross_entropy(
                    self.model(self.read(case), None)[0], torch.tensor([self.labels[case]])
                )
                for case in cases.tolist()
            ]
        return float(torch.stack(losses).mean())
