import torch
from torch.nn import functional

from beph_store.pretrain.codebook import Codebook


def directions(count, dim=8, seed=0):
    return functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_the_nearest_code_is_that_of_the_largest_cosine():
    book = Codebook(16, 8)
    z = directions(40)
    assert torch.equal(book.nearest(z), (z[:, None] * book.codes).sum(-1).argmax(1))


def test_codes_begin_among_the_vectors_and_stay_on_the_sphere():
    book = Codebook(16, 8)
    z = directions(64)
    book.follow(z, book.nearest(z))
    assert bool(book.ready)
    torch.testing.assert_close(book.codes.norm(dim=1), torch.ones(16))


def test_codes_move_towards_the_mean_of_what_fell_to_them():
    torch.manual_seed(0)
    book = Codebook(4, 8, decay=0.5)
    z = directions(200)
    book.follow(z, book.nearest(z))
    before = book.codes.clone()
    index = book.nearest(z)
    book.follow(z, index)
    for code in index.unique():
        mean = functional.normalize(z[index == code].mean(0), dim=0)
        assert book.codes[code] @ mean > before[code] @ mean or before[code] @ mean > 0.999


def test_a_dead_code_comes_back_where_vectors_are():
    torch.manual_seed(0)
    book = Codebook(8, 8, decay=0.5)
    z = directions(64)
    book.follow(z, book.nearest(z))
    lost = -functional.normalize(z.mean(0), dim=0)
    book.codes[3] = lost
    narrow = functional.normalize(directions(1) + 0.05 * directions(64, seed=1), dim=1)
    for _ in range(12):
        book.follow(narrow, book.nearest(narrow))
    assert (narrow @ book.codes[3]).max() > 0.99


def test_use_counts_codes_told_lately():
    torch.manual_seed(0)
    book = Codebook(10, 8, patience=float("inf"))
    z = directions(100)
    book.follow(z, book.nearest(z))
    assert book.use(1) > 0.5
    one = z[:1].expand(5, -1)
    for _ in range(3):
        book.follow(one, book.nearest(one))
    assert book.use(2) == 0.1
    assert book.use(10) > 0.5


def test_more_codes_than_vectors_all_begin_near_a_vector():
    torch.manual_seed(0)
    book = Codebook(32, 8)
    z = directions(10)
    book.follow(z, book.nearest(z))
    assert (book.codes @ z.T).max(1).values.min() > 0.95
