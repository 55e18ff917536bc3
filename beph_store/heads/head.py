"""What a trained head is, whatever it is made of, and how it is kept.

A head in a folder is ``weights.safetensors`` and ``head.json``; the latter is written last and names the SHA-256 of the
former, so a pair that does not belong together is told. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from beph_store.errors import HeadError
from beph_store.heads.options import HeadOptions, Task
from beph_store.records import Prediction
from beph_store.regular import require_regular

#: Version of the two files; raised when what they mean changes.
FORMAT = 1
SPEC_FILE = "head.json"
WEIGHTS_FILE = "weights.safetensors"

Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training cases. ``val_loss`` is None without validation cases; losses are means per case
    (Cox: per event).
    """

    number: int
    train_loss: float
    val_loss: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What a head is, as plain data.

    ``classes`` in the order of the probabilities (empty for survival); ``dim`` length of an embedding; ``times``
    days at which ``Prediction.survival`` is given (empty for classes); ``options`` as used, nothing left open;
    ``train_cases``; ``history`` per epoch and ``best_epoch`` the one kept (torch heads); ``grid`` the
    (penalty, held-out loss) pairs tried and ``penalty`` the one chosen (linear head).
    """

    name: str
    task: Task
    classes: tuple[str, ...]
    dim: int
    times: tuple[float, ...]
    options: HeadOptions
    train_cases: int
    seed: int
    history: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    grid: tuple[tuple[float, float], ...] = ()
    penalty: float | None = None


class Head(ABC):
    """A trained head: a bag of embeddings in, a prediction out."""

    spec: HeadSpec

    @property
    def times(self) -> tuple[float, ...]:
        """Days at which survival is given."""
        return self.spec.times

    def predict(self, bag: NDArray[np.float16] | NDArray[np.float32]) -> Prediction:
        """The prediction for a bag (N, D), N at least 1.

        HeadError for an empty bag, another D, or vectors that are not finite.
        """
        if bag.ndim != 2 or bag.shape[1] != self.spec.dim:
            raise HeadError(
                f"a bag of shape {bag.shape} for a head of {self.spec.dim}-d embeddings: give (tiles, {self.spec.dim})"
            )
        if not len(bag):
            raise HeadError("an empty bag: leave out cases without tiles")
        prediction = self._predict(bag)
        if not np.isfinite(prediction.values).all():
            raise HeadError(
                "the bag gives no finite prediction: it holds non-finite vectors; verify the store"
            )
        return prediction

    @abstractmethod
    def _predict(self, bag: NDArray[Any]) -> Prediction: ...

    @abstractmethod
    def weights(self) -> Weights:
        """Every array needed to rebuild the head."""


def write_head(head: Head, folder: Path) -> None:
    """Write the two files of a head; ``save_head`` documents them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({name: np.ascontiguousarray(array) for name, array in head.weights().items()})
    about = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        **dataclasses.asdict(head.spec),
    }
    _replace(folder / WEIGHTS_FILE, weights)
    _replace(folder / SPEC_FILE, json.dumps(about, indent=1).encode())


def read_head(folder: Path) -> tuple[HeadSpec, Weights]:
    """The record and the arrays in a folder, checked against each other; HeadError names what is wrong."""
    spec, digest = _understood(folder, _read(folder, SPEC_FILE))
    data = _read(folder, WEIGHTS_FILE)
    if digest != hashlib.sha256(data).hexdigest():
        raise HeadError(f"{folder / WEIGHTS_FILE} is not the file {SPEC_FILE} was written for", path=folder)
    try:
        return spec, dict(load_tensors(data))
    except (TypeError, ValueError, KeyError, SafetensorError) as error:
        raise HeadError(f"the head in {folder} cannot be understood: {error}", path=folder) from None


def read_spec(folder: Path) -> HeadSpec:
    """The record of the head in a folder alone; HeadError as in ``read_head``."""
    return _understood(folder, _read(folder, SPEC_FILE))[0]


def _read(folder: Path, name: str) -> bytes:
    try:
        require_regular(folder / name)
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise HeadError(f"no head in {folder}: it has no {name}", path=folder) from None
    except OSError as error:
        raise HeadError(f"the head in {folder} cannot be read: {error}", path=folder) from None


def _understood(folder: Path, data: bytes) -> tuple[HeadSpec, str | None]:
    """The record, and the SHA-256 of the weights that it was written for."""
    try:
        about = json.loads(data)
    except ValueError as error:
        raise HeadError(f"the head in {folder} cannot be read: {error}", path=folder) from None
    found = about.pop("format", None) if isinstance(about, dict) else None
    if found != FORMAT:
        raise HeadError(
            f"the head in {folder} has format {found}, this version reads {FORMAT}: update beph-store",
            path=folder,
        )
    digest = about.pop("weights_sha256", None)
    try:
        return spec_from_json(about), digest
    except (TypeError, ValueError, KeyError) as error:
        raise HeadError(f"the head in {folder} cannot be understood: {error}", path=folder) from None


def spec_from_json(data: Mapping[str, Any]) -> HeadSpec:
    """``HeadSpec`` back from its JSON; TypeError, ValueError or HeadError where it is not one."""
    options = dict(data["options"], penalties=tuple(data["options"]["penalties"]))
    fields = dict(data)
    fields |= {
        "classes": tuple(data["classes"]),
        "times": tuple(float(time) for time in data["times"]),
        "options": HeadOptions(**options),
        "history": tuple(Epoch(**epoch) for epoch in data["history"]),
        "grid": tuple((float(penalty), float(loss)) for penalty, loss in data["grid"]),
    }
    return HeadSpec(**fields)


def check_shapes(weights: Weights, expected: Mapping[str, tuple[int, ...]]) -> None:
    """HeadError unless ``weights`` are the expected arrays, no more and no fewer, and finite."""
    odd = sorted(set(weights) ^ set(expected))
    if odd:
        raise HeadError(f"the head's weights do not fit its record: {', '.join(odd)} missing or unknown")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise HeadError(
                f"the head's weights do not fit its record: {name} is {weights[name].shape}, not {shape}"
            )
        if weights[name].dtype.kind != "f" or not np.isfinite(weights[name]).all():
            raise HeadError(
                f"the head's weights cannot be used: {name} is not all finite numbers; train it again"
            )


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    aside.write_bytes(data)
    aside.replace(path)
