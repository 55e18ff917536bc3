"""The head that needs no torch: a linear model on each case's mean embedding.

Classification is L2-regularised multinomial logistic regression, survival Cox regression with a ridge. Vectors are
standardised by the training cases of each split. All folds and penalties of ten splits are solved as one batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beph_store.errors import HeadError
from beph_store.halves import widened
from beph_store.heads.head import Head, HeadSpec, Weights, check_shapes
from beph_store.heads.objectives import CoxLink, Link, Ridge, linear_logits, softmax_link
from beph_store.heads.options import HeadOptions
from beph_store.heads.survival import breslow, cox_survival, event_times
from beph_store.heads.table import head_row
from beph_store.records import Bags, ClassTarget, Prediction, SurvivalTarget, Target

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_CHUNK = 8192  # tiles that are widened to float32 at once
_FOLDS = 5  # of the inner grid, where a split has no validation cases


class LinearHead(Head):
    """A linear model of the mean embedding; the logit of a bag is the mean of its tiles' logits."""

    def __init__(self, spec: HeadSpec, weights: Weights) -> None:
        self.spec = spec
        classify = spec.task == "classify"
        columns = len(spec.classes) if classify else 1
        shapes: dict[str, tuple[int, ...]] = {"coef": (columns, spec.dim), "intercept": (columns,)}
        if not classify:
            shapes["baseline"] = (len(spec.times),)
        check_shapes(weights, shapes)
        self._weights = weights

    def weights(self) -> Weights:
        """``coef`` (C, D) and ``intercept`` (C,) on raw embeddings, ``baseline`` (M,) cumulative hazard; float64."""
        return dict(self._weights)

    def _predict(self, bag: NDArray[Any]) -> Prediction:
        coef, intercept = self._weights["coef"], self._weights["intercept"]
        logits = coef @ mean_embedding(bag) + intercept
        narrow = coef.T.astype(np.float32)
        tiles = np.concatenate([widened(bag[at : at + _CHUNK]) @ narrow for at in range(0, len(bag), _CHUNK)])
        scores = tiles + intercept.astype(np.float32)
        if self.spec.task == "classify":
            exp = np.exp(logits - logits.max())
            return Prediction(exp / exp.sum(), tile_scores=scores)
        alive = cox_survival(self._weights["baseline"], float(logits[0]))
        return Prediction(logits, survival=alive, tile_scores=scores)


def build(spec: HeadSpec, weights: Weights) -> Head:
    """The head from its record and arrays."""
    return LinearHead(spec, weights)


def mean_embedding(bag: NDArray[Any]) -> Float:
    """(D,) float64 mean of a bag (N, D)."""
    total = np.zeros(bag.shape[1])
    for at in range(0, len(bag), _CHUNK):
        total += widened(bag[at : at + _CHUNK]).sum(axis=0, dtype=np.float32)
    return total / len(bag)


def fit_many(
    options: HeadOptions,
    bags: Bags,
    target: Target,
    splits: Sequence[tuple[Index, Index]],
    seed: int,
    on_split: Callable[[int, None], None],
) -> list[Head]:
    """One head a (train, val) split. The penalty is chosen on ``val``, or where that is empty by folds of ``train``."""
    pooled = _Pooled(bags)
    together, heads = head_row("linear").together, list[Head]()
    for start in range(0, len(splits), together):
        heads += _solve(options, pooled, target, splits[start : start + together], seed)
        for number in range(start, len(heads)):
            on_split(number, None)
    return heads


def _solve(
    options: HeadOptions, pooled: _Pooled, target: Target, splits: Sequence[tuple[Index, Index]], seed: int
) -> list[Head]:
    """Heads of splits that are solved as one: memory is theirs alone, however many there are in all."""
    cases = np.unique(np.concatenate([np.concatenate(pair) for pair in splits])).astype(np.int64)
    if isinstance(target, SurvivalTarget):  # risk sets want the cases in order of time
        cases = cases[np.argsort(target.time_days[cases], kind="stable")]
    place = np.full(len(pooled.bags), -1, np.int64)
    place[cases] = np.arange(len(cases))
    problem = _Problem(options, pooled.of(cases), _take(target, cases), seed)
    heads: list[Head | None] = [None] * len(splits)
    # Splits with and without validation cases have different folds; each kind is one batch.
    for kind in (True, False):
        mine = [number for number, (_, val) in enumerate(splits) if (len(val) > 0) == kind]
        if mine:
            pairs = [(place[splits[number][0]], place[splits[number][1]]) for number in mine]
            for number, head in zip(mine, problem.solve(pairs), strict=True):
                heads[number] = head
    return [head for head in heads if head is not None]


class _Pooled:
    """Mean embeddings of cases; each bag is read once."""

    def __init__(self, bags: Bags) -> None:
        self.bags = bags
        self._known: dict[int, Float] = {}

    def of(self, cases: Index) -> Float:
        """(n, D) of those cases; HeadError where one holds vectors that are not finite."""
        for case in cases.tolist():
            if case not in self._known:
                self._known[case] = mean_embedding(self.bags.bag(case))
        vectors = np.stack([self._known[case] for case in cases.tolist()])
        wrong = ~np.isfinite(vectors).all(axis=1)
        if wrong.any():
            names = ", ".join(self.bags.case_ids[case] for case in cases[wrong][:5])
            raise HeadError(
                f"{int(wrong.sum())} cases hold vectors that are not finite: {names}; verify the store or leave them "
                "out"
            )
        return vectors


def _take(target: Target, cases: Index) -> Target:
    if isinstance(target, ClassTarget):
        return ClassTarget(target.classes, target.index[cases])
    return SurvivalTarget(target.event[cases], target.time_days[cases])


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Standardised training cases in their principal axes: z = (x - mean) / scale @ axes, power the mean square."""

    mean: Float
    scale: Float
    axes: Float
    power: Float


def principal(train: Float) -> Axes:
    """Axes of (n, D) training vectors, at most min(n, D): a ridge solution lies in their span, so nothing is lost."""
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(mean)), scale, 1.0)
    x = (train - mean) / scale
    short = len(x) < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if short else x.T @ x)
    keep = values > 1e-12 * max(float(values[-1]), 1e-300)
    values, vectors = values[keep], vectors[:, keep]
    axes = x.T @ (vectors / np.sqrt(values)) if short else vectors
    return Axes(mean, scale, axes, values / len(x))


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """Mean embeddings (n, D) of the cases and their target, in the same order (by time for survival)."""

    options: HeadOptions
    vectors: Float
    target: Target
    seed: int

    def solve(self, pairs: Sequence[tuple[Index, Index]]) -> list[Head]:
        """Heads of splits that all have, or all lack, validation cases."""
        axes = [principal(self.vectors[train]) for train, _ in pairs]
        rank = max(len(one.power) for one in axes)
        design = np.zeros((len(pairs), len(self.vectors), rank))
        power = np.zeros((len(pairs), rank))
        for number, one in enumerate(axes):
            design[number, :, : len(one.power)] = (self.vectors - one.mean) / one.scale @ one.axes
            power[number, : len(one.power)] = one.power
        folds = [_folds(train, val, self._strata(), self.seed) for train, val in pairs]
        fitted, held = self._masks(folds)
        penalties = np.array(self.options.penalties)
        ridge = Ridge(
            design,
            power,
            np.tile(penalties, fitted.shape[2]),
            self._link(np.repeat(fitted, len(penalties), axis=2)),
            self._columns,
            isinstance(self.target, ClassTarget),
        )
        w, free, converged = ridge.solve()
        logits = linear_logits(design, w) + free[:, :, None]
        losses = self._held_out(logits, fitted, held)
        # A penalty so small that the likelihood has no clear maximum in some fold cannot be judged: it is not chosen.
        losses[~converged.reshape(len(pairs), -1, len(penalties)).all(axis=1)] = np.inf
        if np.isinf(losses).all(axis=1).any():
            raise HeadError("the linear head converges with none of its penalties: give larger ones")
        chosen = losses.argmin(axis=1)
        return [
            self._head(pairs[f][0], axes[f], w[f, :, :, m], free[f, :, m], losses[f])
            for f, m in enumerate(chosen.tolist())
        ]

    @property
    def _columns(self) -> int:
        if isinstance(self.target, SurvivalTarget) or len(self.target.classes) == 2:
            return 1
        return len(self.target.classes)

    def _strata(self) -> Index:
        if isinstance(self.target, ClassTarget):
            return self.target.index
        return self.target.event.astype(np.int64)

    def _masks(self, folds: Sequence[Sequence[tuple[Index, Index]]]) -> tuple[Float, Float]:
        """Cases fitted and held out (F, n, folds); the first fold is the split's own training set."""
        most = max(len(one) for one in folds)
        fitted, held = np.zeros((2, len(folds), len(self.vectors), most))
        for f, one in enumerate(folds):
            for number in range(most):
                # A split with fewer inner folds than another repeats its first, which holds out nothing new.
                fit, out = one[number] if number < len(one) else (one[0][0], one[0][1][:0])
                fitted[f, fit, number], held[f, out, number] = 1.0, 1.0
        return fitted, held

    def _link(self, mask: Float) -> Link:
        if isinstance(self.target, SurvivalTarget):
            return CoxLink(self.target.event, self.target.time_days, mask)
        return softmax_link(self.target.index, self._columns, mask * self._case_weights(mask))

    def _case_weights(self, mask: Float) -> Float:
        """(F, n, M), one; or with ``balanced`` such that each class weighs the same among the masked cases."""
        if not self.options.balanced or not isinstance(self.target, ClassTarget):
            return np.ones_like(mask)
        hot = np.eye(len(self.target.classes))[self.target.index]
        counts = np.einsum("fnm,nk->fmk", mask, hot)
        return np.asarray(np.einsum("nk,fmk->fnm", hot, 1 / np.maximum(counts, 1.0)))

    def _held_out(self, logits: Float, fitted: Float, held: Float) -> Float:
        """Loss (F, penalties) of the held-out cases, all folds together.

        For survival the cross-validated partial likelihood of Verweij & van Houwelingen (1993): that of fitted and
        held-out cases less that of the fitted, which is defined even where no held-out event is seen.
        """
        many = len(self.options.penalties)
        fitted, held = np.repeat(fitted, many, axis=2), np.repeat(held, many, axis=2)
        if isinstance(self.target, SurvivalTarget):
            event, time = self.target.event, self.target.time_days
            risk = logits[:, 0]
            whole = CoxLink(event, time, fitted + held).total(risk)[0]
            loss = whole - CoxLink(event, time, fitted).total(risk)[0]
        else:
            weights = np.where(held.any(axis=1, keepdims=True), held, 1.0)
            loss = softmax_link(self.target.index, self._columns, weights)(logits)[0] * held.sum(axis=1)
        summed = loss.reshape(len(loss), -1, many).sum(axis=1)
        return np.asarray(summed / np.maximum(held[:, :, ::many].sum(axis=(1, 2)), 1.0)[:, None])

    def _head(self, train: Index, axes: Axes, w: Float, free: Float, losses: Float) -> Head:
        coef = w[:, : len(axes.power)] @ axes.axes.T / axes.scale
        intercept = free - coef @ axes.mean
        weights: Weights = {}
        classes: tuple[str, ...] = ()
        times: tuple[float, ...] = ()
        if isinstance(self.target, ClassTarget):
            classes = self.target.classes
            if (
                len(classes) == 2
            ):  # half of the one logit to each side, so that both classes have their tile scores
                coef, intercept = (
                    np.concatenate([-coef, coef]) / 2,
                    np.concatenate([-intercept, intercept]) / 2,
                )
        else:
            # As risk sets in training: the baseline belongs to the mean training case.
            event, time = self.target.event[train], self.target.time_days[train]
            at = event_times(event, time)
            times = tuple(at.tolist())
            weights["baseline"] = breslow(self.vectors[train] @ coef[0] + intercept[0], event, time, at)
        weights |= {"coef": np.ascontiguousarray(coef), "intercept": intercept}
        grid = tuple(
            pair for pair in zip(self.options.penalties, losses.tolist(), strict=True) if pair[1] < np.inf
        )
        spec = HeadSpec(
            name="linear",
            task="classify" if classes else "survive",
            classes=classes,
            dim=self.vectors.shape[1],
            times=times,
            options=dataclasses.replace(self.options, device="cpu", precision="fp32"),
            train_cases=len(train),
            seed=self.seed,
            grid=grid,
            penalty=self.options.penalties[int(losses.argmin())],
        )
        return LinearHead(spec, weights)


def _folds(train: Index, val: Index, strata: Index, seed: int) -> list[tuple[Index, Index]]:
    """(fitted, held out) of the problems of a split: itself, and without validation cases up to 5 stratified folds.

    A stratum with a single case is fitted in every fold and never held out.
    """
    if len(val):
        return [(train, val)]
    rng = np.random.default_rng(seed)
    fold = np.full(len(train), -1)
    turn = 0
    for stratum in np.unique(strata[train]):
        members = rng.permutation(np.flatnonzero(strata[train] == stratum))
        if len(members) > 1:
            fold[members] = (turn + np.arange(len(members))) % _FOLDS
            turn += len(members)  # goes on where the last stratum ended, so that folds are equally long
    inner = [(train[fold != number], train[fold == number]) for number in range(_FOLDS)]
    return [(train, train[:0]), *((fit, out) for fit, out in inner if len(out))]
