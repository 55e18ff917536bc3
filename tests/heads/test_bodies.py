"""The networks against NumPy, written from CLAM's published definition in BEPH's configuration."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from beph_store.heads.torch_side.bodies import Dropout, abmil, clam  # noqa: E402
from beph_store.heads.torch_side.losses import instance_loss  # noqa: E402
from beph_store_kernels.torch_ops import attention_weights  # noqa: E402


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class NumpyClam:
    """CLAM-SB's forward pass and losses, one bag, float64."""

    def __init__(self, body):
        self.p = {name: value.double().numpy() for name, value in body.state_dict().items()}

    def layer(self, name, x):
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def forward(self, x):
        features = np.maximum(self.layer("encode.1", self.layer("encode.0", x)), 0)
        gated = np.tanh(self.layer("tanh_branch", features)) * sigmoid(self.layer("sigmoid_branch", features))
        scores = self.layer("attention", gated)[:, 0]
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        return self.layer("classifier", weights @ features), features, scores, weights

    def loss(self, x, label, k=8, tau=1.0):
        logits, features, scores, _ = self.forward(x)
        bag = np.log(np.exp(logits).sum()) - logits[label]
        k = min(k, len(x) // 2)
        if not k:
            return 0.7 * bag
        order = np.argsort(-scores)
        chosen = features[np.concatenate([order[:k], order[::-1][:k]])]
        rows = slice(2 * label, 2 * label + 2)
        s = chosen @ self.p["instances.weight"][rows].T + self.p["instances.bias"][rows]
        y = np.repeat([1, 0], k)
        s_y, s_other = s[np.arange(2 * k), y], s[np.arange(2 * k), 1 - y]
        # Smooth top-1 SVM: tau log(exp(s_y / tau) + exp((s_other + 1) / tau)) - s_y
        svm = tau * np.log(np.exp(s_y / tau) + np.exp((s_other + 1) / tau)) - s_y
        return 0.7 * bag + 0.3 * svm.mean()


@pytest.fixture
def model():
    torch.manual_seed(0)
    body = clam(768, 3, 0.25, 3)
    with torch.no_grad():  # biases begin at 0, which would hide a missing one
        for parameter in body.parameters():
            if parameter.ndim == 1:
                parameter.normal_(std=0.3)
    return body.eval()


def test_clam_has_the_number_of_parameters_that_beph_logs():
    assert sum(p.numel() for p in clam(768, 3, 0.25, 3).parameters()) == 643_978


@pytest.mark.parametrize("tiles", [1, 2, 7, 15, 16, 100])
def test_clam_is_the_numpy_reference(model, tiles):
    x = np.random.default_rng(tiles).normal(size=(tiles, 768))
    reference = NumpyClam(model)
    out = model(torch.tensor(x, dtype=torch.float32), (tiles,))
    logits, features, scores, weights = reference.forward(x)
    np.testing.assert_allclose(out.logits[0].detach().numpy(), logits, atol=1e-5)
    np.testing.assert_allclose(out.features.detach().numpy(), features, atol=1e-5)
    np.testing.assert_allclose(out.scores.detach().numpy(), scores, atol=1e-5)
    attention = attention_weights(out.scores[:, None], torch.tensor([0, tiles]))[0, 0].detach().numpy()
    np.testing.assert_allclose(attention, weights, atol=1e-5)


@pytest.mark.parametrize("tiles", [1, 2, 7, 15, 16, 100])
def test_clams_training_loss_is_the_numpy_reference(model, tiles):
    from beph_store.heads.torch_side.objectives import CrossEntropy
    from beph_store.records import ClassTarget

    x = np.random.default_rng(tiles).normal(size=(tiles, 768))
    objective = CrossEntropy(ClassTarget(("a", "b", "c"), np.array([0, 1, 2])), torch.device("cpu"))
    out = model(torch.tensor(x, dtype=torch.float32), (tiles,))
    for label in range(3):
        loss = objective.batch_loss(model, out, np.array([label]), (tiles,))
        assert loss.item() == pytest.approx(NumpyClam(model).loss(x, label), abs=1e-5)


def test_the_instance_branch_trains_only_the_true_class(model):
    from beph_store.heads.torch_side.objectives import CrossEntropy
    from beph_store.records import ClassTarget

    objective = CrossEntropy(ClassTarget(("a", "b", "c"), np.array([1])), torch.device("cpu"))
    out = model(torch.randn(30, 768), (30,))
    objective.batch_loss(model, out, np.array([0]), (30,)).backward()
    touched = model.instances.weight.grad.abs().sum(1) > 0
    assert touched.tolist() == [False, False, True, True, False, False]


def test_a_single_tile_has_no_instance_loss():
    loss = instance_loss(torch.randn(1, 4), torch.zeros(1), torch.randn(2, 4), torch.zeros(2))
    assert float(loss) == 0


@pytest.mark.parametrize("make", [abmil, clam])
def test_ragged_is_one_by_one(make):
    torch.manual_seed(1)
    body = make(32, 3, 0.25, 3).eval()
    lengths = (5, 1, 40, 17)
    x = torch.randn(sum(lengths), 32)
    together = body(x, lengths)
    parts = torch.split(x, list(lengths))
    apart = torch.cat([body(part, (len(part),)).logits for part in parts])
    torch.testing.assert_close(together.logits, apart, atol=1e-5, rtol=1e-5)
    slope = torch.randn(4, 3)
    first = torch.autograd.grad((together.logits * slope).sum(), list(body.classifier.parameters()))
    second = torch.autograd.grad((apart * slope).sum(), list(body.classifier.parameters()))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_attention_sums_to_one_in_each_bag_and_stays_in_it():
    (weights,) = attention_weights(torch.randn(10, 1) * 50, torch.tensor([0, 3, 9, 10]))
    np.testing.assert_allclose(weights.sum(1).numpy(), 1, rtol=1e-6)
    assert (weights[0, 3:] == 0).all()
    assert (weights[1, :3] == 0).all()
    assert weights[2, 9] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_keeps_the_mean_and_obeys_the_seed(dtype):
    drop = Dropout(0.25)
    x = torch.ones(401, 501, dtype=dtype)
    torch.manual_seed(3)
    first = drop(x)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x))
    assert not torch.equal(first, drop(x))
    assert first.dtype == dtype
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert float(first.float().mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(drop.eval()(x), x)


def test_dropout_sends_gradients_through_what_it_kept():
    x = torch.ones(100, 100, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
