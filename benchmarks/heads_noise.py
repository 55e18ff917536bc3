"""Do our heads reach the validation loss of CLAM's loop, within the noise of seeds?

    python benchmarks/heads_noise.py [--seeds 6] [--train 40] [--val 8] [--tiles 5000] [--epochs 3]

The bags of `bench_heads.py`. A seed sets first weights, order of cases and dropout draws; of one seed the weights and
the order are the same on all sides, the dropout draws are not. The figures are mean and standard deviation over seeds,
and the mean of the paired differences with its 95 % t interval: one that holds 0 is "within noise".
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_heads import draw_bags, train_only
from clam_reference import DECAY, LR, Reference
from common import command_line, conditions, write
from scipy.stats import t as student

from beph_store.heads import HeadOptions
from beph_store.heads.options import resolved
from beph_store.heads.torch_side.train import Trainer


def losses(folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Validation losses by side, one a seed."""
    bags, target, paths = draw_bags(folder, options.train + options.val, options.tiles)
    train, val = np.arange(options.train), np.arange(options.train, len(bags))
    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        trainers = {}
        for precision in ("fp32", "auto"):
            chosen = HeadOptions(head="clam", precision=precision, device="cpu", lr=LR, weight_decay=DECAY)
            torch.manual_seed(seed)  # the same first weights everywhere
            wanted = resolved(chosen, "classify")
            trainers[precision] = Trainer.start(wanted, bags, target, (train, val), seed)
        state = trainers["fp32"].body.state_dict()
        reference = Reference(paths, target.index, {name: value.clone() for name, value in state.items()})
        torch.manual_seed(1000 + seed)  # the reference's dropout is torch's
        for number in range(1, options.epochs + 1):
            reference.epoch(trainers["fp32"]._order(number))
            for trainer in trainers.values():
                train_only(trainer, number)
        found.setdefault("reference", []).append(float(reference.val_loss(val)))
        for trainer in trainers.values():
            name = f"ours {str(trainer.dtype).removeprefix('torch.')}"
            found.setdefault(name, []).append(float(trainer.objective.loss(trainer.score(val), val)))
        print({name: round(values[-1], 4) for name, values in found.items()}, flush=True)
    return found


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Mean and spread of each side, and the paired differences to the reference."""
    told: dict[str, Any] = {}
    for name, values in found.items():
        told[name] = {
            "losses": [round(value, 4) for value in values],
            "mean": round(statistics.mean(values), 4),
            "sd": round(statistics.stdev(values), 4),
        }
        if name != "reference":
            difference = np.subtract(values, found["reference"])
            half = student.ppf(0.975, len(values) - 1) * difference.std(ddof=1) / np.sqrt(len(values))
            told[name]["minus_reference"] = round(float(difference.mean()), 4)
            told[name]["interval"] = [round(float(difference.mean() + sign * half), 4) for sign in (-1, 1)]
    return told


def main() -> None:
    """Train, compare, write."""
    parser = command_line(__doc__, "heads_noise")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--train", type=int, default=40)
    parser.add_argument("--val", type=int, default=8)
    parser.add_argument("--tiles", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder), options)
    told = {key: getattr(options, key) for key in ("seeds", "train", "val", "tiles", "epochs")}
    write(options.name, {**conditions("torch", "h5py"), **told, "sides": summary(found)})


if __name__ == "__main__":
    main()
