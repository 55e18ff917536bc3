"""The losses against their definitions."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from beph_store.heads.objectives import CoxLink  # noqa: E402
from beph_store.heads.torch_side.losses import cox_loss, discrete_nll, smooth_top1_svm  # noqa: E402


def test_the_smooth_svm_by_hand():
    scores = torch.tensor([[2.0, -1.0], [0.5, 0.25]])
    labels = torch.tensor([0, 1])
    for tau in (1.0, 0.5):
        expected = [
            tau * np.log(np.exp(2 / tau) + np.exp((-1 + 1) / tau)) - 2,
            tau * np.log(np.exp((0.5 + 1) / tau) + np.exp(0.25 / tau)) - 0.25,
        ]
        assert float(smooth_top1_svm(scores, labels, tau)) == pytest.approx(np.mean(expected), abs=1e-6)


def test_the_smooth_svm_tends_to_the_hinge():
    scores = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * 2
    labels = torch.arange(50) % 2
    truth, other = scores.gather(1, labels[:, None])[:, 0], scores.gather(1, 1 - labels[:, None])[:, 0]
    hinge = (1 + other - truth).clamp(min=0).mean()
    assert float(smooth_top1_svm(scores, labels, 1e-3)) == pytest.approx(float(hinge), abs=1e-3)


def nll_by_hand(logits, bins, event, alpha):
    """The definition: hazards, survival as their product, one padded in front."""
    total = []
    for z, y, seen in zip(logits, bins, event, strict=True):
        hazard = 1 / (1 + np.exp(-z))
        alive = np.concatenate([[1.0], np.cumprod(1 - hazard)])
        uncensored = -(np.log(alive[y]) + np.log(hazard[y])) if seen else 0.0
        censored = 0.0 if seen else -np.log(alive[y + 1])
        total.append((1 - alpha) * (censored + uncensored) + alpha * uncensored)
    return total


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_discrete_nll_by_hand(alpha):
    rng = np.random.default_rng(0)
    logits, bins, event = rng.normal(size=(30, 4)), rng.integers(0, 4, 30), rng.random(30) < 0.5
    loss = discrete_nll(torch.tensor(logits), torch.tensor(bins), torch.tensor(event), alpha)
    np.testing.assert_allclose(loss.numpy(), nll_by_hand(logits, bins, event, alpha), rtol=1e-6)


def test_discrete_nll_stays_finite_where_the_product_underflows():
    logits = torch.tensor([[300.0, -300.0, 300.0]], requires_grad=True)
    loss = discrete_nll(logits, torch.tensor([1]), torch.tensor([True]), 0.0).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("ties", [True, False])
def test_cox_and_its_gradient_are_the_numpy_reference(ties):
    rng = np.random.default_rng(0)
    time = rng.integers(1, 9, 40).astype(float) if ties else rng.permutation(40) + 1.0
    event, risk = rng.random(40) < 0.6, rng.normal(size=40) * 2
    order = np.argsort(time, kind="stable")
    link = CoxLink(event[order], time[order], np.ones((1, 40, 1)))
    expected, slope = link.total(risk[order][None, :, None])
    given = torch.tensor(risk, dtype=torch.float32, requires_grad=True)
    loss = cox_loss(given, torch.tensor(event), torch.tensor(time))
    loss.backward()
    assert loss.item() == pytest.approx(expected[0, 0] / event.sum(), rel=1e-5)
    np.testing.assert_allclose(given.grad.numpy()[order], slope[0, :, 0] / event.sum(), atol=1e-5)


def test_cox_is_the_library_called_plainly():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cox = pytest.importorskip("torchsurv.loss.cox")
        rng = np.random.default_rng(1)
        time, event = torch.tensor(rng.integers(1, 9, 30)), torch.tensor(rng.random(30) < 0.6)
        risk = torch.tensor(rng.normal(size=30), dtype=torch.float32)
        expected = cox.neg_partial_log_likelihood(risk, event, time, ties_method="efron", reduction="sum")
    assert float(cox_loss(risk, event, time)) == pytest.approx(float(expected / event.sum()), rel=1e-5)


def test_cox_keeps_ties_and_distances_that_float32_would_lose():
    """Two days apart at 2**25 is one and the same number in float32."""
    time = torch.tensor([2.0**25, 2.0**25 + 1, 2.0**25 + 2], dtype=torch.float64)
    risk, event = torch.tensor([0.3, 2.0, -1.0]), torch.ones(3, dtype=torch.bool)
    near = cox_loss(risk, event, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert float(cox_loss(risk, event, time)) == pytest.approx(float(near))


def test_cox_stays_finite_for_hazards_that_overflow():
    for days in ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 2.0]):
        risk = torch.tensor([500.0, -500.0, 0.0, 90.0], requires_grad=True)
        loss = cox_loss(risk, torch.ones(4, dtype=torch.bool), torch.tensor(days))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(risk.grad).all()
