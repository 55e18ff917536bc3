"""A trained network as a head."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beph_store.errors import HeadError
from beph_store.heads.head import Head, HeadSpec, Weights, check_shapes
from beph_store.heads.survival import cox_survival, discrete_log_hazard, discrete_survival
from beph_store.heads.torch_side.bodies import BODIES, Body
from beph_store.heads.torch_side.hardware import device_of, dtype_of
from beph_store.records import Prediction

#: Tiles that go through the network at once in a prediction: memory stays flat, whatever the slide.
_CHUNK = 16384
_BASELINE = "baseline"


def new_body(spec: HeadSpec, outputs: int) -> Body:
    """The untrained network of a record. CLAM's instance branch exists for classes only: survival has none to name."""
    return BODIES[spec.name](spec.dim, outputs, spec.options.dropout, len(spec.classes))


class TorchHead(Head):
    """Attention over tiles. ``tile_scores`` is what the classifier says of each tile's features alone.

    Their mean under the attention is the bag's logits, because the classifier is linear.
    """

    def __init__(self, spec: HeadSpec, body: Body, baseline: NDArray[np.float64] | None) -> None:
        self.spec = spec
        self._baseline = baseline
        self._device = device_of(spec.options)
        self._dtype = dtype_of(spec.options, self._device)
        self._body = body.to(self._device).eval().requires_grad_(False)

    def weights(self) -> Weights:
        """The network's parameters by name, float32; ``baseline`` (M,) cumulative hazard, float64, with Cox."""
        arrays: Weights = {name: value.cpu().numpy() for name, value in self._body.state_dict().items()}
        if self._baseline is not None:
            arrays[_BASELINE] = self._baseline
        return arrays

    def _predict(self, bag: NDArray[Any]) -> Prediction:
        scores, evidence = self._tiles(bag)
        weights = np.exp(scores - scores.max(), dtype=np.float64)
        attention = weights / weights.sum()
        logits = attention @ evidence
        narrow = attention.astype(np.float32)
        if self.spec.task == "classify":
            exp = np.exp(logits - logits.max())
            return Prediction(exp / exp.sum(), attention=narrow, tile_scores=evidence)
        if self._baseline is not None:
            alive = cox_survival(self._baseline, float(logits[0]))
            return Prediction(logits, survival=alive, attention=narrow, tile_scores=evidence)
        tiles = discrete_log_hazard(evidence)[:, None].astype(np.float32)
        hazard = np.atleast_1d(discrete_log_hazard(logits))
        return Prediction(hazard, survival=discrete_survival(logits), attention=narrow, tile_scores=tiles)

    def _tiles(self, bag: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Attention scores (N,) before softmax and logits (N, O) of each tile."""
        scores, evidence = [], []
        half = self._dtype == torch.bfloat16
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            for at in range(0, len(bag), _CHUNK):
                x = torch.tensor(np.ascontiguousarray(bag[at : at + _CHUNK])).to(self._device, self._dtype)
                features, score = self._body.tiles(x)
                with torch.autocast(self._device.type, enabled=False):
                    evidence.append(self._body.classifier(features.float()).cpu().numpy())
                scores.append(score.cpu().numpy())
        return np.concatenate(scores), np.concatenate(evidence)


def build(spec: HeadSpec, weights: Weights) -> Head:
    """The head from its record and arrays; HeadError where they do not fit."""
    if spec.name not in BODIES:
        raise HeadError(f"no network is called {spec.name!r}")
    cox = spec.options.loss == "cox"
    outputs = len(spec.classes) or (1 if cox else len(spec.times))
    body = new_body(spec, outputs)
    shapes: dict[str, tuple[int, ...]] = {name: tuple(v.shape) for name, v in body.state_dict().items()}
    if cox:
        shapes[_BASELINE] = (len(spec.times),)
    check_shapes(weights, shapes)
    arrays = dict(weights)
    baseline = arrays.pop(_BASELINE, None)
    body.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return TorchHead(spec, body, baseline)
