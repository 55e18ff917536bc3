"""The gate: does an exported encoder see what its fp32 reference sees?

Raw cosine lies. The embeddings of all tiles share a large common part, so that even an encoder whose
geometry is gone scores 0.9999. So the mean reference embedding of the probe tiles is subtracted
first (centred cosine), and each probe tile's nearest neighbours must stay the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import ParityFailed

Kind = Literal["exact", "half", "int8"]

#: Least mean centred cosine by kind: fp32 runtimes, fp16 or bf16, int8.
THRESHOLDS: Mapping[Kind, float] = MappingProxyType({"exact": 0.9999, "half": 0.995, "int8": 0.98})
NEIGHBOURS = 10


@dataclass(frozen=True, slots=True)
class ParityReport:
    """``mean``, ``minimum`` centred cosine over the ``tiles`` probe tiles; ``neighbours`` the share (0–1) of
    each tile's 10 nearest neighbours that stay; ``passed`` when ``mean`` reaches ``threshold``.
    """

    kind: Kind
    mean: float
    minimum: float
    neighbours: float
    tiles: int
    threshold: float

    @property
    def passed(self) -> bool:
        """Whether the mean centred cosine reaches the threshold of its kind."""
        return self.mean >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, with ``passed``."""
        return {**dataclasses.asdict(self), "passed": self.passed}


def kind_of(precision: str) -> Kind:
    """The kind of a graph's precision (fp32, fp16, bf16, int8)."""
    return {"fp32": "exact", "fp16": "half", "bf16": "half", "int8": "int8"}[precision]  # type: ignore[return-value]


def centred_cosine(reference: NDArray[Any], candidate: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine (N,) float64 of each row pair of (N, D), the mean reference row subtracted from both."""
    mean = reference.mean(0, dtype=np.float64)
    a, b = reference - mean, candidate - mean
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.einsum("nd,nd->n", a, b) / np.where(scale > 0, scale, 1)
    return np.asarray(cosine, np.float64)


def same_neighbours(reference: NDArray[Any], candidate: NDArray[Any], k: int = NEIGHBOURS) -> float:
    """Mean share (0–1) of each row's ``k`` nearest other rows, by centred cosine, that both sides agree on."""
    k = min(k, len(reference) - 1)
    shared = [
        len(set(a) & set(b)) for a, b in zip(_nearest(reference, k), _nearest(candidate, k), strict=True)
    ]
    return float(np.mean(shared) / k)


def compare(reference: NDArray[Any], candidate: NDArray[Any], kind: Kind) -> ParityReport:
    """Compare embeddings (N, D) of the same N ≥ 2 probe tiles. Non-finite values count as cosine -1."""
    if reference.shape != candidate.shape or len(reference) < 2:
        raise ParityFailed(f"embeddings of shape {candidate.shape}, the reference has {reference.shape}")
    finite = np.isfinite(candidate).all(1)
    cosine = np.where(finite, centred_cosine(reference, np.nan_to_num(candidate)), -1.0)
    return ParityReport(
        kind=kind,
        mean=float(cosine.mean()),
        minimum=float(cosine.min()),
        neighbours=same_neighbours(reference, np.nan_to_num(candidate)),
        tiles=len(reference),
        threshold=THRESHOLDS[kind],
    )


def require(report: ParityReport, what: str, *, force: bool = False) -> ParityReport:
    """The report itself when it passes or is forced, else ParityFailed."""
    if report.passed or force:
        return report
    raise ParityFailed(
        f"{what} does not reproduce its fp32 reference: centred cosine {report.mean:.5f} (least "
        f"{report.minimum:.3f}), {report.threshold} is needed; {report.neighbours:.0%} of the nearest neighbours agree"
    )


def _nearest(vectors: NDArray[Any], k: int) -> NDArray[np.intp]:
    centred = vectors - vectors.mean(0, dtype=np.float64)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -2)
    return np.argsort(-alike, axis=1, kind="stable")[:, :k]
