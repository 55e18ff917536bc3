"""The linear head of a fine-tuned encoder, in NumPy: embeddings of tiles in, chances of the classes out.

``classifier.npz`` holds ``weight`` (K, dim) and ``bias`` (K,) float32, logits = vectors @ weight.T + bias;
``classifier.json``, written last, names the classes, the encoder it was trained on and the SHA-256 of the former.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import HeadError
from beph_store.halves import widened
from beph_store.regular import require_regular

FORMAT = 1
SPEC_FILE, WEIGHTS_FILE = "classifier.json", "classifier.npz"


@dataclass(frozen=True, slots=True, eq=False)
class TileClassifier:
    """``weight`` (K, dim) and ``bias`` (K,) of the ``classes`` in their order; ``encoder`` its name and
    ``weights_sha256`` its weights: embeddings of any other mean nothing here.
    """

    classes: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    encoder: str
    weights_sha256: str

    def logits(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, K) float32 of embeddings (n, dim)."""
        if vectors.ndim != 2 or vectors.shape[1] != self.weight.shape[1]:
            raise HeadError(
                f"embeddings of shape {vectors.shape}: the classifier takes those of {self.encoder}, (n, "
                f"{self.weight.shape[1]})"
            )
        return np.asarray(widened(vectors) @ self.weight.T + self.bias)

    def probabilities(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, K) float64; rows sum to 1."""
        logits = self.logits(vectors).astype(np.float64)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exp / exp.sum(axis=1, keepdims=True))


def save_classifier(head: TileClassifier, folder: Path) -> None:
    """Write both files, the one with the digest of the other last."""
    aside = folder / f".{WEIGHTS_FILE}"
    with aside.open("wb") as file:
        np.savez(file, weight=head.weight, bias=head.bias)
    aside.replace(folder / WEIGHTS_FILE)
    spec = {
        "format": FORMAT,
        "classes": list(head.classes),
        "encoder": {"name": head.encoder, "weights_sha256": head.weights_sha256},
        "dim": head.weight.shape[1],
        "logits": "vectors @ weight.T + bias",
        "sha256": _digest(folder / WEIGHTS_FILE),
    }
    aside = folder / f".{SPEC_FILE}"
    aside.write_text(json.dumps(spec, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(folder / SPEC_FILE)


def load_classifier(folder: str | Path) -> TileClassifier:
    """The classifier of a fine-tuning's folder; HeadError where there is none, or its files do not belong together."""
    folder = Path(folder)
    try:
        for name in (SPEC_FILE, WEIGHTS_FILE):
            require_regular(folder / name)
        spec: dict[str, Any] = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
        if spec["format"] != FORMAT:
            raise HeadError(
                f"{folder} has a classifier of format {spec['format']}, this version knows {FORMAT}: update beph-store",
                path=folder,
            )
        if spec["sha256"] != _digest(folder / WEIGHTS_FILE):
            raise HeadError(f"{folder / WEIGHTS_FILE} was altered: its SHA-256 differs", path=folder)
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as data:
            weight, bias = (np.asarray(data[name], np.float32) for name in ("weight", "bias"))
        encoder = spec["encoder"]
        head = TileClassifier(
            tuple(spec["classes"]), weight, bias, str(encoder["name"]), str(encoder["weights_sha256"])
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise HeadError(f"{folder} holds no classifier that can be read: {error}", path=folder) from error
    if weight.ndim != 2 or weight.shape[0] != len(head.classes) or bias.shape != (len(head.classes),):
        raise HeadError(f"{folder / WEIGHTS_FILE} does not fit its {len(head.classes)} classes", path=folder)
    return head


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
