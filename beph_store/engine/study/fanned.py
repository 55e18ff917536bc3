"""The fits of a study as calls that any machine can make which reads the store."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from beph_store.engine.cluster.fanout import Needs, each
from beph_store.engine.study.data import Study
from beph_store.engine.study.outcomes import Said, ask
from beph_store.errors import NotAStore, StoreError
from beph_store.heads import Head, HeadOptions, HeadSpec, Progress, build_head, fit_many, head_row
from beph_store.heads.head import Weights
from beph_store.records import Bags, Case, Target
from beph_store.store import Store, bags

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Splits that are solved together: their (train, val), and the cases that each head is asked about."""

    splits: tuple[tuple[Index, Index], ...]
    tests: tuple[Index, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """All that a machine is told: where the embeddings lie, whose they are, what to learn.

    ``tiles`` of each case, so that a store which has changed meanwhile is noticed. ``name`` this question's own.
    """

    store: str
    recipe: str
    cases: tuple[Case, ...]
    tiles: tuple[int, ...]
    target: Target
    options: HeadOptions
    seed: int
    name: str = field(default_factory=lambda: uuid4().hex)


#: The bags that this process opened last, by the name of the question: a worker answers many parts of one.
_opened: dict[str, Bags] = {}

Answer = list[tuple[HeadSpec, Weights, Said]]


def fit_over(
    address: str,
    study: Study,
    options: HeadOptions,
    seed: int,
    splits: Sequence[tuple[Index, Index]],
    tests: Sequence[Index],
    progress: Callable[[Progress], None] | None,
) -> tuple[list[Head], list[Said]]:
    """The heads of the splits, and what each said of its test cases, from a Ray cluster.

    Each machine opens the store by itself and maps the flat copy, which it makes once where it is not on a disk that
    all share. Raises what `fit_many` and ``fanout.each`` raise, StoreError where a machine does not see the same store.
    """
    row = head_row(options.head)
    parts = [
        Part(tuple(splits[at : at + row.together]), tuple(tests[at : at + row.together]))
        for at in range(0, len(splits), row.together)
    ]
    asked = Asked(
        str(study.store.layout.root),
        study.record.recipe.key,
        study.cohort.cases,
        tuple(study.bags.tiles(case) for case in range(len(study.bags))),
        study.target,
        options,
        seed,
    )
    wants_gpu = row.needs_torch and options.device != "cpu"
    needs = Needs(gpus=None if wants_gpu and options.device == "auto" else int(wants_gpu))

    def moved(done: int, count: int) -> None:
        if progress:
            progress(Progress(min(done * row.together, len(splits)) - 1, len(splits), None))

    answers = each(fit_part, parts, shared=asked, address=address, needs=needs, progress=moved)
    said = [one for answer in answers for one in answer]
    return [build_head(spec, weights) for spec, weights, _ in said], [each for _, _, each in said]


def fit_part(asked: Asked, part: Part) -> Answer:
    """What a worker does: fit, and ask of the test cases."""
    found = _bags(asked)
    heads = fit_many(asked.options, found, asked.target, part.splits, asked.seed)
    return [
        (head.spec, head.weights(), ask(head, found, test))
        for head, test in zip(heads, part.tests, strict=True)
    ]


def _bags(asked: Asked) -> Bags:
    if asked.name not in _opened:
        _opened.clear()
        where = (
            f"{socket.gethostname()} does not see the store at {asked.store} as the machine that asked does"
        )
        try:
            found = bags(Store.open(asked.store).flat(asked.recipe), asked.cases)
        except NotAStore as error:
            raise StoreError(
                f"{where}: keep it on a disk that all machines of the cluster share, or on object storage"
            ) from error
        if tuple(found.tiles(case) for case in range(len(found))) != asked.tiles:
            raise StoreError(f"{where}: slides were replaced meanwhile, or it is another one; start again")
        _opened[asked.name] = found
    return _opened[asked.name]
