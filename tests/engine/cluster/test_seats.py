"""Encoders take the cluster's GPUs, or its cores, and leave their readers enough."""

from __future__ import annotations

import pytest

from beph_store.engine.cluster.seats import seats_of


def _node(name: str, cpus: float, gpus: float = 0) -> dict[str, object]:
    return {"NodeID": name, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8, 16, 48, 96, 128])
@pytest.mark.parametrize("readers", [None, 1, 2, 6])
@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_a_node_is_never_asked_for_more_than_it_has(cores: int, readers: int | None, gpus: int) -> None:
    seats = seats_of([_node("a", cores, gpus)], gpus=gpus > 0, readers=readers)
    assert seats
    for seat in seats:
        assert seat.reader_cpus > 0
        assert seat.cpus > 0
        assert seat.threads <= max(1, cores)
    # An encoder that is placed leaves room for one of its readers at least.
    assert sum(seat.cpus + seat.reader_cpus for seat in seats) <= cores + 1e-9
    assert len({seat.name for seat in seats}) == len(seats)


def test_where_there_are_gpus_each_gets_an_encoder_and_other_nodes_only_read() -> None:
    seats = seats_of([_node("gpu", 32, 4), _node("cpu", 64)], gpus=True)
    assert [(s.node_id, s.cpus, s.gpus, s.readers, s.far) for s in seats] == [("gpu", 1, 1, 7, 8)] * 4


def test_without_gpus_a_node_computes_with_all_its_cores() -> None:
    (small,) = seats_of([_node("a", 2)], gpus=False)
    assert (small.cpus, small.threads, small.readers, small.reader_cpus) == (1, 2, 1, 1)
    large = seats_of([_node("b", 64)], gpus=False)
    assert [(seat.threads, seat.readers) for seat in large] == [(32, 8)] * 2


def test_a_node_without_cores_has_no_seat() -> None:
    assert seats_of([_node("head", 0)], gpus=False) == []
    assert seats_of([_node("cpu", 8)], gpus=True) == []
