"""The loop: it learns, the same twice, the same after a kill, the same whoever reads the tiles."""

import dataclasses

import numpy as np
import pytest
import torch

from beph_store.errors import HeadError, UsageError
from beph_store.heads.finetuning import FinetuneOptions
from beph_store.heads.torch_side.finetuning.train import CHECKPOINT, Finetuner

from ...threads import one_torch_thread
from .drawing import task
from .test_parts import Pooled

OPTIONS = FinetuneOptions(
    epochs=3, warmup=1, batch=8, lr=0.03, min_crop=0.5, operations=1, precision="fp32", workers=0
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For the fixtures of this module too: bits depend on the number of threads."""
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Pooled(depth=2)


def fit(encoder, folder, options=OPTIONS, given=None, stop=None):
    """A fit; ``stop`` ends it in the middle of that epoch, as a kill does."""

    def report(done, epoch):
        if stop is not None and epoch is None and done > 8 and len(trainer.history) == stop - 1:
            raise KeyboardInterrupt

    with Finetuner(encoder, given or task(), options, folder) as trainer:
        fitted = trainer.fit(report)
        return fitted, trainer.probabilities(np.arange(36))


@pytest.fixture(scope="module")
def whole(encoder, tmp_path_factory):
    """An uninterrupted fit. Read only."""
    return fit(encoder, tmp_path_factory.mktemp("whole"))


def same(a, b):
    fitted, said = a
    other, told = b
    assert fitted.encoder.keys() == other.encoder.keys()
    assert all(torch.equal(fitted.encoder[name], other.encoder[name]) for name in fitted.encoder)
    assert (fitted.weight == other.weight).all()
    assert (said == told).all()
    timeless = {"seconds": 0, "tiles_per_second": 0, "waiting": 0}
    assert [dataclasses.replace(e, **timeless) for e in fitted.history] == [
        dataclasses.replace(e, **timeless) for e in other.history
    ]


def test_it_learns_to_tell_colours(whole, encoder):
    fitted, said = whole
    assert len(fitted.history) == 3
    assert fitted.history[-1].val_loss < fitted.history[0].val_loss
    assert (said.argmax(axis=1) == np.arange(36) % 3).mean() > 0.9
    np.testing.assert_allclose(said.sum(axis=1), 1)
    moved = [n for n, p in encoder.state_dict().items() if not torch.equal(p, fitted.encoder[n])]
    assert "trunk.patch_embed.proj.weight" in moved
    assert "weight" in moved
    assert fitted.best == 1 + int(np.argmin([epoch.val_loss for epoch in fitted.history]))


def test_the_same_seed_gives_the_same_model_and_another_one_another(whole, encoder, tmp_path):
    same(whole, fit(encoder, tmp_path / "a"))
    other, _ = fit(encoder, tmp_path / "b", dataclasses.replace(OPTIONS, seed=1, epochs=1))
    assert other.history[0].train_loss != whole[0].history[0].train_loss


@pytest.mark.parametrize("stop", [1, 3])
def test_a_fit_that_was_killed_ends_where_an_uninterrupted_one_does(whole, encoder, tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        fit(encoder, tmp_path, stop=stop)
    assert (tmp_path / CHECKPOINT).is_file() == (stop > 1)
    torch.manual_seed(77)  # whatever happened in between
    same(whole, fit(encoder, tmp_path))
    same(whole, fit(encoder, tmp_path))  # it is over: nothing is trained again


def test_a_process_that_reads_ahead_changes_nothing_and_an_unreadable_image_ends_it(whole, encoder, tmp_path):
    options = dataclasses.replace(OPTIONS, workers=1)
    given = dataclasses.replace(task(broken=(36,)), labels=np.arange(37) % 3)
    with Finetuner(encoder, given, options, tmp_path) as trainer:
        fitted = trainer.fit(lambda done, epoch: None)
        same(whole, (fitted, trainer.probabilities(np.arange(36))))
        with pytest.raises(UsageError, match=r"^image 36 cannot be read$"):
            trainer.probabilities(np.array([35, 36]))


def test_accumulated_batches_are_one_step(encoder, tmp_path):
    plain = dataclasses.replace(OPTIONS, epochs=1, drop_path=0.0)
    big, _ = fit(encoder, tmp_path / "a", dataclasses.replace(plain, batch=12))
    small, _ = fit(encoder, tmp_path / "b", dataclasses.replace(plain, batch=4, accumulate=3))
    for name, tensor in big.encoder.items():
        torch.testing.assert_close(small.encoder[name], tensor, rtol=1e-4, atol=2e-5, msg=name)


def test_bfloat16_learns_too(encoder, tmp_path):
    fitted, said = fit(encoder, tmp_path, dataclasses.replace(OPTIONS, precision="bf16"))
    assert all(t.dtype != torch.bfloat16 for t in fitted.encoder.values())
    assert (said.argmax(axis=1) == np.arange(36) % 3).mean() > 0.8


def test_an_image_that_cannot_be_read_ends_it_with_its_name(encoder, tmp_path):
    with pytest.raises(UsageError, match=r"^image 4 cannot be read$"):
        fit(encoder, tmp_path, given=task(broken=(4,)))


def test_a_loss_that_is_no_number_and_a_broken_checkpoint_say_the_cure(encoder, tmp_path):
    broken = Pooled(depth=2)
    torch.nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(HeadError, match=r"epoch 1: pass a lower --lr"):
        fit(broken, tmp_path / "nan")
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(HeadError, match="remove it to begin this fit anew"):
        fit(encoder, folder)
