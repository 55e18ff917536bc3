"""How fast do heads train, against CLAM's way of reading and stepping, and against loops of single solves?

    python benchmarks/bench_heads.py [--train 40] [--val 8] [--tiles 5000] [--rounds 3] [--name heads]

**epoch** CLAM-SB (BEPH's widths, instance loss, dropout) on synthetic bags of clustered vectors. *Reference*: the way
CLAM trains, in ``clam_reference.py``: one h5 a slide in float32, chunks of 32 rows, one slide a step, float32,
torch's dropout, ``.item()`` in every step. *Ours*: the training engine on one flat float16 memory map, in float32 and
in the precision that ``auto`` picks. All begin from the same weights and see the cases in the same order; the
validation loss is that after all rounds, one epoch each. Rounds alternate in one process; the figures are CPU time on
one thread, because the machine may be shared. Every ratio is the median over rounds. Files are warm in the page cache
on both sides.

The physical limit beside it is the matrix rate, measured in the same rounds at the head's own row count. The share of
it that is reached is the floating-point operations of the head's matrix products, forward and backward, over time, over
that rate.

**linear** 5 splits x 10 penalties on 200 cases x 768: one batched solve against a loop over scikit-learn (classes; with
its default tolerance, and with one that gives about our accuracy) and over torch's L-BFGS with torchsurv's loss
(survival). lifelines is timed on one of the fifty, and multiplied. The difference is the largest, in probability or log
hazard, at the chosen penalty.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from clam_reference import CLASSES, DECAY, DIM, LR, Reference
from common import command_line, conditions, write
from numpy.typing import NDArray
from torch import Tensor

from beph_store.heads import HeadOptions, fit_many
from beph_store.heads.head import Head
from beph_store.heads.options import resolved
from beph_store.heads.torch_side.hardware import dtype_of
from beph_store.heads.torch_side.losses import cox_loss
from beph_store.heads.torch_side.train import Trainer
from beph_store.records import Bags, ClassTarget, SurvivalTarget

#: Multiply-adds of a tile in each matrix product of CLAM-SB.
_FIRST, _REST = 768 * 384, 384 * 384 + 2 * 384 * 256 + 256
#: Forward, and backward twice, but no gradient goes into the embeddings.
FLOP_A_TILE = 2 * (2 * _FIRST + 3 * _REST)


# ---- bags ---------------------------------------------------------------------------------------


def draw_bags(folder: Path, cases: int, tiles: int) -> tuple[Bags, ClassTarget, list[Path]]:
    """Bags of clustered vectors in both layouts. A class has more of its own tissue clusters."""
    rng = np.random.default_rng(0)
    index = rng.permutation(np.arange(cases) % CLASSES)
    centres = rng.normal(size=(64, DIM)).astype(np.float32)
    flat = np.lib.format.open_memmap(folder / "flat.npy", "w+", np.float16, (cases * tiles, DIM))
    paths = []
    for case in range(cases):
        chance = np.full(64, 1.0)
        chance[4 * index[case] : 4 * index[case] + 4] *= 3
        cluster = rng.choice(64, tiles, p=chance / chance.sum())
        shift = 0.2 * rng.standard_normal(DIM, np.float32)
        bag = (centres[cluster] + shift + rng.standard_normal((tiles, DIM), np.float32)).astype(np.float16)
        flat[case * tiles : (case + 1) * tiles] = bag
        paths.append(folder / f"{case}.h5")
        with h5py.File(paths[-1], "w") as file:
            file.create_dataset(
                "features", data=bag.astype(np.float32), chunks=(32, DIM), maxshape=(None, DIM)
            )
    flat.flush()
    spans = tuple(((case * tiles, (case + 1) * tiles),) for case in range(cases))
    vectors = np.load(folder / "flat.npy", mmap_mode="r")
    names = tuple(f"case{case}" for case in range(cases))
    return Bags(names, vectors, spans), ClassTarget(("a", "b", "c"), index.astype(np.int64)), paths


# ---- measuring ----------------------------------------------------------------------------------


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the process for one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def matrix_rate(rows: int, dtype: torch.dtype) -> float:
    """FLOP/s of a product of (rows, 768) by (768, 768), the best of three of ten."""
    a, b = torch.randn(rows, DIM).to(dtype), torch.randn(DIM, DIM).to(dtype)
    a @ b
    seconds = min(cpu_seconds(lambda: [a @ b for _ in range(10)]) for _ in range(3))
    return 10 * 2 * rows * DIM * DIM / seconds


def train_only(trainer: Trainer, number: int) -> None:
    """One epoch of training without judging it, as the reference is timed."""
    trainer.body.train()
    trainer._steps(trainer._order(number)[:, None], number)


def bench_epoch(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Epoch times of the reference and of ours, with validation losses and shares."""
    bags, target, paths = draw_bags(folder, options.train + options.val, options.tiles)
    train, val = np.arange(options.train), np.arange(options.train, len(bags))
    trainers = {}
    for precision in ("fp32", "auto"):
        chosen = HeadOptions(head="clam", precision=precision, device="cpu", lr=LR, weight_decay=DECAY)
        torch.manual_seed(0)  # the same first weights everywhere
        trainers[precision] = Trainer.start(resolved(chosen, "classify"), bags, target, (train, val), 0)
    native = trainers["auto"].dtype
    if native == torch.float32:  # no fast bfloat16 here: nothing else to time
        del trainers["auto"]
    state = next(iter(trainers.values())).body.state_dict()
    reference = Reference(paths, target.index, {name: value.clone() for name, value in state.items()})
    for case in range(len(bags)):  # warm both layouts, and have the finite check behind us
        reference.read(case)
    for trainer in trainers.values():
        trainer.loader.load(train)
    first = reference.val_loss(val)
    seconds: dict[str, list[float]] = {"reference": [], "reference_reading": []}
    for name in trainers:
        seconds |= {name: [], f"{name}_reading": []}
    rates: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(1, options.rounds + 1):
        order = next(iter(trainers.values()))._order(number)
        seconds["reference"].append(cpu_seconds(lambda order=order: reference.epoch(order)))
        seconds["reference_reading"].append(cpu_seconds(lambda: [reference.read(case) for case in train]))
        for name, trainer in trainers.items():
            rates[name].append(matrix_rate(options.tiles, trainer.dtype))
            seconds[name].append(cpu_seconds(lambda t=trainer, n=number: train_only(t, n)))
            groups = trainer.loader.plan(train)
            seconds[f"{name}_reading"].append(
                cpu_seconds(lambda t=trainer, g=groups: deque(t.loader.stream(g), maxlen=0))
            )
    sides = {
        "reference": {"seconds": _median(seconds["reference"]), "val_loss": round(reference.val_loss(val), 4)}
    }
    sides["reference"]["reading_share"] = _ratio(seconds["reference_reading"], seconds["reference"])
    work = FLOP_A_TILE * options.tiles * options.train
    for name, trainer in trainers.items():
        val_loss = float(trainer.objective.loss(trainer.score(val), val))
        sides[f"ours {str(trainer.dtype).removeprefix('torch.')}"] = {
            "seconds": _median(seconds[name]),
            "val_loss": round(val_loss, 4),
            "reading_share": _ratio(seconds[f"{name}_reading"], seconds[name]),
            "ratio_to_reference": _ratio(seconds["reference"], seconds[name]),
            "ratio_of_each_round": [
                round(a / b, 2) for a, b in zip(seconds["reference"], seconds[name], strict=True)
            ],
            "matrix_gflops": round(statistics.median(rates[name]) / 1e9, 1),
            "share_of_matrix_rate": round(
                statistics.median(work / s / r for s, r in zip(seconds[name], rates[name], strict=True)), 3
            ),
        }
    return {
        "bags": {"train": options.train, "val": options.val, "tiles": options.tiles, "dim": DIM},
        "rounds": options.rounds,
        "epochs_trained": options.rounds,
        "bf16_native": native == torch.bfloat16,
        "val_loss_untrained": round(first, 4),
        "sides": sides,
    }


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


# ---- linear solves ------------------------------------------------------------------------------


def bench_linear(rounds: int) -> dict[str, Any]:
    """One batched solve of 5 splits x 10 penalties against loops of single solves."""
    rng = np.random.default_rng(0)
    cases, penalties = 200, tuple(np.logspace(-3, 2, 10).tolist())
    index = rng.permutation(np.arange(cases) % CLASSES)
    mixing = rng.normal(size=(40, DIM)) / 6
    x = rng.normal(size=(cases, 40)) @ mixing + 0.5 * rng.normal(size=(cases, DIM))
    x += 0.2 * rng.normal(size=(CLASSES, DIM))[index]
    x = x.astype(np.float32)
    bags = Bags(tuple(map(str, range(cases))), x, tuple(((i, i + 1),) for i in range(cases)))
    days = np.ceil(rng.exponential(400, cases) * np.exp(-0.7 * (index - 1)) / 30) * 30
    classes = ClassTarget(("a", "b", "c"), index.astype(np.int64))
    survival = SurvivalTarget(rng.random(cases) < 0.6, days)
    folds = np.array_split(rng.permutation(cases), 5)
    splits = [(np.setdiff1d(np.arange(cases), fold), fold) for fold in folds]
    options = HeadOptions(penalties=penalties)
    jobs: dict[str, tuple[Any, Callable[..., Any]]] = {
        "classes, scikit-learn": (classes, sklearn_solve),
        "classes, scikit-learn tol 1e-7": (classes, lambda *job: sklearn_solve(*job, tolerance=1e-7)),
        "survival, torch L-BFGS": (survival, torch_cox_solve),
    }
    table: dict[str, Any] = {}
    for name, (target, single) in jobs.items():
        ours: list[float] = []
        loop: list[float] = []
        gap = 0.0
        for _ in range(rounds):
            heads: list[Head] = []
            ours.append(
                cpu_seconds(lambda h=heads, t=target: h.extend(fit_many(options, bags, t, splits, 0)))
            )
            solved: dict[tuple[int, float], NDArray[np.float64]] = {}
            start = time.process_time()
            for number, (train, _) in enumerate(splits):
                z = (x - x[train].mean(0)) / x[train].std(0)
                for penalty in penalties:
                    solved[number, penalty] = single(z.astype(np.float64), train, target, penalty)
            loop.append(time.process_time() - start)
            for number, head in enumerate(heads):
                assert head.spec.penalty is not None
                mine = np.stack([head.predict(bags.bag(case)).values for case in range(cases)])
                gap = max(gap, float(np.abs(mine - solved[number, head.spec.penalty]).max()))
        table[name] = {
            "batched_seconds": _median(ours),
            "loop_seconds": _median(loop),
            "ratio": _ratio(loop, ours),
            "largest_difference": float(f"{gap:.1e}"),
        }
    train = splits[0][0]
    z = ((x - x[train].mean(0)) / x[train].std(0)).astype(np.float64)
    seconds = cpu_seconds(lambda: lifelines_solve(z, train, survival, 1.0))
    batched = table["survival, torch L-BFGS"]["batched_seconds"]
    table["survival, lifelines"] = {
        "batched_seconds": batched,
        "loop_seconds": round(seconds * 50, 1),
        "ratio": round(seconds * 50 / batched, 1),
        "note": "1 solve of 50 timed, multiplied",
    }
    return {"cases": cases, "dim": DIM, "splits": 5, "penalties": 10, "rounds": rounds, "solves": table}


def sklearn_solve(
    z: NDArray[np.float64],
    train: NDArray[np.int64],
    target: ClassTarget,
    penalty: float,
    tolerance: float = 1e-4,
) -> NDArray[np.float64]:
    """Probabilities (n, K) by scikit-learn, by default with its own default tolerance."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (penalty * len(train)), max_iter=5000, tol=tolerance)
    return np.asarray(model.fit(z[train], target.index[train]).predict_proba(z))


def torch_cox_solve(
    z: NDArray[np.float64], train: NDArray[np.int64], target: SurvivalTarget, penalty: float
) -> NDArray[np.float64]:
    """Log hazards (n, 1) by torch's L-BFGS on torchsurv's loss."""
    x = torch.tensor(z[train], dtype=torch.float32)
    event, days = torch.tensor(target.event[train]), torch.tensor(target.time_days[train])
    w = torch.zeros(z.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")
    weight = float(event.sum()) / len(train)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = weight * cox_loss(x @ w, event, days) + penalty / 2 * (w @ w)
        loss.backward()
        return loss

    optimiser.step(closure)
    return (z @ w.detach().double().numpy())[:, None]


def lifelines_solve(
    z: NDArray[np.float64], train: NDArray[np.int64], target: SurvivalTarget, penalty: float
) -> None:
    """One Cox fit by lifelines."""
    import pandas as pd
    from lifelines import CoxPHFitter

    table = pd.DataFrame(z[train])
    table.columns = table.columns.astype(str)
    table = table.assign(time=target.time_days[train], event=target.event[train])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CoxPHFitter(penalizer=penalty).fit(table, "time", "event")


# ---- the run ------------------------------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    """The two tables."""
    print(f"\n{'epoch':16} {'cpu s':>8} {'ratio':>6} {'of matrix rate':>15} {'reading':>8} {'val loss':>9}")
    for name, side in result["epoch"]["sides"].items():
        ratio, share = side.get("ratio_to_reference", 1.0), side.get("share_of_matrix_rate", "")
        seconds, reading, val_loss = side["seconds"], side["reading_share"], side["val_loss"]
        print(f"{name:16} {seconds:8.2f} {ratio:6.2f} {share:>15} {reading:8.1%} {val_loss:9.4f}")
    print(f"\n{'linear':34} {'batched s':>10} {'loop s':>8} {'ratio':>7}")
    for name, row in result["linear"]["solves"].items():
        print(f"{name:34} {row['batched_seconds']:10.3f} {row['loop_seconds']:8.2f} {row['ratio']:7.1f}")


def main() -> None:
    """See the top of the file."""
    parser = command_line(__doc__, "heads")
    parser.add_argument("--train", type=int, default=40)
    parser.add_argument("--val", type=int, default=8)
    parser.add_argument("--tiles", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":  # BLAS reads this when it is loaded: begin again
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    device = torch.device("cpu")
    result = conditions("torch", "torchsurv", "scikit-learn", "lifelines", "h5py") | {
        "threads": "1; times are CPU seconds of the process",
        "precision_of_auto": str(dtype_of(HeadOptions(device="cpu"), device)),
    }
    with tempfile.TemporaryDirectory() as folder:
        result["epoch"] = bench_epoch(Path(folder), options)
    result["linear"] = bench_linear(options.rounds)
    write(options.name, result)
    show(result)


if __name__ == "__main__":
    main()
