"""The operations as Triton kernels, on CUDA tensors; see `reference` for what each one means.

With ``TRITON_INTERPRET=1`` in the environment before the import they run on the CPU, slowly: so they are tested.
"""

from beph_store_kernels.triton_ops.dots import top_k_dot
from beph_store_kernels.triton_ops.pixels import patchify, resize_area_batch
from beph_store_kernels.triton_ops.pooling import attention_pool

__all__ = ["attention_pool", "patchify", "resize_area_batch", "top_k_dot"]
