"""Areas and tiles: inside, covered, crossing; against a second way to count."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from beph_store.interop.covering import classify_tiles
from beph_store.interop.regions import Region, contains, covered, crossing, ring_of, signed_area


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def star(rng: np.random.Generator, n: int, middle: tuple[float, float], radius: float) -> np.ndarray:
    """A jagged outline that cannot cross itself."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    reach = rng.uniform(0.3, 1.0, n) * radius
    return np.stack([middle[0] + reach * np.cos(angle), middle[1] + reach * np.sin(angle)], 1)


def region(label: str, *polygons: tuple[np.ndarray, ...], exact: bool = False) -> Region:
    return Region(label, polygons, label, exact)


@pytest.mark.parametrize("seed", range(5))
def test_inside_is_as_matplotlib_has_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring = star(rng, 40, (500, 500), 450)
    points = np.concatenate([rng.uniform(0, 1000, (4000, 2)), rng.integers(0, 1000, (500, 2))])
    assert (contains((ring,), points) == Outline(ring).contains_points(points)).all()
    assert (contains((ring[::-1],), points) == contains((ring,), points)).all()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("turn", [1, -1])
def test_covered_shares_are_exact(seed: int, turn: int) -> None:
    rng = np.random.default_rng(seed)
    outline, hole = star(rng, 60, (510, 490), 460)[::turn], box(480, 470, 530, 521)[::-turn]
    side = 37
    origin = rng.integers(-20, 990, (60, 2)).astype(float)
    share = covered((outline, hole), origin, side)
    step = (np.arange(150) + 0.5) * side / 150
    grid = np.stack(np.meshgrid(step, step), -1).reshape(-1, 2)
    inside = Outline(outline).contains_points((origin[:, None] + grid).reshape(-1, 2)).reshape(60, -1)
    inside &= ~Outline(hole).contains_points((origin[:, None] + grid).reshape(-1, 2)).reshape(60, -1)
    assert np.abs(share - inside.mean(axis=1)).max() < 2e-3
    assert 0.1 < share.mean() < 0.9


def test_squares_that_tile_an_area_add_up_to_it() -> None:
    rng = np.random.default_rng(9)
    outline = star(rng, 500, (100_500, 80_500), 480)
    x, y = np.meshgrid(np.arange(0, 1000, 13), np.arange(0, 1000, 13))
    origin = np.stack([x.ravel() + 100_000, y.ravel() + 80_000], 1).astype(float)
    total = covered((outline,), origin, 13).sum() * 13 * 13
    assert total == pytest.approx(abs(signed_area(outline)), rel=1e-9)


def test_edges_along_a_tile_and_a_rectangle_of_half_of_it() -> None:
    origin = np.array([(0, 0), (10, 0), (0, 10), (20, 20)], float)
    np.testing.assert_allclose(covered((box(0, 0, 10, 10),), origin, 10), [1, 0, 0, 0])
    np.testing.assert_allclose(covered((box(5, -5, 15, 5),), origin, 10), [0.25, 0.25, 0, 0])


def test_crossing_outlines_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(3)
    outline = star(rng, 3000, (5000, 5000), 4000)
    assert crossing((outline,)) is None
    twisted = outline.copy()
    twisted[[1200, 1203]] = twisted[[1203, 1200]]
    place = crossing((twisted,))
    assert place is not None
    assert np.abs(twisted[1195:1210] - place).min(axis=0).max() < 4000
    assert crossing((np.array([(0, 0), (10, 10), (10, 0), (0, 10)], float),)) == (5, 5)
    assert crossing((box(0, 0, 10, 10), box(2, 2, 4, 4))) is None
    assert crossing((box(0, 0, 10, 10), box(0, 2, 4, 4))) is None  # a hole that touches the outline
    assert crossing((box(0, 0, 10, 10), box(8, 2, 14, 4))) is not None


def test_a_ring_without_area_is_none_and_the_closing_point_goes() -> None:
    assert ring_of([(0, 0), (5, 0), (0, 0)]) is None
    assert ring_of([(0, 0), (5, 0), (5, 0), (5, 5), (0, 0)]).tolist() == [[0, 0], [5, 0], [5, 5]]
    with pytest.raises(ValueError, match="finite"):
        ring_of([(0, 0), (float("nan"), 0), (1, 1)])


GRID = np.array([(x, y) for y in range(0, 400, 100) for x in range(0, 400, 100)], np.int32)


def test_by_the_middle_and_by_the_share() -> None:
    drawn = region("tumour", (box(60, 0, 240, 100),))
    assert np.flatnonzero(classify_tiles([drawn], GRID, 100).number == 0).tolist() == [1]
    assert np.flatnonzero(classify_tiles([drawn], GRID, 100, cover=0.4).number == 0).tolist() == [0, 1, 2]
    assert np.flatnonzero(classify_tiles([drawn], GRID, 100, cover=1.0).number == 0).tolist() == [1]


def test_what_is_drawn_inside_another_counts() -> None:
    drawn = [region("tumour", (box(0, 0, 400, 400),)), region("necrosis", (box(100, 100, 300, 200),))]
    for cover in (None, 0.5):
        found = classify_tiles(drawn, GRID, 100, cover=cover)
        assert [found.classes[i] for i in found.number[[0, 5, 6, 9]]] == [
            "tumour",
            "necrosis",
            "necrosis",
            "tumour",
        ]
        assert found.several == 2


def test_a_hole_is_not_the_class_and_parts_belong_together() -> None:
    holed = region("a", (box(0, 0, 400, 400), box(100, 100, 200, 200)))
    assert classify_tiles([holed], GRID, 100).number[5] == -1
    parts = region("a", (box(0, 0, 30, 100),), (box(70, 0, 100, 100),))
    assert classify_tiles([parts], GRID, 100, cover=0.6).number[0] == 0
    assert classify_tiles([parts], GRID, 100, cover=0.61).number[0] == -1


def test_areas_of_one_class_that_overlap_count_once() -> None:
    twice = [region("a", (box(0, 0, 30, 100),)), region("a", (box(10, 0, 40, 100),))]
    assert classify_tiles(twice, GRID, 100, cover=0.39).number[0] == 0
    assert classify_tiles(twice, GRID, 100, cover=0.42).number[0] == -1


def test_a_tile_that_was_exported_is_that_tile_even_where_tiles_overlap() -> None:
    close = np.array([(x, 0) for x in range(0, 400, 50)], np.int32)
    tile = region("a", (box(100, 0, 200, 100),), exact=True)
    for cover in (None, 0.5):
        assert np.flatnonzero(classify_tiles([tile], close, 100, cover=cover).number == 0).tolist() == [2]
    drawn = region("a", (box(100, 0, 200, 100),))
    assert np.flatnonzero(classify_tiles([drawn], close, 100, cover=0.5).number == 0).tolist() == [1, 2, 3]


def test_no_regions_and_no_tiles() -> None:
    assert classify_tiles([], GRID, 100).number.tolist() == [-1] * 16
    none = np.empty((0, 2), np.int32)
    assert len(classify_tiles([region("a", (box(0, 0, 9, 9),))], none, 100).number) == 0


def test_a_crossing_outline_takes_what_it_winds_around() -> None:
    """An eight: both halves are meant."""
    eight = region("a", (np.array([(0, 0), (200, 100), (200, 0), (0, 100)], float),))
    share = [classify_tiles([eight], GRID, 100, cover=c).number[:2].tolist() for c in (0.45, 0.55)]
    assert share == [[0, 0], [-1, -1]]


def test_many_tiles_and_corners_take_no_time() -> None:
    import time

    rng = np.random.default_rng(1)
    drawn = region("a", (star(rng, 5_000, (50_000, 50_000), 45_000),))
    x, y = np.meshgrid(np.arange(0, 100_000, 896), np.arange(0, 100_000, 896))
    origin = np.stack([x.ravel(), y.ravel()], 1).astype(np.int32)
    begun = time.process_time()
    found = classify_tiles([drawn], origin, 896, cover=0.5)
    assert 0 < (found.number == 0).sum() < len(origin)
    assert time.process_time() - begun < 10
