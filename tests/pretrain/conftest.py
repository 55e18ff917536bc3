import hashlib

import numpy as np
import pytest

from ..threads import one_torch_thread


class Drawn:
    """Tiles of two colours with stripes of many widths, by arithmetic."""

    def __init__(self, count=24, side=40):
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:side, :side]
        self._tiles = []
        for n in range(count):
            wave = np.sin((x * np.cos(n) + y * np.sin(n)) / (1 + n % 5))[..., None]
            colour = np.array([200, 120, 170]) if n % 2 else np.array([120, 80, 150])
            noise = rng.normal(0, 4, (side, side, 1))
            self._tiles.append(np.clip(colour + 40 * wave + noise, 0, 255).astype(np.uint8))

    @property
    def fingerprint(self):
        return hashlib.sha256(np.stack(self._tiles).tobytes()).hexdigest()

    def __len__(self):
        return len(self._tiles)

    def read(self, index):
        return [self._tiles[i] for i in index]


@pytest.fixture(scope="package")
def drawn():
    return Drawn()


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """These models are too small to share: more threads only wait for each other."""
    with one_torch_thread():
        yield
