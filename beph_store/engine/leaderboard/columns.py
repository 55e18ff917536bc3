"""What is in the table: each figure's name in JSON, its title, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beph_store.engine.leaderboard.perturb import Perturbation

SPEED = "tiles_per_second"
#: Neighbours that retrieval is judged by.
K = 5


@dataclass(frozen=True, slots=True)
class Column:
    """``key`` in the JSON; ``title`` in full; ``short`` above a column of the screen; ``part`` of the table it is in.

    ``less_is_better`` for what an encoder loses; ``headline`` whether the screen shows it.
    """

    key: str
    title: str
    short: str
    part: str
    less_is_better: bool = False
    headline: bool = False


def columns(shots: Sequence[int], perturbed: Sequence[Perturbation]) -> tuple[Column, ...]:
    """All columns with intervals, in the order of the table; the speed has none and is not among them."""
    found = [
        Column(
            "linear.balanced_accuracy", "linear probe, balanced accuracy", "linear", "probe", headline=True
        ),
        Column("linear.accuracy", "linear probe, accuracy", "accuracy", "probe"),
        Column("linear.auroc", "linear probe, AUROC", "AUROC", "probe", headline=True),
        Column("knn.balanced_accuracy", "k-NN, balanced accuracy", "k-NN", "probe", headline=True),
        Column(f"retrieval.mmv{K}", f"mMV@{K}", f"mMV@{K}", "retrieval"),
        Column(f"retrieval.p{K}", f"P@{K}", f"P@{K}", "retrieval"),
        Column(f"retrieval.map{K}", f"mAP@{K}", f"mAP@{K}", "retrieval", headline=True),
        Column(f"retrieval.map{K}_macro", f"mAP@{K}, mean over classes", "macro", "retrieval"),
    ]
    middle = sorted(shots)[(len(shots) - 1) // 2] if shots else None
    found += [
        Column(
            f"shots.{n}",
            f"{_cases(n)}, balanced accuracy",
            _cases(n).removesuffix(" a class"),
            "few cases",
            headline=n == middle,
        )
        for n in shots
    ]
    for number, one in enumerate(perturbed):
        part = title_of(one.name)
        shown = number in (0, 2)
        found += [
            Column(
                f"{one.name}.loss",
                f"{part}: balanced accuracy lost",
                f"{part}\nloss",
                part,
                less_is_better=True,
                headline=shown,
            ),
            Column(f"{one.name}.same_class", f"{part}: nearest keeps its class", "same class", part),
            Column(f"{one.name}.cosine", f"{part}: centred cosine", "cosine", part),
        ]
    return tuple(found)


def title_of(perturbation: str) -> str:
    """``jpeg40`` → JPEG 40."""
    return f"JPEG {perturbation[4:]}" if perturbation.startswith("jpeg") else perturbation


def _cases(n: int) -> str:
    return f"{n} case{'s' if n > 1 else ''} a class"
