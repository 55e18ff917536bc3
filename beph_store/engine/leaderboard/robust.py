"""Does an encoder see the same tissue when only the stain or the compression differs?

A sample of the tiles is perturbed, the same way for every encoder, and embedded again. Told are the balanced accuracy
that the linear probe loses (learned from clean tiles of other cases, asked of clean and of perturbed ones), the share
of tiles whose nearest neighbour (clean, another case) is of the same class as before, and the centred cosine between
a tile's two embeddings.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beph_store.cohort.grouped import tile_folds
from beph_store.engine.embed import fit_tile
from beph_store.engine.leaderboard.comparison import Machine, Source, keep, load
from beph_store.engine.leaderboard.measure import Figures, mean_of, nearest
from beph_store.engine.leaderboard.perturb import Perturbation, Strength, perturbations
from beph_store.engine.probe.draws import group_rows, mean_draws
from beph_store.engine.probe.run import Fold, ProbeOptions
from beph_store.engine.probe.tiles import LabelledTiles, ProbeTiles
from beph_store.heads import tilewise
from beph_store.metrics.tiles import tile_draws

F64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Index = NDArray[np.int64]

#: Tiles that are perturbed, at most.
MAX_SAMPLE = 500


def sample(tiles: LabelledTiles, most: int, seed: int) -> Index:
    """At most ``most`` rows, rising: as many of every class (and group) as there are, then of every case in turn."""
    stratum = tiles.truth * len(tiles.groups) + tiles.group
    if len(tiles) <= most:
        return np.arange(len(tiles), dtype=np.int64)
    rng = np.random.default_rng((seed, 0xB0B))
    luck = rng.random(len(tiles))
    turn = _rank(np.stack([stratum, tiles.case]), luck)  # the how-manieth of its case in its stratum
    place = _rank(stratum[None], turn + luck / 2)  # cases in turn within a stratum
    order = np.lexsort((luck, place))  # strata in turn
    return np.sort(order[:most]).astype(np.int64)


def perturbed(
    source: Source,
    machine: Machine,
    rows: Index,
    strength: Strength,
    seed: int,
    step: Callable[[int], None],
) -> dict[str, Float32]:
    """(m, D) of each perturbation of the tiles ``rows`` (m,)."""
    kinds = perturbations(strength)
    images = _images(source, rows, kinds, seed)
    parts: dict[str, list[Float32]] = {kind.name: [] for kind in kinds}
    for batch in _batches(images, machine.batch):
        for number, kind in enumerate(kinds):
            parts[kind.name].append(machine.encode(np.stack([tiles[number] for tiles in batch])))
        step(len(batch))
    return {name: np.concatenate(listed).astype(np.float32) for name, listed in parts.items()}


def kept_or_made(
    file: Path,
    source: Source,
    rows: Index,
    strength: Strength,
    seed: int,
    make: Callable[[], dict[str, Float32]],
) -> dict[str, Float32]:
    """The vectors of an earlier run in ``file`` where they are of the same tiles, encoder and perturbations."""
    named = [source.identity, source.precision, rows.tolist(), asdict(strength), seed, 1]
    key = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
    found = load(file, key)
    if found is None:
        found = make()
        keep(file, key, found)
    return found


def figures(
    tiles: ProbeTiles,
    rows: Index,
    changed: Mapping[str, Float32],
    folds: Sequence[Fold],
    options: ProbeOptions,
    weights: NDArray[np.int16],
) -> Figures:
    """Of each perturbation: ``.loss`` of balanced accuracy, ``.same_class`` and ``.cosine``, (1 + B,) each."""
    clean = tiles.vectors[rows]
    said = _said(tiles, rows, {"": clean, **changed}, folds, options)
    before = _accuracy(tiles, rows, said[""], weights)
    was = _nearest_class(tiles, rows, clean)
    mean = clean.mean(axis=0)
    out: Figures = {}
    owner = tiles.case[rows]
    for name, vectors in changed.items():
        out[f"{name}.loss"] = before - _accuracy(tiles, rows, said[name], weights)
        known = was >= 0
        same = (_nearest_class(tiles, rows, vectors) == was)[known].astype(np.float64)
        out[f"{name}.same_class"] = mean_of(same, owner[known], weights)
        out[f"{name}.cosine"] = mean_of(_cosine(clean - mean, vectors - mean), owner, weights)
    return out


def _said(
    tiles: ProbeTiles,
    rows: Index,
    vectors: Mapping[str, Float32],
    folds: Sequence[Fold],
    options: ProbeOptions,
) -> dict[str, F64]:
    """(m, K) of the sampled tiles in each state, by the probe that learned from clean tiles of the other folds."""
    division = tile_folds(tiles.truth, tiles.case, tiles.classes, options.folds, seed=(options.seed, 0))
    fold = division.fold[tiles.case]
    said = {name: np.full((len(rows), len(tiles.classes)), np.nan) for name in vectors}
    for one in folds:
        group = tiles.group == tiles.groups.index(one.group)
        train = np.flatnonzero(group & (fold != one.fold))
        ask = np.flatnonzero((group & (fold == one.fold))[rows])
        if not len(ask):
            continue
        learned = tilewise.fit_linear(
            tiles.vectors[train], tiles.truth[train], len(tiles.classes), None, (one.setting,)
        )
        for name, each in vectors.items():
            said[name][ask] = learned.probabilities(each[ask])
    return said


def _accuracy(tiles: ProbeTiles, rows: Index, said: F64, weights: NDArray[np.int16]) -> F64:
    parts = []
    for group in group_rows(tiles):
        mine = np.isin(rows, group)
        own = rows[mine]
        if not len(own):  # more groups than the sample has tiles
            continue
        parts.append(tile_draws(said[mine], tiles.truth[own], tiles.case[own], tiles.classes, weights))
    return mean_draws(parts)["balanced_accuracy"]


def _nearest_class(tiles: ProbeTiles, rows: Index, vectors: Float32) -> Index:
    """(m,) class of the nearest clean tile of another case in its group, -1 where there is none."""
    found = np.full(len(rows), -1, np.int64)
    for group in group_rows(tiles):
        mine = np.flatnonzero(np.isin(rows, group))
        if not len(mine):
            continue
        case = tiles.case[group]
        near = nearest(vectors[mine], tiles.vectors[group], tiles.case[rows[mine]], case, 1)[:, 0]
        found[mine] = np.where(near >= 0, tiles.truth[group][near], -1)
    return found


def _cosine(a: Float32, b: Float32) -> F64:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    length = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray(np.einsum("ij,ij->i", a64, b64) / np.maximum(length, np.finfo(np.float64).tiny))


def _images(
    source: Source, rows: Index, kinds: Sequence[Perturbation], seed: int
) -> Iterator[list[NDArray[np.uint8]]]:
    """Each tile's perturbed images, fitted for the encoder, made by other threads while it computes."""

    def one(row: int) -> list[NDArray[np.uint8]]:
        pixels = source.pixels(row)
        own = (seed, 0x57A1, row)
        fit = source.fit or "squeeze"
        return [fit_tile(kind.apply(pixels, own), source.tile_px, fit) for kind in kinds]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for at in range(0, len(rows), 64):  # bounded: a pool's map takes all that it is given
            yield from pool.map(one, rows[at : at + 64].tolist())


def _batches(images: Iterator[list[NDArray[np.uint8]]], size: int) -> Iterator[list[list[NDArray[np.uint8]]]]:
    batch: list[list[NDArray[np.uint8]]] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _rank(keys: NDArray[np.int64], within: F64) -> NDArray[np.int64]:
    """(n,) place of each column of ``keys`` (k, n) among the equal ones, by ``within`` (n,)."""
    _, number = np.unique(keys, axis=1, return_inverse=True)
    number = number.ravel()
    order = np.lexsort((within, number))
    sizes = np.bincount(number)
    rank = np.empty(len(number), np.int64)
    rank[order] = np.arange(len(number)) - (np.cumsum(sizes) - sizes)[number[order]]
    return rank
