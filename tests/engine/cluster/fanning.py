"""Run in a namespace of its own by test_fanout: fits here and over Ray, and what `each` does when things go wrong.

Prints one JSON object.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import polars as pl

from beph_store.engine.cluster.fanout import Needs, each
from beph_store.engine.cluster.session import connect
from beph_store.engine.probe.run import ProbeOptions, probe
from beph_store.engine.probe.store import store_tiles
from beph_store.engine.study.data import load_study
from beph_store.engine.study.run import train_to
from beph_store.engine.study.train import SplitOptions, TrainOptions
from beph_store.errors import ClusterUnavailable, CohortError, StoreError
from beph_store.heads import HeadOptions
from tests.engine.study.conftest import plant

TRAININGS = {
    "linear": TrainOptions(HeadOptions("linear"), SplitOptions(folds=4, repeats=3), seed=5, draws=20),
    "abmil": TrainOptions(
        HeadOptions("abmil", epochs=3, device="cpu", precision="fp32"),
        SplitOptions(folds=3),
        seed=5,
        draws=20,
    ),
}
PROBES = {
    "linear": ProbeOptions("linear", folds=3, repeats=2, shots=(2,), shot_draws=3, draws=30),
    "knn": ProbeOptions("knn", folds=3, shots=(2,), shot_draws=2, draws=30, neighbours=None),
}


def square(shared, item):
    return shared * item * item


def threads(shared, item):
    import torch

    return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def refuses(shared, item):
    if item == 2:
        raise CohortError("that one cannot be", slide_id="s2")
    return item


def breaks(shared, item):
    return 1 // item


def dies_once(shared, item):
    mark = Path(shared) / f"{item}"
    if item % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def error_of(*arguments, **options):
    try:
        each(*arguments, **options)
    except Exception as error:  # noqa: BLE001 - whatever it is is the answer
        return type(error).__name__, str(error), getattr(error, "slide_id", None)
    return None


def trained(out):
    weights = [(folder / "weights.safetensors").read_bytes() for folder in sorted((out / "heads").iterdir())]
    report = json.loads((out / "train.json").read_text())
    return weights, pl.read_parquet(out / "predictions.parquet"), report["metrics"], report["folds"]


def same_training(study, options, folder):
    here, there = folder / "here", folder / "there"
    heard = []
    train_to(here, study, options)
    train_to(there, study, options, progress=heard.append, ray_address="auto")
    a, b = trained(here), trained(there)
    return {
        "heads": a[0] == b[0] and len(a[0]),
        "predictions": a[1].equals(b[1]),
        "figures": a[2:] == b[2:],
        "progress": (heard[-1].split + 1) / heard[-1].splits,
    }


def same_probe(tiles, options):
    heard = []
    here = probe(tiles, options)
    there = probe(
        tiles, options, progress=lambda done, count: heard.append((done, count)), ray_address="auto"
    )
    a, b = here.to_json(), there.to_json()
    del a["seconds"], b["seconds"]
    return {
        "bits": np.array_equal(here.probabilities, there.probabilities),
        "json": a == b,
        "parts": len(heard),
        "progress": heard[-1][0] == heard[-1][1] == len(heard),
    }


def main(folder):
    planted = plant(folder, cases=36)
    tell = {}
    with connect("local"):
        tell["order"] = each(square, [3, 1, 2], shared=2, address="auto")
        tell["none"] = each(square, [], shared=2, address="auto")
        (folder / "marks").mkdir()
        tell["killed"] = each(dies_once, list(range(7)), shared=str(folder / "marks"), address="auto")
        tell["threads"] = each(threads, [0], shared=None, address="auto")[0]
        tell["refused"] = error_of(refuses, range(6), shared=None, address="auto")
        tell["broken"] = error_of(breaks, [1, 0], shared=None, address="auto")
        tell["no room"] = error_of(square, [1], shared=1, address="auto", needs=Needs(cpus=512))
        for name, task in (("abmil", "classify"), ("linear", "survive")):
            study = load_study(planted.store, planted.labels, task)
            tell[name] = same_training(study, TRAININGS[name], folder / name)
        tiles = store_tiles(planted.store, planted.labels)
        for name, options in PROBES.items():
            tell[f"probe {name}"] = same_probe(tiles, options)
        moved = dataclasses.replace(
            study.store, layout=dataclasses.replace(study.store.layout, root=folder / "no")
        )
        lost = dataclasses.replace(study, store=moved)
        try:
            train_to(folder / "lost", lost, TRAININGS["linear"], ray_address="auto")
        except StoreError as error:
            tell["lost store"] = str(error)
    try:
        each(square, [1], shared=1, address="127.0.0.1:1")
    except ClusterUnavailable as error:
        tell["no cluster"] = str(error)
    sys.stdout.write(json.dumps(tell))  # and nothing else: Ray's own messages stay away


if __name__ == "__main__":
    main(Path(sys.argv[1]))
