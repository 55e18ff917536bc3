"""Triton's compiler takes every kernel for cards that are not here: the interpreter forgives what it does not."""

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from beph_store_kernels.triton_ops import dots, launch, pixels, pooling  # noqa: E402

pytestmark = pytest.mark.skipif(launch.INTERPRETED, reason="TRITON_INTERPRET is set: nothing is compiled")

#: Types of arguments, in order, and constants; ints are "i32".
KERNELS = {
    "pool_pieces": (
        pooling._pool_pieces,
        "*fp32 *bf16 *i64 *fp32 *fp32 *fp32 i32 i32 i32",
        {"PIECE": 256, "STEPS": 3, "BLOCK_T": 32, "BLOCK_D": 128},
    ),
    "join_pieces": (
        pooling._join_pieces,
        "*i64 *fp32 *fp32 *fp32 *fp32 *fp32 i32 i32",
        {"PIECE": 256, "BLOCK_P": 16, "BLOCK_D": 64},
    ),
    "send_back": (
        pooling._send_back,
        "*fp32 *bf16 *i64 *fp32 *fp32 *fp32 *fp32 *bf16 i32 i32 i32",
        {"STEPS": 3, "BLOCK_T": 16, "BLOCK_D": 64},
    ),
    "patchify": (
        pixels._patchify,
        "*u8 *fp16 fp32 fp32 fp32 fp32 fp32 fp32",
        {"PATCH": 14, "HEIGHT": 224, "WIDTH": 224, "BLOCK": 512},
    ),
    "resize": (
        pixels._resize,
        "*u8 *u8",
        {
            "IN_Y": 358,
            "IN_X": 358,
            "OUT_Y": 224,
            "OUT_X": 224,
            "CHANNELS": 3,
            "TALL": 179,
            "WIDE": 179,
            "LOW_Y": 112,
            "LOW_X": 112,
            "REACH_Y": 3,
            "REACH_X": 3,
            "LONG": True,
            "BLOCK": 512,
        },
    ),
    "dots": (
        dots._dots,
        "*fp16 *fp16 *u8 *fp32 *fp32 *fp32 i32 i32 i32 i32",
        {"MASKED": True, "SCALED": True, "GROUP": 128, "BLOCK_Q": 16, "BLOCK_D": 32},
    ),
}


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles(name, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, types, constants = KERNELS[name]
    names = kernel.fn.arg_names
    signature = dict(zip(names, types.split() + ["constexpr"] * len(constants), strict=True))
    source = ASTSource(kernel.fn, signature, {(names.index(n),): value for n, value in constants.items()})
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert built.asm["cubin"]
    assert built.metadata.shared <= 48 * 1024
