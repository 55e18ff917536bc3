"""Tiles are handed out once, come back when a worker is lost, and end together."""

from __future__ import annotations

import random

import numpy as np

from beph_store.engine.cluster.spans import Board


def _tiles(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


def test_a_worker_goes_on_with_its_slide_then_a_fresh_one_then_helps() -> None:
    board = Board(most=100)
    board.add("a", _tiles(250))
    board.add("b", _tiles(150))
    board.add("c", _tiles(0))
    assert board.open == 2
    first = board.take("w")
    assert first is not None
    assert first.slide_id == "a"
    assert first.tile_index.tolist() == list(range(100))
    other = board.take("v")
    assert other is not None
    assert other.slide_id == "b"
    again = board.take("w")
    assert again is not None
    assert again.slide_id == "a"
    assert again.before.tolist() == list(range(100))
    helped = board.take("u")  # c has no tiles: it is not handed out
    assert helped is not None
    assert helped.slide_id in ("a", "b")


def test_spans_shrink_when_no_slide_is_to_come() -> None:
    board = Board(most=2048, fewest=32)
    board.add("giant", _tiles(10_000))
    sizes = []
    while (span := board.take("w", sharers=4)) is not None:
        sizes.append(len(span.tile_index))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 1250
    assert sizes[-1] <= 32
    assert sum(sizes) == 10_000


def test_what_a_lost_worker_had_waits_again_in_its_order() -> None:
    board = Board(most=10)
    board.add("a", _tiles(40))
    for worker in ("w", "w", "v"):
        board.take(worker)
    board.encoded("w", "a", np.array([0, 1, 15], np.int32))
    assert board.lost("w") == 17
    assert board.waiting == 27
    span = board.take("u")
    assert span is not None
    assert span.tile_index.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_done_twice_counts_once_and_a_dropped_slide_not_at_all() -> None:
    board = Board(most=10)
    board.add("a", _tiles(20))
    board.take("w")
    assert board.encoded("w", "a", _tiles(6)).tolist() == [0, 1, 2, 3, 4, 5]
    assert board.encoded("w", "a", _tiles(8)).tolist() == [6, 7]
    board.drop("a")
    assert not board.encoded("w", "a", _tiles(10)).size
    assert (board.hand("w"), board.waiting, board.open) == ([], 0, 0)


def test_whatever_is_lost_every_tile_is_done_exactly_once() -> None:
    chance = random.Random(4)
    for _ in range(50):
        board = Board(most=64, fewest=8)
        sizes = {f"s{number}": chance.randint(0, 900) for number in range(6)}
        for slide_id, size in sizes.items():
            board.add(slide_id, np.array(chance.sample(range(size), size), np.int32))
        done = {slide_id: np.zeros(size, int) for slide_id, size in sizes.items()}
        while board.open:
            worker = f"w{chance.randrange(4)}"
            if chance.random() < 0.1:
                board.lost(worker)
                continue
            board.take(worker, sharers=chance.choice([None, 4]))
            for span in list(board.hand(worker)):
                part = span.tile_index[: chance.randint(0, len(span.tile_index))]
                for tile in board.encoded(worker, span.slide_id, part).tolist():
                    done[span.slide_id][tile] += 1
        assert all((counts == 1).all() for counts in done.values())
