"""What a probe may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beph_store.errors import UsageError
from beph_store.heads import tilewise

Method = Literal["linear", "knn"]


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """``folds`` × ``repeats`` by case; ``train_fraction`` of the training cases is used; ``shots`` cases a class to
    learn from, each in ``shot_draws`` draws; ``neighbours`` of knn, None chooses them on
    inner folds; ``draws`` bootstrap draws of the cases.
    ``shuffle_labels`` probes exchanged labels: the figures must then sit at chance.
    """

    method: Method = "linear"
    folds: int = 5
    repeats: int = 1
    train_fraction: float = 1.0
    shots: tuple[int, ...] = ()
    shot_draws: int = 20
    neighbours: int | None = tilewise.FEW_SHOT_NEIGHBOURS
    seed: int = 0
    draws: int = 1000
    shuffle_labels: bool = False

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.shot_draws < 1 or self.draws < 1 or self.seed < 0:
            raise UsageError("repeats and draws must be at least 1, the seed at least 0")
        if any(shots < 1 for shots in self.shots):
            raise UsageError(
                f"--shots {','.join(map(str, self.shots))}: whole numbers of cases a class, from 1 up"
            )
        if self.neighbours is not None and not 1 <= self.neighbours <= max(tilewise.NEIGHBOURS):
            raise UsageError(f"--k {self.neighbours}: choose from 1 to {max(tilewise.NEIGHBOURS)}, or auto")
