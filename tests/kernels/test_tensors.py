"""The implementations for tensors against the reference: torch, and Triton's kernels in its interpreter.

With a GPU both run there as well.
"""

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import beph_store_kernels as kernels  # noqa: E402
from beph_store_kernels import dispatch, reference, torch_ops  # noqa: E402
from tests.kernels.interpreted import Interpreter, gradients  # noqa: E402

no_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
GPU = torch.cuda.is_available()

MEAN, STD = (190.3, 150.0, 180.7), (40.1, 33.3, 21.7)
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def interpreter():
    process = Interpreter()
    yield process
    process.close()


class Ops:
    """``ops(op, …)``: NumPy arrays in, NumPy arrays out, through tensors of one implementation on one device."""

    def __init__(self, run, device):
        self._run, self._device = run, device

    def __call__(self, op, *arguments, **named):
        tensors = [torch.tensor(x) if isinstance(x, np.ndarray) else x for x in arguments]
        return plain(self.raw(op, *tensors, **named))

    def raw(self, op, *arguments, **named):
        moved = [x.to(self._device) if isinstance(x, torch.Tensor) else x for x in arguments]
        return self._run(op, *moved, **named)


def plain(x):
    return tuple(map(plain, x)) if isinstance(x, tuple) else x.cpu().numpy()


def run_module(module, op, *arguments, **named):
    if op == "gradients":
        return gradients(module.attention_pool, *arguments)
    return getattr(module, op)(*arguments, **named)


@pytest.fixture(
    scope="module",
    params=[
        "torch",
        pytest.param("triton", marks=no_triton),
        *(["torch cuda", pytest.param("triton cuda", marks=no_triton)] if GPU else []),
    ],
)
def ops(request):
    if request.param == "triton":
        return Ops(request.getfixturevalue("interpreter"), "cpu")
    if request.param == "triton cuda":
        from beph_store_kernels import triton_ops

        return Ops(partial(run_module, triton_ops), "cuda")
    return Ops(partial(run_module, torch_ops), "cuda" if "cuda" in request.param else "cpu")


def bags(lengths, heads, dim, dtype=np.float32):
    count = sum(lengths)
    return (
        (RNG.normal(size=(count, heads)) * 4).astype(dtype),
        RNG.normal(size=(count, dim)).astype(dtype),
        np.cumsum([0, *lengths]),
        RNG.normal(size=(len(lengths), heads, dim)).astype(dtype),
    )


@pytest.mark.parametrize(
    ("lengths", "heads", "dim"),
    [
        ((1,), 1, 1),
        ((0,), 1, 5),
        ((), 1, 5),
        ((3, 0, 0, 1), 3, 7),
        ((0, 40, 17, 1, 0), 1, 130),
        ((255, 256, 257, 1), 1, 40),
        ((600, 2), 2, 33),
        ((1,) * 37, 1, 16),
    ],
)
def test_pooling_and_its_gradients(ops, lengths, heads, dim):
    scores, values, offsets, slope = bags(lengths, heads, dim)
    pooled, to_scores, to_values = ops("gradients", scores, values, offsets, slope)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, reference.attention_pool(scores, values, offsets), atol=2e-6)
    expected = reference.attention_pool_grad(scores, values, offsets, slope)
    np.testing.assert_allclose(to_scores, expected[0], atol=2e-5)
    np.testing.assert_allclose(to_values, expected[1], atol=2e-6)
    assert (pooled[np.diff(offsets) == 0] == 0).all()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 30), max_size=5), st.integers(1, 3), st.integers(1, 20))
def test_pooling_of_any_bags(ops, lengths, heads, dim):
    scores, values, offsets, _ = bags(lengths, heads, dim)
    pooled = ops("attention_pool", scores, values, offsets)
    np.testing.assert_allclose(pooled, reference.attention_pool(scores, values, offsets), atol=2e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_added_up_in_float32(ops, dtype):
    scores, values, offsets, slope = map(torch.tensor, bags((300, 0, 1, 20), 1, 50))
    kind = getattr(torch, dtype)
    values = (values * 0.01 + 1000).to(kind)  # their sum is far beyond what float16 holds
    pooled, to_scores, to_values = ops.raw("gradients", scores, values, offsets, slope)
    assert (pooled.dtype, to_scores.dtype, to_values.dtype) == (torch.float32, torch.float32, kind)
    wide = [x.numpy() for x in (scores, values.float(), offsets)]
    np.testing.assert_allclose(pooled.cpu(), reference.attention_pool(*wide), rtol=1e-6)
    expected = reference.attention_pool_grad(*wide, slope.numpy())
    # 1000 + a difference: float32 has four digits left of that.
    np.testing.assert_allclose(to_scores.cpu(), expected[0], atol=5e-3)
    np.testing.assert_allclose(to_values.float().cpu(), expected[1], atol=2.0**-9, rtol=2.0**-7)


def test_large_scores_do_not_overflow(ops):
    scores, values, offsets, slope = bags((300, 270), 1, 6)
    for shift in (3e4, -3e4):
        moved = (scores * 100 + shift).astype(np.float32)
        pooled, to_scores, _ = ops("gradients", moved, values, offsets, slope)
        np.testing.assert_allclose(pooled, reference.attention_pool(moved, values, offsets), atol=1e-5)
        assert np.isfinite(to_scores).all()


def test_what_is_not_a_number_is_not_hidden(ops):
    scores, values, offsets, _ = bags((5, 4), 1, 3)
    scores[1] = np.nan
    pooled = ops("attention_pool", scores, values, offsets)
    assert np.isnan(pooled[0]).all()
    assert np.isfinite(pooled[1]).all()


def test_the_references_gradient_is_that_of_autograd_and_of_differences():
    scores, values, offsets, slope = map(torch.tensor, bags((4, 0, 1, 7), 2, 3, np.float64))
    _, *found = gradients(torch_ops.attention_pool, scores, values, offsets, slope)
    expected = reference.attention_pool_grad(*(x.numpy() for x in (scores, values, offsets, slope)))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float64
        np.testing.assert_allclose(a, b, atol=1e-12)
    inputs = (scores.requires_grad_(), values.requires_grad_(), offsets)
    assert torch.autograd.gradcheck(torch_ops.attention_pool, inputs)


@pytest.mark.parametrize(("side", "patch"), [((28, 42), 14), ((32, 16), 16), ((9, 6), 3), ((5, 7), 1)])
@pytest.mark.parametrize("half", [False, True])
def test_patchify_is_the_reference_to_the_last_bit(ops, side, patch, half):
    tiles = RNG.integers(0, 256, (3, *side, 3), np.uint8)
    found = ops("patchify", tiles, patch, MEAN, STD, half=half)
    expected = reference.patchify(tiles, patch, MEAN, STD, half=half)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_a_product_with_patches_is_the_convolution():
    tiles = RNG.integers(0, 256, (2, 28, 42, 3), np.uint8)
    conv = torch.nn.Conv2d(3, 11, 14, 14)
    x = (torch.tensor(tiles).float() - torch.tensor(MEAN)) / torch.tensor(STD)
    expected = conv(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    patches = torch.tensor(reference.patchify(tiles, 14, MEAN, STD))
    torch.testing.assert_close(patches @ conv.weight.flatten(1).T + conv.bias, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 3),
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 3, 4])),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_resizing_is_the_reference_to_the_last_bit(ops, count, shape, size):
    images = RNG.integers(0, 256, (count, *shape), np.uint8)
    assert np.array_equal(ops("resize_area_batch", images, size), reference.resize_area_batch(images, size))


@pytest.mark.parametrize(("side", "out"), [(448, 224), (358, 224), (250, 224), (224, 224), (56, 224)])
def test_resizing_to_the_sizes_that_slides_have(ops, side, out):
    images = RNG.integers(0, 256, (2, 11, side, 3), np.uint8)  # a strip: the interpreter is slow
    found = ops("resize_area_batch", images, (out, 7))
    assert np.array_equal(found, reference.resize_area_batch(images, (out, 7)))
    assert np.array_equal(found, kernels.resize_area_batch(images, (out, 7)))


def test_sums_and_positions_beyond_32_bits(ops):
    # A strip whose common grid has 2.5 · 10⁹ steps; the reference would write it out.
    n_in, n_out = 50_000, 49_999
    strip = RNG.integers(0, 256, n_in, np.uint8)
    before = np.concatenate([[0], np.cumsum(strip, dtype=np.int64)]) * n_out
    at = np.arange(n_out + 1) * n_in
    upto = before[at // n_out] + np.append(strip, 0)[at // n_out].astype(np.int64) * (at % n_out)
    expected = (2 * np.diff(upto) + n_in) // (2 * n_in)
    found = ops("resize_area_batch", strip.reshape(1, n_in, 1, 1), (1, n_out))
    assert np.array_equal(found.ravel(), expected)


def test_torch_sums_beyond_32_bits():
    white = np.full((1, 2053, 2063, 1), 255, np.uint8)
    assert (torch_ops.resize_area_batch(torch.tensor(white), (3, 5)) == 255).all()


def whole_numbers(queries, rows, dim):
    """Their products are exact in any order, and many are equal."""
    return (
        RNG.integers(-3, 4, (queries, dim)).astype(np.float16),
        RNG.integers(-3, 4, (rows, dim)).astype(np.float16),
    )


def same(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])
    assert (found[0].dtype, found[1].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("queries", "rows", "dim", "k"),
    [(1, 1, 1, 1), (5, 301, 33, 7), (17, 127, 5, 129), (2, 129, 100, 10), (70, 520, 8, 3), (3, 256, 64, 256)],
)
def test_the_best_rows_ties_by_lower_number(ops, queries, rows, dim, k):
    q, r = whole_numbers(queries, rows, dim)
    same(ops("top_k_dot", q, r, k), reference.top_k_dot(q, r, k))
    mask = RNG.random(rows) < 0.4
    same(ops("top_k_dot", q, r, k, mask), reference.top_k_dot(q, r, k, mask))
    same(ops("top_k_dot", q.astype(np.float32), r, k), reference.top_k_dot(q, r, k))
    scale = 2.0 ** RNG.integers(-2, 3, rows).astype(np.float32)
    same(ops("top_k_dot", q, r, k, mask, scale), reference.top_k_dot(q, r, k, mask, scale))


def test_a_mask_that_allows_nothing_finds_nothing(ops):
    q, r = whole_numbers(3, 200, 9)
    values, index = ops("top_k_dot", q, r, 4, np.zeros(200, bool))
    assert (index == -1).all()
    assert (values == -np.inf).all()


def test_more_asked_for_than_there_is(ops):
    q, r = whole_numbers(3, 6, 9)
    _, index = ops("top_k_dot", q, r, 9)
    assert (np.sort(index[:, :6]) == np.arange(6)).all()
    assert (index[:, 6:] == -1).all()
    _, index = ops("top_k_dot", q, r[:0], 2)
    assert index.tolist() == [[-1, -1]] * 3
    assert ops("top_k_dot", q[:0], r, 2)[1].shape == (0, 2)


def test_rows_that_are_not_numbers_are_never_found_and_harm_no_other(ops):
    q, r = whole_numbers(4, 300, 9)
    r[[5, 140]] = np.nan
    r[299, 3] = np.inf  # with a 0 or a negative in the query it is NaN or −inf
    q[:, 3] = [0, -1, 0, -2]
    found = ops("top_k_dot", q, r, 300)
    same(found, reference.top_k_dot(q, r, 300))
    assert not np.isin(found[1], [5, 140, 299]).any()


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_products_are_added_up_in_float32(ops, kind):
    q, r = RNG.normal(size=(20, 768)).astype(kind), RNG.normal(size=(700, 768)).astype(np.float16)
    values, index = ops("top_k_dot", q, r, 12)
    exact = q.astype(np.float64) @ r.astype(np.float64).T
    np.testing.assert_allclose(values, reference.top_k_dot(q, r, 12)[0], atol=1e-4)
    np.testing.assert_allclose(values, np.take_along_axis(exact, index, 1), atol=1e-4)
    assert all(len(set(row)) == 12 for row in index.tolist())


def test_many_queries_go_in_parts(monkeypatch):
    q, r = whole_numbers(23, 150, 12)
    monkeypatch.setattr(torch_ops, "_PRODUCTS", 1000)
    monkeypatch.setattr(torch_ops, "_WIDE", 100)
    found = torch_ops.top_k_dot(torch.tensor(q), torch.tensor(r), 5)
    same(plain(found), reference.top_k_dot(q, r, 5))


def test_arrays_go_to_a_device_in_blocks_and_come_back(monkeypatch):
    q, r = whole_numbers(6, 300, 12)
    mask, scale = RNG.random(300) < 0.1, np.exp2(RNG.integers(-1, 2, 300)).astype(np.float32)
    monkeypatch.setattr(torch_ops, "_ROWS_AT_ONCE", 70)
    for k in (1, 20, 50):
        found = kernels.top_k_dot(q, r, k, mask, scale, device="cpu")
        same(found, reference.top_k_dot(q, r, k, mask, scale))
    same(kernels.top_k_dot(q, r[:0], 2, device="cpu"), reference.top_k_dot(q, r[:0], 2))


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device cuda: no CUDA device is visible to torch"):
        kernels.top_k_dot(*whole_numbers(1, 2, 3), 1, device="cuda")


def test_what_is_refused(ops):
    q, r = whole_numbers(2, 5, 3)
    f32 = np.zeros((5, 2), np.float32)
    wrong = [
        ("top_k_dot", (q, r, 0), "k = 0"),
        ("top_k_dot", (q[:, :2], r, 1), "expected queries"),
        ("top_k_dot", (q, r.astype(np.float32), 1), "expected float16"),
        ("top_k_dot", (q, r, 1, np.ones(4, bool)), "mask has shape"),
        ("attention_pool", (f32[:4], f32, np.array([0, 5])), "expected scores"),
        ("attention_pool", (f32, f32, np.zeros(0, np.int64)), "expected scores"),
        ("patchify", (np.zeros((1, 6, 6, 3), np.uint8), 4, MEAN, STD), "do not divide"),
        ("resize_area_batch", (np.zeros((1, 6, 6, 3), np.float32), (2, 2)), "expected non-empty"),
        ("resize_area_batch", (np.zeros((1, 6, 6, 3), np.uint8), (0, 2)), "at least 1"),
    ]
    for op, arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            ops(op, *arguments)
        with pytest.raises(ValueError, match=message):
            getattr(reference, op)(*arguments)


@pytest.fixture
def choose(monkeypatch):
    """Sets BEPH_STORE_KERNELS for the test."""

    def set_to(name):
        dispatch.implementation.cache_clear()
        monkeypatch.setenv("BEPH_STORE_KERNELS", name)

    yield set_to
    dispatch.implementation.cache_clear()


def test_each_kind_of_array_has_its_default():
    scores, values, offsets, _ = bags((3, 2), 1, 4)
    found = kernels.attention_pool(*map(torch.tensor, (scores, values, offsets)))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found, kernels.attention_pool(scores, values, offsets), atol=1e-6)
    q, r = whole_numbers(2, 9, 4)
    same(plain(kernels.top_k_dot(torch.tensor(q), torch.tensor(r), 3)), kernels.top_k_dot(q, r, 3))
    tiles = RNG.integers(0, 256, (1, 4, 4, 3), np.uint8)
    assert np.array_equal(
        kernels.patchify(torch.tensor(tiles), 2, MEAN, STD), kernels.patchify(tiles, 2, MEAN, STD)
    )
    small = kernels.resize_area_batch(torch.tensor(tiles), (3, 2))
    assert np.array_equal(small, kernels.resize_area_batch(tiles, (3, 2)))


def test_a_name_holds_for_the_rows_that_have_it(choose):
    choose("triton")
    assert dispatch.implementation("resize_area") is dispatch.TABLE["resize_area"]["numpy"]
    assert dispatch.implementation("top_k_dot") is reference.top_k_dot
    if find_spec("triton"):
        assert dispatch.implementation("top_k_dot", tensors=True) is dispatch.TABLE["top_k_dot"]["triton"]


@no_triton
def test_triton_does_not_take_cpu_tensors(choose):
    choose("triton")
    tensors = map(torch.tensor, bags((3, 2), 1, 4)[:3])
    with pytest.raises(ValueError, match="run on CUDA tensors, these are on cpu: unset BEPH_STORE_KERNELS"):
        kernels.attention_pool(*tensors)


def test_a_missing_triton_is_named(choose, monkeypatch):
    choose("triton")
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton is not installed"):
        dispatch.implementation("attention_pool", tensors=True)


@no_triton
def test_triton_has_no_double_precision(interpreter):
    with pytest.raises(ValueError, match="adds up in float32"):
        interpreter("attention_pool", *map(torch.tensor, bags((3, 2), 1, 4, np.float64)[:3]))


@no_triton
@pytest.mark.skipif(not GPU, reason="no CUDA device is visible to torch")
def test_triton_and_torch_agree_at_real_sizes_on_the_gpu():
    from beph_store_kernels import triton_ops

    scores, values, offsets, slope = (torch.tensor(x).cuda() for x in bags((40_000, 0, 9_999, 1), 1, 512))
    for kind in (torch.float32, torch.bfloat16):
        found = gradients(triton_ops.attention_pool, scores, values.to(kind), offsets, slope)
        expected = gradients(torch_ops.attention_pool, scores, values.to(kind), offsets, slope)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-2 if b.dtype == torch.bfloat16 else 1e-4)
    q, r = (torch.tensor(x).cuda() for x in whole_numbers(100, 200_003, 768))
    for a, b in zip(triton_ops.top_k_dot(q, r, 50), torch_ops.top_k_dot(q, r, 50), strict=True):
        assert torch.equal(a, b)
    tiles = torch.tensor(RNG.integers(0, 256, (64, 358, 358, 3), np.uint8)).cuda()
    small = triton_ops.resize_area_batch(tiles, (224, 224))
    assert torch.equal(small, torch_ops.resize_area_batch(tiles, (224, 224)))
    for half in (False, True):
        patches = [m.patchify(small, 16, MEAN, STD, half=half) for m in (triton_ops, torch_ops)]
        assert torch.equal(*patches)
