"""Operations on arrays: `reference` says what each one means, `dispatch` picks the one that runs.

* resize_area: an image at another size, every output pixel the exact mean of what it covers
* reduce_area: the same by a whole factor, ragged edges included
* tissue_fraction: the share of a mask that is set, in boxes at fractional positions
"""

from beph_store_kernels.dispatch import reduce_area, resize_area, tissue_fraction

__all__ = ["reduce_area", "resize_area", "tissue_fraction"]
