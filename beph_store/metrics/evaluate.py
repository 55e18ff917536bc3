"""All metrics of a prediction with their intervals, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from beph_store.errors import CohortError, UsageError
from beph_store.metrics import classification as c
from beph_store.metrics import survival as s
from beph_store.metrics.bootstrap import Estimate, draws, estimate, over_repeats, repeats, with_point
from beph_store.metrics.checks import Floats, Ints, check_grid, check_outcomes, check_truth
from beph_store.metrics.ranking import area, average_precision, split

#: Of these, lower is better.
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "ibs"})


def evaluate_classes(
    probabilities: ArrayLike,
    truth: ArrayLike,
    classes: Sequence[str],
    b: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """Every classification metric, draws stratified by class.

    ``probabilities`` (n, K), or (R, n, K) of R repeats with NaN where a repeat does not predict a case; ``truth`` (n,)
    index into ``classes`` (K). Names: accuracy, balanced_accuracy, auroc, auprc, f1_macro, f1_weighted,
    kappa_quadratic, log_loss, brier, ece; recall[c] and f1[c] of each class; with K > 2, auroc[c] and auprc[c].
    """
    index = np.asarray(truth)
    weights = with_point(draws(np.size(index), index, b, seed))
    return summary(class_draws(probabilities, index, classes, weights), level)


def evaluate_survival(
    log_hazard: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    survival: ArrayLike | None = None,
    times: ArrayLike | None = None,
    b: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """cindex_harrell, cindex_uno, cindex_uno_truncated, auc_t and, with ``survival``, ibs; 95 % intervals, draws
    stratified by event.

    ``log_hazard`` (n,) higher = worse, or (R, n) of R repeats with NaN where a repeat does not predict a case;
    ``survival`` (n, M) or (R, n, M), the chance to be event-free at ``times`` (M,). ``times`` (by default the deciles
    of the event times) are the window of the last three, and the last of them is the truncated C's τ; those from the
    end of follow-up on are left out.
    """
    seen, ends = check_outcomes(event, time)
    weights = with_point(draws(len(seen), seen, b, seed))
    return summary(survival_draws(log_hazard, seen, ends, weights, survival, times))


def summary(values: Mapping[str, Floats], level: float = 0.95) -> dict[str, Estimate]:
    """An estimate for each metric (1 + B,)."""
    return {name: estimate(each, level) for name, each in values.items()}


def class_draws(
    probabilities: ArrayLike, truth: ArrayLike, classes: Sequence[str], weights: NDArray[np.int16]
) -> dict[str, Floats]:
    """(B,) of each metric of ``evaluate_classes`` for draws ``weights`` (B, n)."""
    index = check_truth(truth, np.size(truth), len(classes))
    stack, predicted = repeats(probabilities, len(index), dims=2)
    if stack.shape[2] != len(classes):
        raise UsageError(
            f"probabilities of {stack.shape[2]} classes, {len(classes)} are named: give one each"
        )
    return over_repeats(
        lambda repeat, cases, rows: _of_classes(stack[repeat, cases], index[cases], classes, rows),
        predicted,
        weights,
    )


def survival_draws(
    log_hazard: ArrayLike,
    event: ArrayLike,
    time: ArrayLike,
    weights: NDArray[np.int16],
    survival: ArrayLike | None = None,
    times: ArrayLike | None = None,
) -> dict[str, Floats]:
    """(B,) of each metric of ``evaluate_survival`` for draws ``weights`` (B, n)."""
    seen, ends = check_outcomes(event, time)
    risk, predicted = repeats(log_hazard, len(seen), dims=1)
    grid = default_times(seen, ends) if times is None else check_grid(times)
    inside = grid < ends.max()
    if not inside.any():
        raise UsageError(f"follow-up ends at {ends.max():g}, before all times: give earlier ones")
    chances = None
    if survival is not None:
        if times is None:
            raise UsageError("survival is given without the times of its columns: give times")
        chances, known = repeats(survival, len(seen), dims=2)
        if chances.shape[2] != len(grid) or known.shape != predicted.shape or (known != predicted).any():
            raise UsageError(
                f"survival of shape {chances.shape}: give the cases of log_hazard, {len(grid)} times"
            )
        chances = chances[:, :, inside]

    def metrics(repeat: int, cases: NDArray[np.intp], rows: Floats) -> dict[str, Floats]:
        outcome = seen[cases], ends[cases]
        compared = s.pairs(risk[repeat, cases], *outcome, rows)
        followed = s.Followed.of(*outcome, rows)
        out = {
            "cindex_harrell": s.harrell_of(compared),
            "cindex_uno": s.uno_of(compared, followed),
            "cindex_uno_truncated": s.uno_of(compared, followed, float(grid[inside][-1])),
            "auc_t": s.auc_t_of(risk[repeat, cases], *outcome, grid[inside], followed)[0],
        }
        if chances is not None:
            scores = s.brier_t_of(chances[repeat, cases], grid[inside], *outcome, followed)
            out["ibs"] = s.integrate(scores, grid[inside])
        return out

    return over_repeats(metrics, predicted, weights)


def default_times(event: ArrayLike, time: ArrayLike) -> Floats:
    """(≤ 9,) the deciles of the times of events, without the last time of all."""
    seen, ends = check_outcomes(event, time)
    if not seen.any():
        raise CohortError("no event was seen: survival metrics need some; check which value means an event")
    grid = np.unique(np.quantile(ends[seen], np.arange(1, 10) / 10))
    if grid[0] >= ends.max():
        raise CohortError("all times are equal: survival metrics need cases that outlive others")
    return np.asarray(grid[grid < ends.max()])


def _of_classes(
    probabilities: Floats, truth: Ints, classes: Sequence[str], rows: Floats
) -> dict[str, Floats]:
    table = c.confusions(probabilities, truth, rows)
    out = {
        "accuracy": c.accuracy_of(table),
        "balanced_accuracy": c.balanced_accuracy_of(table),
        "f1_macro": c.f1_macro_of(table),
        "f1_weighted": c.f1_weighted_of(table),
        "kappa_quadratic": c.kappa_of(table),
        "log_loss": c.log_loss(probabilities, truth, rows),
        "brier": c.brier(probabilities, truth, rows),
        "ece": c.ece(probabilities, truth, rows),
    }
    out |= _ranked(probabilities, truth, classes, rows)
    recall, f1 = c.recall_of(table), c.f1_of(table)
    for k, name in enumerate(classes):
        out[f"recall[{name}]"], out[f"f1[{name}]"] = recall[:, k], f1[:, k]
    return out


def _ranked(probabilities: Floats, truth: Ints, classes: Sequence[str], rows: Floats) -> dict[str, Floats]:
    """AUROC and average precision together: sorting and gathering is most of the work."""
    if len(classes) == 2:
        sides = split(probabilities[:, 1], truth == 1, rows)
        return {"auroc": area(*sides), "auprc": average_precision(*sides)}
    out: dict[str, Floats] = {}
    for k, name in enumerate(classes):
        sides = split(probabilities[:, k], truth == k, rows)
        out[f"auroc[{name}]"], out[f"auprc[{name}]"] = area(*sides), average_precision(*sides)
    present = [classes[k] for k in np.unique(truth)]
    for curve in ("auroc", "auprc"):
        out[curve] = np.mean([out[f"{curve}[{name}]"] for name in present], axis=0)
    return out
