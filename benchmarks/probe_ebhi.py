"""How much does beph-mini see? Six tissue classes of EBHI-Seg, which its training never saw.

    python benchmarks/probe_ebhi.py DIR [--checkpoint beph_mini.pth] [--only-mini] [--name probe_ebhi]

DIR holds manifest.csv (path, label, case_id) and the images. On frozen embeddings, standardised, a logistic
regression in five folds grouped by case (StratifiedGroupKFold); the figures are of the five test folds put
together. Beside beph-mini: its teacher (pooled EfficientNet-Lite0), the same architecture with random weights,
and the mean and spread of colour. Without --checkpoint the bundled encoder is probed.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from common import conditions, write
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from beph_store.encoders import load_bundle
from beph_store.runtimes import select_runtime

_BATCH = 8


def read(folder: Path) -> tuple[NDArray[np.uint8], list[str], list[str]]:
    """Images (N, 224, 224, 3), labels and cases."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = np.stack([np.asarray(Image.open(folder / row["path"]).convert("RGB")) for row in rows])
    return pixels, [row["label"] for row in rows], [row["case_id"] for row in rows]


def bundled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings by the encoder that ships."""
    bundle = load_bundle("beph-mini")
    runtime = select_runtime("onnxruntime", bundle.onnx_path(), bundle.spec)
    return np.concatenate([runtime.encode(pixels[i : i + _BATCH]) for i in range(0, len(pixels), _BATCH)])


def by_checkpoint(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings by a checkpoint of `train_beph_mini.py`, in torch."""
    import torch

    from beph_store.encoders.torch_side.loaded import Embedder
    from beph_store.encoders.torch_side.mini import load_mini

    loaded = load_mini(path)
    model = Embedder(loaded.model, loaded.spec).eval()
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(pixels[i : i + _BATCH])).numpy() for i in range(0, len(pixels), _BATCH)
        ]
    return np.concatenate(parts)


def untrained(folder: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings by the same architecture with random weights, in the stem too."""
    from train_beph_mini import save

    from beph_store.encoders.torch_side.mini import make_mini

    path = folder / "untrained.pth"
    save(make_mini(seed=1), path)
    return by_checkpoint(path, pixels)


def teacher(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """The teacher's pooled features, and the mean of what beph-mini's stem sees, on which it builds."""
    from train_beph_mini import load_teacher

    from beph_store.pretrain import distill

    found = distill.teacher_features(load_teacher(), pixels)
    return {
        "teacher: EfficientNet-Lite0, pooled": found.pooled,
        "stem alone: mean of its 112 channels": found.tokens.astype(np.float32).mean((1, 2)),
    }


def colour(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean and standard deviation of each channel."""
    return np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], 1).astype(np.float32)


def probe(vectors: NDArray[np.float32], labels: list[str], cases: list[str]) -> dict[str, Any]:
    """Accuracy and balanced accuracy over all test folds, and each fold's."""
    y = np.asarray(labels)
    guess = np.empty_like(y)
    folds = []
    splitter = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    for train, test in splitter.split(vectors, y, cases):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        guess[test] = model.fit(vectors[train], y[train]).predict(vectors[test])
        folds.append(round(float(balanced_accuracy_score(y[test], guess[test])), 4))
    return {
        "dim": vectors.shape[1],
        "accuracy": round(float(accuracy_score(y, guess)), 4),
        "balanced_accuracy": round(float(balanced_accuracy_score(y, guess)), 4),
        "balanced_accuracy_by_fold": folds,
    }


def main() -> None:
    """Embed, probe, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--only-mini", action="store_true", help="leave the comparisons out")
    parser.add_argument("--name", default="probe_ebhi")
    args = parser.parse_args()
    pixels, labels, cases = read(args.folder)
    found = {"beph-mini": by_checkpoint(args.checkpoint, pixels) if args.checkpoint else bundled(pixels)}
    if not args.only_mini:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            found["untrained, same architecture"] = untrained(Path(folder), pixels)
        found.update(teacher(pixels))
        found["colour: mean and spread"] = colour(pixels)
    table = {name: probe(vectors, labels, cases) for name, vectors in found.items()}
    data = {
        **conditions("scikit-learn", "onnxruntime", "torch", "timm"),
        "data": "EBHI-Seg, 994 fields of 165 cases, six classes; not used in training",
        "protocol": "logistic regression on standardised frozen embeddings, 5 folds grouped by case",
        "results": table,
    }
    if args.checkpoint:
        print(table)
    else:
        write(args.name, data)


if __name__ == "__main__":
    main()
