"""Whether matched tiles of two slides lie as one piece of tissue would: one turn, flip and shift for many of them.

Method: similarity transforms are drawn from the matches (RANSAC, Fischler & Bolles, Communications of the ACM 1981),
the best are fitted again to what they explain (Umeyama, IEEE PAMI 1991), and one is believed by how rarely chance
would explain as many: the number of false alarms of a-contrario matching (Moisan & Stival, IJCV 2004). Two kinds of
chance are allowed for, and the likelier one counts: matches that fall anywhere on the other slide, and matches that
fall anywhere in the right region of it, as tumour does on tumour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom

F64 = NDArray[np.float64]

#: A transform may stretch by so much: pixel sizes stated by scanners are off by less.
STRETCH = 1.12
#: How many times the matches of its rival a transform must explain.
CLEAR = 1.75
#: Transforms that put tiles farther apart than this, in units of the reach, are different ones.
_DIFFERENT = 3.0
#: Side of the region around the expected place, in units of the reach.
_REGION = 4.0
#: Pairs of matches drawn, for turned and for flipped tissue each.
_DRAWS = 400
#: Transforms fitted again.
_BEST = 8
#: Matches judged at most.
_MATCHES = 600
#: A fit through two points explains these two by itself.
_FREE = 2
_MIRROR = np.diag([-1.0, 1.0])
_QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])
_DIHEDRAL = [np.linalg.matrix_power(_QUARTER, i) @ flip for flip in (np.eye(2), _MIRROR) for i in range(4)]


@dataclass(frozen=True, slots=True, eq=False)
class Placing:
    """``matrix`` (2, 2) and ``shift`` (2,) take a place on one slide to the other, both in µm: ``matrix @ p + shift``.

    ``inliers`` (M,) bool, the matches within reach of where it puts them, each tile once; ``log10_nfa`` log10 of how
    many transforms as good chance would give, among all that were tried on this pair: −3 is one in a thousand pairs.
    ``rival`` how many matches the best quite different transform explains: what slides that only look alike reach, as
    biopsies of one outline do, whose edges match edges.
    """

    matrix: F64
    shift: F64
    inliers: NDArray[np.bool_]
    log10_nfa: float
    rival: int = 0

    @property
    def clear(self) -> bool:
        """Whether it explains far more than its rival. Measured: 2 and more on copies, up to 1.5 on look-alikes."""
        return bool(self.inliers.sum() >= CLEAR * self.rival)

    @property
    def turn(self) -> float:
        """Degrees, −180 to 180; of flipped tissue the turn after the flip."""
        flip = _MIRROR if self.flipped else np.eye(2)
        turned = self.matrix @ flip
        return float(np.degrees(np.arctan2(turned[1, 0], turned[0, 0])))

    @property
    def flipped(self) -> bool:
        """Whether it is a mirror image."""
        return bool(np.linalg.det(self.matrix) < 0)

    def carry(self, places: F64) -> F64:
        """(N, 2) places on the one slide as places on the other, µm."""
        moved: F64 = places @ self.matrix.T + self.shift
        return moved


@dataclass(frozen=True, slots=True, eq=False)
class _Chance:
    """What random matches would do: the share of the other slide's tiles within reach of one, and of those near it."""

    anywhere: float
    nearby: float


def place(from_um: F64, to_um: F64, other_um: F64, reach_um: float, seed: int = 0) -> Placing | None:
    """The transform that explains most matches, or None where there are too few to say.

    ``from_um`` and ``to_um`` (M, 2) float64, middles of matched tiles, best matches first; ``other_um`` (N, 2) the
    middles of all tiles of the other slide; ``reach_um`` how far a match may lie from its place: as far as two grids
    of tiles over the same tissue are apart.
    """
    found = min(len(from_um), _MATCHES)
    if found <= _FREE + 1:
        return None
    a, b = from_um[:found], to_um[:found]
    ids = _numbers(a), _numbers(b)
    chance = _chance(other_um, reach_um)
    matrices, shifts, counts = _tried(a, b, reach_um, np.random.default_rng(seed))
    tries = len(matrices)
    best: Placing | None = None
    for number in np.argsort(-counts, kind="stable")[:_BEST]:
        one = _settled(matrices[number], shifts[number], (a, b, ids), (reach_um, chance, tries))
        if one is not None and (best is None or one.log10_nfa < best.log10_nfa):
            best = one
    if best is None:
        return None
    apart = np.einsum("hij,nj->hni", matrices, a) + shifts[:, None] - best.carry(a)
    different = np.median(np.einsum("hni,hni->hn", apart, apart), axis=1) > (_DIFFERENT * reach_um) ** 2
    rival = 0
    for number in np.flatnonzero(different)[np.argsort(-counts[different], kind="stable")][:_BEST]:
        away = np.linalg.norm(a @ matrices[number].T + shifts[number] - b, axis=1)
        rival = max(rival, int(_once(away <= reach_um, away, ids).sum()))
    inliers = np.zeros(len(from_um), bool)
    inliers[:found] = best.inliers
    return Placing(best.matrix, best.shift, inliers, best.log10_nfa, rival)


def _settled(
    matrix: F64,
    shift: F64,
    matches: tuple[F64, F64, tuple[NDArray[np.int64], NDArray[np.int64]]],
    judge: tuple[float, _Chance, int],
) -> Placing | None:
    """The transform after fitting it a few times to what it explains."""
    (a, b, ids), (reach, chance, tries) = matches, judge
    best: Placing | None = None
    for _ in range(4):
        away = np.linalg.norm(a @ matrix.T + shift - b, axis=1)
        inliers = _once(away <= reach, away, ids)
        if inliers.sum() <= _FREE:
            break
        near = _once(away <= _REGION * reach, away, ids)
        score = _log10_nfa(int(inliers.sum()), int(near.sum()), len(a), chance, tries)
        if best is None or score < best.log10_nfa:
            best = Placing(matrix, shift, inliers, score)
        fitted = umeyama(a[inliers], b[inliers], flip=bool(np.linalg.det(matrix) < 0))
        if fitted is None:
            break
        matrix, shift = fitted
    return best


def _log10_nfa(explained: int, near: int, matches: int, chance: _Chance, tries: int) -> float:
    anywhere = binom.logsf(explained - _FREE - 1, matches - _FREE, chance.anywhere)
    nearby = binom.logsf(explained - _FREE - 1, max(near, explained) - _FREE, chance.nearby)
    # Beyond the smallest float the logarithm is −inf: certain is certain.
    return float(max(-300.0, (max(anywhere, nearby) + np.log(tries)) / np.log(10)))


def _chance(other_um: F64, reach: float) -> _Chance:
    tree = cKDTree(other_um)
    close = tree.query_ball_point(other_um, reach, return_length=True).astype(np.float64)
    region = tree.query_ball_point(other_um, _REGION * reach, return_length=True).astype(np.float64)
    # Where little lies around, little can be missed: then the region proves nothing, and its share is near 1.
    return _Chance(float(close.mean() / len(other_um)), float((close / region).mean()))


def _tried(a: F64, b: F64, reach: float, rng: np.random.Generator) -> tuple[F64, F64, NDArray[np.int64]]:
    """Transforms (H, 2, 2), (H, 2) and how many matches each explains (H,).

    Quarter turns and flips through each match, and free turns and flips through two matches.
    """
    matrices, shifts, counts = [], [], []
    for matrix in _DIHEDRAL:
        shift = b - a @ matrix.T
        matrices.append(np.broadcast_to(matrix, (len(a), 2, 2)))
        shifts.append(shift)
        # One shift explains the matches whose own shifts lie within reach of it.
        counts.append(cKDTree(shift).query_ball_point(shift, reach, return_length=True))
    for flip in (np.eye(2), _MIRROR):
        matrix, shift = _through_two(a, b, reach, flip, rng)
        away = np.einsum("hij,nj->hni", matrix, a) + shift[:, None] - b
        matrices.append(matrix)
        shifts.append(shift)
        counts.append((np.einsum("hni,hni->hn", away, away) <= reach**2).sum(axis=1))
    return np.concatenate(matrices), np.concatenate(shifts), np.concatenate(counts)


def _through_two(a: F64, b: F64, reach: float, flip: F64, rng: np.random.Generator) -> tuple[F64, F64]:
    """Turns without stretch through pairs of matches that lie about as far apart on both slides."""
    first, second = rng.integers(0, len(a), (2, 20 * _DRAWS))
    da, db = (a[second] - a[first]) @ flip, b[second] - b[first]
    la, lb = np.linalg.norm(da, axis=1), np.linalg.norm(db, axis=1)
    # Two tiles close by say little about a turn.
    kept = np.flatnonzero((la > 4 * reach) & (np.abs(la - lb) < reach + (STRETCH - 1) * la / 2))[:_DRAWS]
    turn = np.arctan2(db[kept, 1], db[kept, 0]) - np.arctan2(da[kept, 1], da[kept, 0])
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2) @ flip
    middle_a, middle_b = (a[first[kept]] + a[second[kept]]) / 2, (b[first[kept]] + b[second[kept]]) / 2
    return matrix, middle_b - np.einsum("nij,nj->ni", matrix, middle_a)


def umeyama(a: F64, b: F64, *, flip: bool) -> tuple[F64, F64] | None:
    """The similarity, mirrored or not, that takes ``a`` (n, 2) to ``b`` (n, 2) with the least squared error.

    Stretched by at most `STRETCH`; None where the points do not span a line.
    """
    middle_a, middle_b = a.mean(axis=0), b.mean(axis=0)
    u, s, vt = np.linalg.svd((b - middle_b).T @ (a - middle_a))
    spread = float(((a - middle_a) ** 2).sum())
    if spread <= 0 or s[0] <= 0:
        return None
    sign = np.array([1.0, np.sign(np.linalg.det(u @ vt)) * (-1.0 if flip else 1.0)])
    scale = float(np.clip((s * sign).sum() / spread, 1 / STRETCH, STRETCH))
    matrix: F64 = scale * (u * sign) @ vt
    return matrix, middle_b - matrix @ middle_a


def _numbers(places: F64) -> NDArray[np.int64]:
    """(M,) which tile each place is."""
    _, number = np.unique(places.round(3), axis=0, return_inverse=True)
    return np.asarray(number, np.int64).ravel()


def _once(
    kept: NDArray[np.bool_], away: F64, ids: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.bool_]:
    """``kept`` with each tile of either slide once, the nearest to its place first: a tile that is like many others
    would else be many witnesses.
    """
    out = np.zeros(len(kept), bool)
    seen_a: set[int] = set()
    seen_b: set[int] = set()
    for i in np.flatnonzero(kept)[np.argsort(away[kept], kind="stable")].tolist():
        one, other = int(ids[0][i]), int(ids[1][i])
        if one not in seen_a and other not in seen_b:
            seen_a.add(one)
            seen_b.add(other)
            out[i] = True
    return out
