"""The codebook of a tokenizer: directions on a sphere, moved by averages, brought back when they die."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional


class Codebook(nn.Module):
    """Codes (count, dim) of length 1; a vector is told by the code of the largest cosine (BEiT v2, Peng et al. 2022,
    section 3.1). Codes follow the mean of what fell to them, with ``decay``; no gradient reaches them.

    A code that got nothing while its fair share would have been ``patience`` vectors takes the place of a vector of the
    batch (van den Oord et al. 2017 leave it dead; Lancucki et al. 2020 bring codes back).
    """

    codes: Tensor
    untold: Tensor
    waiting: Tensor
    ready: Tensor

    def __init__(
        self, count: int = 8192, dim: int = 32, *, decay: float = 0.99, patience: float = 20.0
    ) -> None:
        super().__init__()
        self.decay = decay
        self.patience = patience
        self.register_buffer("codes", functional.normalize(torch.randn(count, dim), dim=1))
        # Steps since a code was told, and since it was told or placed.
        self.register_buffer("untold", torch.full((count,), 1 << 29, dtype=torch.int32))
        self.register_buffer("waiting", torch.zeros(count, dtype=torch.int32))
        self.register_buffer("ready", torch.tensor(False))

    def nearest(self, z: Tensor) -> Tensor:
        """(N,) int64 numbers of the codes nearest to (N, dim) vectors of length 1."""
        return torch.cat([(part @ self.codes.T).argmax(1) for part in torch.split(z, 16384)])

    def use(self, steps: int) -> float:
        """Share of the codes (0–1) that were told in the last so many steps."""
        return float((self.untold < steps).double().mean())

    @torch.no_grad()
    def follow(self, z: Tensor, index: Tensor) -> None:
        """Move the codes towards the vectors (N, dim) that fell to them; processes of one run move as one."""
        if not self.ready:
            self._start(z)
            index = self.nearest(z)
        count, dim = self.codes.shape
        hits = torch.bincount(index, minlength=count).to(z.dtype)
        sums = torch.zeros(count, dim, dtype=z.dtype, device=z.device).index_add_(0, index, z)
        if distributed.is_initialized():
            distributed.all_reduce(hits)
            distributed.all_reduce(sums)
        used = hits > 0
        for steps in (self.untold, self.waiting):
            steps.add_(1)
            steps[used] = 0
        target = functional.normalize(sums[used], dim=1)
        self.codes[used] = functional.normalize(self.codes[used].lerp(target, 1 - self.decay), dim=1)
        self._revive(z, float(hits.sum()) / count)

    def _start(self, z: Tensor) -> None:
        """Begin among the first batch's vectors, all of them different where there are enough."""
        self.codes.copy_(self._some(z, len(self.codes)))
        self.ready.fill_(True)

    def _revive(self, z: Tensor, fair: float) -> None:
        dead = self.waiting * fair > self.patience
        missing = int(dead.sum())
        if missing:
            self.codes[dead] = self._some(z, missing)
            self.waiting[dead] = 0

    def _some(self, z: Tensor, count: int) -> Tensor:
        """Vectors of the batch, drawn, a little apart from each other where they must be drawn twice."""
        if count <= len(z):
            drawn = z[torch.randperm(len(z), device=z.device)[:count]]
        else:
            drawn = z[torch.randint(len(z), (count,), device=z.device)]
            drawn = drawn + 0.01 * torch.randn_like(drawn)
        found = functional.normalize(drawn, dim=1)
        if distributed.is_initialized():
            distributed.broadcast(found, 0)
        return found
