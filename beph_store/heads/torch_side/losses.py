"""What torch heads learn by."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional

#: CLAM's instance branch: tiles from each end of the attention ranking, and its share of the loss.
K_SAMPLE = 8
INSTANCE_SHARE = 0.3


def smooth_top1_svm(scores: Tensor, labels: Tensor, tau: float = 1.0) -> Tensor:
    """Mean smooth top-1 SVM loss of scores (n, C) and labels (n,).

    Berrada, Zisserman & Kumar (2018), k = 1, margin 1: tau · log Σ_j exp((s_j + [j ≠ y]) / tau) - s_y.
    """
    margin = torch.ones_like(scores).scatter_(1, labels[:, None], 0.0)
    truth = scores.gather(1, labels[:, None])[:, 0]
    return (tau * torch.logsumexp((scores + margin) / tau, dim=1) - truth).mean()


def instance_loss(features: Tensor, attention: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """CLAM's instance loss of one bag: the most attended tiles are of its class, the least attended are not.

    ``features`` (N, H), ``attention`` (N,) ranks them; ``weight`` (2, H) and ``bias`` (2,) the instance classifier of
    the bag's class. A bag of fewer than 2 · ``K_SAMPLE`` tiles gives half of them to each end, a single tile gives 0.
    """
    k = min(K_SAMPLE, len(features) // 2)
    if k == 0:
        return features.new_zeros((), dtype=torch.float32)
    order = attention.detach()
    chosen = torch.cat([torch.topk(order, k).indices, torch.topk(order, k, largest=False).indices])
    labels = torch.arange(2 * k, device=features.device).lt(k).long()
    return smooth_top1_svm(functional.linear(features[chosen].float(), weight, bias), labels)


def discrete_nll(logits: Tensor, bins: Tensor, event: Tensor, alpha: float) -> Tensor:
    """Negative log likelihood (n,) of discrete-time survival (Zadeh & Schmid 2020; MCAT's definition).

    ``logits`` (n, K) of the hazards per interval; ``bins`` (n,) the interval of the event or of censoring; ``event``
    (n,) bool. Seen: alive before the interval and hit in it. Censored: alive through it, weighted by 1 - ``alpha``.
    """
    here = bins[:, None]
    log_hazard = functional.logsigmoid(logits).gather(1, here)[:, 0]
    log_alive = functional.logsigmoid(-logits).cumsum(1)
    through = log_alive.gather(1, here)[:, 0]
    before = through - functional.logsigmoid(-logits).gather(1, here)[:, 0]
    return torch.where(event, -(before + log_hazard), -(1 - alpha) * through)


def cox_loss(log_hazard: Tensor, event: Tensor, time_days: Tensor) -> Tensor:
    """Cox's negative log partial likelihood with Efron's ties, per seen event; all (n,), n at least 2, one event seen.

    torchsurv computes it, in float32. It gets the times' ranks, which unlike the times keep their ties in float32.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import, and for every set with ties, which Efron's method is for
        from torchsurv.loss.cox import neg_partial_log_likelihood  # type: ignore[import-untyped]

        rank = torch.unique(time_days, return_inverse=True)[1]
        # A shift changes nothing in the likelihood, and keeps its exponentials from overflowing; the floor, which
        # only a diverging network reaches, keeps the last risk sets from vanishing.
        shifted = (log_hazard - log_hazard.detach().max()).clamp(min=-80.0)
        total: Tensor = neg_partial_log_likelihood(shifted, event, rank, ties_method="efron", reduction="sum")
    return total / event.sum()
