"""``report.html``: what was trained on whom, how well it does on cases not seen, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from beph_store.cohort import count_reasons
from beph_store.engine.study import figures
from beph_store.engine.study.doubts import doubts
from beph_store.engine.study.evaluate import HEADLINES, Evaluation, Panel, panel
from beph_store.engine.study.page import Html, cards, folded, note, page, section, table, warning
from beph_store.engine.study.page import figures as pictures
from beph_store.engine.study.train import Training
from beph_store.engine.study.wording import TITLES, seen_by
from beph_store.metrics import (
    LOWER_IS_BETTER,
    Estimate,
    confusion_matrix,
    kaplan_meier,
    log_rank,
    pr_points,
    roc_points,
)
from beph_store.records import ClassTarget, SurvivalTarget


def warnings_of(training: Training, evaluation: Evaluation) -> list[str]:
    """What a reader of the figures has to know first."""
    study, options = training.study, training.options
    encoder = study.record.recipe.encoder
    found = []
    if options.shuffle_labels:
        found.append("The labels were shuffled: a control whose figures must sit at chance.")
    found += seen_by(encoder.name, study.case_ids)
    found += [f"Split: {leak.text}." for leak in training.leaks if leak.severity != "info"]
    return found + doubts(training.target, evaluation.metrics, HEADLINES[study.cohort.task])


def render(training: Training, evaluation: Evaluation) -> str:
    """The page, self-contained."""
    study, options = training.study, training.options
    encoder = study.record.recipe.encoder
    what = "Classification" if isinstance(training.target, ClassTarget) else "Survival"
    subtitle = (
        f"{options.head.head} head on {encoder.name} ({encoder.variant}), {_tiles(training)} · "
        f"{len(study.case_ids)} cases · {len(training.splits)} splits · seed {options.seed}"
    )
    warned = [warning(text) for text in warnings_of(training, evaluation)]
    parts = [
        *warned,
        _headline(evaluation, training),
        _curves(training),
        _folds(training, evaluation),
        _history(training),
        _flow(training),
        _recipe(training),
    ]
    return page(f"{what}: {' / '.join(_groups(training))}", subtitle, [part for part in parts if part])


def _headline(evaluation: Evaluation, training: Training) -> Html:
    names = [name for name in HEADLINES[training.study.cohort.task] if name in evaluation.metrics]
    shown = [(name, evaluation.metrics[name]) for name in names]
    others = [(name, one) for name, one in evaluation.metrics.items() if name not in names]
    return section(
        "On cases that the head had not seen",
        cards((_number(one.value), TITLES[name], f"95 % {_span(one)}") for name, one in shown[:4]),
        figures_of_folds(evaluation, names),
        folded("all metrics", _estimates([*shown, *others])),
        note(
            "The diamond is computed from all held-out cases together; its interval resamples cases (patients), "
            f"the same in every repeat. {_order(training)}docs/metrics.md defines each figure."
        ),
    )


def _order(training: Training) -> str:
    """What the order of the classes decides."""
    target = training.target
    if not isinstance(target, ClassTarget):
        return ""
    if len(target.classes) == 2:
        return f"The positive class is {target.classes[1]}, the second; --classes sets the order. "
    return (
        f"Quadratic kappa is for ordered classes and takes them as {' < '.join(target.classes)}; --classes sets the "
        "order. "
    )


def figures_of_folds(evaluation: Evaluation, names: Sequence[str]) -> Html:
    """The picture of fold values and estimates."""
    kept = [name for name in names if not np.isnan(evaluation.metrics[name].value)]
    values = [np.array([f[n] for f in evaluation.folds if f.get(n) is not None], float) for n in kept]
    spans = [(e.value, e.ci_low, e.ci_high) for e in (evaluation.metrics[name] for name in kept)]
    return pictures(figures.folds([TITLES[name] for name in kept], values, spans))


def _curves(training: Training) -> Html:
    shown = panel(training.held_out, training.target, training.held_out.rounds())
    if isinstance(training.target, ClassTarget):
        return section("Curves", _class_curves(shown, training.target))
    return section("Curves", *_survival_curves(shown, training.target))


def _class_curves(shown: Panel, target: ClassTarget) -> Html:
    """Of the mean over rounds of each case's probabilities."""
    said, truth = np.nanmean(shown.values, axis=0), target.index[shown.cases]
    drawn = [1] if len(target.classes) == 2 else [k for k in range(len(target.classes)) if (truth == k).any()]
    rocs, precisions = [], []
    for k in drawn:
        points, recalled = roc_points(said[:, k], truth == k), pr_points(said[:, k], truth == k)
        rocs.append(figures.Line(target.classes[k], points.false_positive, points.true_positive))
        precisions.append(figures.Line(target.classes[k], recalled.recall, recalled.precision))
    prevalence = [float((truth == k).mean()) for k in drawn]
    matrix = confusion_matrix(said, truth)
    return pictures(
        figures.roc(rocs),
        figures.precision_recall(precisions, prevalence),
        figures.confusion(matrix, target.classes),
    )


def _survival_curves(shown: Panel, target: SurvivalTarget) -> tuple[Html, ...]:
    """Two groups of equal size by predicted risk."""
    risk = np.nanmean(shown.values[..., 0], axis=0)
    event, time = target.event[shown.cases], target.time_days[shown.cases]
    high = risk > np.median(risk)
    if high.all() or not high.any():
        return (note("All predicted risks are equal: there are no groups to compare."),)
    test = log_rank(event, time, high)
    ticks = figures.round_ticks(float(np.quantile(time, 0.98)))
    groups = [
        _steps(name, event[member], time[member], ticks)
        for name, member in (("lower risk", ~high), ("higher risk", high))
    ]
    picture = figures.survival(groups, f"log-rank p = {test.p_value:.2g}", ticks)
    return pictures(picture), note("Groups are the two halves by the median of the predicted risk.")


def _steps(name: str, event: np.ndarray, time: np.ndarray, ticks: np.ndarray) -> figures.Steps:
    curve = kaplan_meier(event, time)
    return figures.Steps(
        f"{name} ({len(time)} cases, {int(event.sum())} events)",
        np.concatenate([[0.0], curve.times]),
        np.concatenate([[1.0], curve.survival]),
        np.sort(time[~event]),
        [int((time >= tick).sum()) for tick in ticks],
    )


def _folds(training: Training, evaluation: Evaluation) -> Html:
    names = [name for name in HEADLINES[training.study.cohort.task] if name in evaluation.metrics]
    rows = [
        (split.name, len(split.train), len(split.val), len(split.test), *(values.get(name) for name in names))
        for split, values in zip(training.splits, evaluation.folds, strict=True)
    ]
    columns = ("split", "#train", "#val", "#test", *(f"#{TITLES[name]}" for name in names))
    torn = sum(1 for s in training.splits if set(s.test) & {*s.train, *s.val} or set(s.train) & set(s.val))
    apart = (
        f"{torn} of {len(rows)} splits have cases on two sides"
        if torn
        else "no case is on two sides of a split"
    )
    return section("Splits", table(columns, rows, caption=f"Cases; {apart}."))


def _history(training: Training) -> Html | None:
    lines = []
    for split, head in zip(training.splits, training.heads, strict=True):
        epochs = [e for e in head.spec.history if e.val_loss is not None]
        if epochs:
            x, y = np.array([e.number for e in epochs], float), np.array([e.val_loss for e in epochs], float)
            lines.append(figures.Line(split.name, x, y))
    return section("Training", pictures(figures.history(lines, "validation loss"))) if lines else None


def _flow(training: Training) -> Html:
    study = training.study
    flow = study.cohort.flow
    steps = [
        ("rows of the table", flow.rows),
        ("of these with a usable label", flow.rows_usable),
        ("of these joined to slides of the store", flow.rows_joined),
        ("slides of the store", flow.store_slides),
        ("of these joined to a label", flow.slides_joined),
        ("cases with a label and tiles", len(study.case_ids)),
        ("tiles", sum(study.bags.tiles(i) for i in range(len(study.bags)))),
    ]
    dropped = count_reasons(study.cohort.dropped)
    listed = [(one.row, one.id, one.reason, one.detail) for one in study.cohort.dropped[:500]]
    used = [(use.role, use.column, use.how) for use in study.table.used]
    return section(
        "From the table to the cases",
        table(("step", "#count"), steps),
        table(("left out because", "#count"), dropped.items()) if dropped else note("Nothing was left out."),
        table(("class or outcome", "#cases"), flow.labels),
        folded("how the columns were read", table(("role", "column", "how"), used)),
        folded("each row left out", table(("#row", "id", "reason", "detail"), listed))
        if listed
        else Html(""),
    )


def _recipe(training: Training) -> Html:
    study = training.study
    recipe, parity = study.record.recipe, study.record.parity
    source = study.record.encoder_source
    rows: list[tuple[str, object]] = [
        ("recipe", recipe.key),
        (
            "encoder",
            f"{recipe.encoder.name}, {source}"
            if recipe.encoder.variant == "imported"
            else f"{recipe.encoder.name}, {recipe.encoder.variant}; from {source}",
        ),
        ("weights SHA-256", recipe.encoder.weights_sha256),
        ("licence of the weights", recipe.encoder.licence),
        ("tiles", f"{_tiles(training)}, every {recipe.tile.stride_px} px"),
        ("exported graph against its reference", "; ".join(map(_gate, parity.items())) or None),
        ("cohort SHA-256", study.cohort.cohort_sha256),
        ("labels", study.table.path),
        ("head", _head(training)),
    ]
    if recipe.encoder.variant == "imported":  # vectors of a table: no tile was cut, no graph exported
        rows = [row for row in rows if row[0] not in ("tiles", "exported graph against its reference")]
    return section("What it was made with", table(("", ""), rows))


def _tiles(training: Training) -> str:
    recipe = training.study.record.recipe
    if recipe.encoder.variant == "imported":
        return "one vector a slide"
    return f"{recipe.tile.tile_px} px at {recipe.tile.mpp:g} µm/px"


def _gate(item: tuple[str, object]) -> str:
    """One precision's comparison of the exported graph with the model it was made from."""
    precision, said = item
    if not isinstance(said, Mapping) or not {"mean", "minimum", "neighbours", "tiles"} <= said.keys():
        return f"{precision} {said}"
    return (
        f"{precision}: centred cosine {said['mean']:.5f} (least {said['minimum']:.5f}), "
        f"{said['neighbours']:.1%} same neighbours, on {said['tiles']} tiles"
    )


def _head(training: Training) -> str:
    """What it is and how it was trained; the linear head has no epochs, the others no grid of penalties."""
    spec = training.heads[0].spec
    if spec.penalty is not None:
        chosen = ", ".join(f"{head.spec.penalty:g}" for head in training.heads)
        return f"{spec.name}; loss {spec.options.loss}, ridge penalty by split {chosen}"
    kept = ", ".join(str(head.spec.best_epoch) for head in training.heads)
    names = ("loss", "lr", "weight_decay", "dropout", "tiles_per_epoch", "precision", "device")
    fields = {name: getattr(spec.options, name) for name in names}
    said = ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None)
    return f"{spec.name}; at most {spec.options.epochs} epochs, kept by split {kept}; {said}"


def _estimates(items: Iterable[tuple[str, Estimate]]) -> Html:
    rows = [
        (
            TITLES.get(name, name) + (" ↓" if name in LOWER_IS_BETTER else ""),
            _number(e.value),
            _span(e),
            e.undefined,
        )
        for name, e in items
    ]
    return table(("metric (↓ lower is better)", "#value", "#95 % interval", "#draws left out"), rows)


def _groups(training: Training) -> Sequence[str]:
    if isinstance(training.target, ClassTarget):
        return training.target.classes
    return (f"{int(training.target.event.sum())} events in {len(training.target.event)} cases",)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _span(one: Estimate | Mapping[str, float]) -> str:
    assert isinstance(one, Estimate)
    return f"{_number(one.ci_low)} – {_number(one.ci_high)}"
