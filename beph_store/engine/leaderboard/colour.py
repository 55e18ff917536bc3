"""The reference row: what colour alone tells. An encoder that does not beat it has not looked at the tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beph_store.encoders.table import normalisation
from beph_store.runtimes import Direct, Stream

NAME = "colour"
DIM = 6
WHAT = "mean and spread of red, green and blue, in units of H&E tiles' own: no tissue, no learning"
_BATCH = 32


def colour_vectors(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, 6) float32 of tiles (B, H, W, 3): (mean − m) / s and (spread − s) / s of each channel.

    m and s are the ``histology`` statistics, so that a tile's vector depends on that tile alone and cosines mean
    something.
    """
    usual = normalisation("histology")
    m, s = np.array(usual.mean), np.array(usual.std)
    counts = np.array(
        [[np.bincount(tile[..., c].ravel(), minlength=256) for c in range(3)] for tile in pixels]
    )
    share = counts / counts[:1, :1].sum()
    value = np.arange(256.0)
    mean = share @ value
    spread = np.sqrt(np.maximum(share @ value**2 - mean**2, 0))
    return np.asarray(np.concatenate([(mean - m) / s, (spread - s) / s], axis=1), np.float32)


class Colour:
    """``colour_vectors`` with the ends of a runtime."""

    name, device, batch = "numpy", "cpu", _BATCH

    def __init__(self, tile_px: int) -> None:
        self._tile_px = tile_px

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runtime.encode``."""
        return colour_vectors(pixels)

    def stream(self) -> Stream:
        """See ``Runtime.stream``."""
        return Direct(self.encode, (_BATCH, self._tile_px, self._tile_px, 3))

    def close(self) -> None:
        """Nothing to let go of."""
