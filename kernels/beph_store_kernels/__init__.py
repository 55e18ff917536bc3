"""Operations on arrays: `reference` says what each one means, `dispatch` picks the one that runs.

* resize_area: an image at another size, every output pixel the exact mean of what it covers
* resize_area_batch: the same of many images of one size
* reduce_area: the same by a whole factor, ragged edges included
* tissue_fraction: the share of a mask that is set, in boxes at fractional positions
* patchify: uint8 tiles as a ViT's normalised patches
* attention_pool: ragged bags, each the mean of its values under the softmax of its scores
* top_k_dot: the rows with the largest dot products

Importing this imports no torch; resize_area_batch and the last three take torch tensors as well as NumPy arrays.
"""

from beph_store_kernels.dispatch import (
    attention_pool,
    patchify,
    reduce_area,
    resize_area,
    resize_area_batch,
    tissue_fraction,
    top_k_dot,
)

__all__ = [
    "attention_pool",
    "patchify",
    "reduce_area",
    "resize_area",
    "resize_area_batch",
    "tissue_fraction",
    "top_k_dot",
]
