/** The figures of a head, all on cases that it had not seen. */

import { intervalChart } from "../charts/intervals.ts";
import { legend } from "../charts/legend.ts";
import { curveChart, shared } from "../charts/lines.ts";
import { confusionTable } from "../charts/matrix.ts";
import { rocChart } from "../charts/roc.ts";
import { pValue } from "../charts/scale.ts";
import { survivalChart } from "../charts/survival.ts";
import { h, type Child } from "../dom.ts";
import { count, counted, fixed } from "../format.ts";
import { foldMark } from "../jobs/list.ts";
import { chanceOf, metricTitle, splitTitle, type HeadDetail } from "../studies.ts";

const CARDS = 4;

/** The metrics that matter first, large, with intervals and folds; all others folded away. */
export function metricCards(head: HeadDetail): Child {
  const names = head.headlines.filter((name) => head.metrics[name] !== undefined).slice(0, CARDS);
  return h(
    "div",
    { class: "metric-cards", "data-test": "metrics" },
    names.map((name) => {
      const metric = head.metrics[name];
      const folds = head.folds.map((fold) => fold.metrics[name]);
      return h(
        "section",
        { class: "panel metric-card", "data-metric": name },
        h("h3", null, metric.title, metric.lower_is_better && h("span", { class: "muted small" }, " (less is better)")),
        h("p", { class: "metric-value", "data-test": `metric-${name}` }, fixed(metric.value)),
        h("p", { class: "muted small" }, metric.ci_low === null ? "no interval" : `95 % interval ${fixed(metric.ci_low)} – ${fixed(metric.ci_high)}`),
        intervalChart(metric.title, { value: metric.value, low: metric.ci_low, high: metric.ci_high, folds }, chanceOf(name, head.classes.length)),
      );
    }),
  );
}

export function allMetrics(head: HeadDetail): HTMLElement {
  const rest = Object.keys(head.metrics).filter((name) => !head.headlines.includes(name));
  const row = (name: string): HTMLTableRowElement => {
    const metric = head.metrics[name];
    return h(
      "tr",
      null,
      h("td", null, metricTitle(name, metric.title), metric.lower_is_better && h("span", { class: "muted small" }, " (less is better)")),
      h("td", { class: "number" }, fixed(metric.value)),
      h("td", { class: "number muted" }, metric.ci_low === null ? "–" : `${fixed(metric.ci_low)} – ${fixed(metric.ci_high)}`),
      head.folds.map((fold) => h("td", { class: "number" }, fixed(fold.metrics[name]))),
    );
  };
  return h(
    "details",
    { class: "panel folded" },
    h("summary", { class: "panel-head" }, foldMark(), h("h2", null, "All metrics, by fold")),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "table" },
        h("thead", null, h("tr", null, h("th", null, "metric"), h("th", { class: "number" }, "value"), h("th", { class: "number" }, "95 %"), head.folds.map((fold) => h("th", { class: "number", title: `${fold.train} train, ${fold.val} validation, ${fold.test} test` }, splitTitle(fold.name))))),
        h("tbody", null, [...head.headlines.filter((name) => head.metrics[name]), ...rest].map(row)),
      ),
    ),
  );
}

/** ROC and confusion, or Kaplan–Meier. */
export function curvePanels(head: HeadDetail): Child {
  return [rocPanel(head), confusionPanel(head), kmPanel(head)];
}

function panel(title: string, test: string, ...body: Child[]): HTMLElement {
  return h("section", { class: "panel figure-panel", "data-test": test }, h("div", { class: "panel-head" }, h("h2", null, title)), h("div", { class: "panel-body" }, ...body));
}

function rocPanel(head: HeadDetail): Child {
  if (!head.roc || head.roc.length === 0) return null;
  const curves = head.roc.map((one) => ({ name: one.class, fpr: one.fpr, tpr: one.tpr, auroc: one.auroc }));
  return panel("ROC", "roc", legend(curves.map((curve) => `${curve.name} · ${fixed(curve.auroc)}`)), h("div", { class: "roc-square" }, rocChart(curves)));
}

function confusionPanel(head: HeadDetail): Child {
  if (!head.confusion) return null;
  return panel("Confusion", "confusion-panel", h("div", { class: "scroll" }, confusionTable(head.confusion.labels, head.confusion.counts)));
}

function kmPanel(head: HeadDetail): Child {
  if (!head.km || head.km.length === 0) return null;
  const names = head.km.map((one) => `${one.group} · ${counted(one.cases, "case")}, ${counted(one.events, "event")}`);
  return panel(
    "Kaplan–Meier by predicted risk",
    "km",
    h("div", { class: "row between wrap" }, legend(names), h("span", { "data-test": "logrank" }, "log-rank p ", h("b", null, pValue(head.logrank_p)))),
    survivalChart(head.km, 800),
    h("p", { class: "muted small" }, "The two halves by the median of the predicted risk. Small strokes are cases that left without the event."),
  );
}

/** Losses by epoch, or the penalties that a linear head tried. */
export function training(head: HeadDetail): Child {
  const curves = head.folds.filter((fold) => fold.curve.length > 0).map((fold) => ({ name: splitTitle(fold.name), curve: fold.curve, best: fold.best_epoch }));
  if (curves.length > 0) {
    const domain = shared(curves, null);
    return h(
      "details",
      { class: "panel folded" },
      h("summary", { class: "panel-head" }, foldMark(), h("h2", null, "Training: loss by epoch"), h("span", { class: "grow" }), legend(["training", "validation"])),
      h("div", { class: "curves" }, curves.map((curve) => curveChart(curve, domain))),
    );
  }
  const chosen = head.folds.filter((fold) => typeof fold.penalty === "number");
  if (chosen.length === 0) return null;
  return h(
    "details",
    { class: "panel folded" },
    h("summary", { class: "panel-head" }, foldMark(), h("h2", null, "Training: penalties")),
    h("p", { class: "panel-body" }, `Each fold chose its ridge penalty by held-out cases of its training part: ${chosen.map((fold) => `${splitTitle(fold.name)}: ${fold.penalty}`).join(", ")}.`),
  );
}

/** Of whom, on what, how: what a figure is worth nothing without. */
export function about(head: HeadDetail): HTMLElement {
  const facts: [string, string][] = [
    ["labels", head.cohort.name],
    ["cases", count(head.cohort.cases)],
    ["slides", count(head.cohort.slides)],
    ["head", head.kind],
    ["encoder", head.encoder],
    ["folds", count(head.folds.length)],
    ["seed", String(head.options.seed ?? "–")],
  ];
  const lost = head.dropped.reduce((sum, one) => sum + one.rows, 0);
  return h(
    "section",
    { class: "panel figure-panel", "data-test": "about" },
    h("div", { class: "panel-head" }, h("h2", null, "Trained on")),
    h(
      "div",
      { class: "panel-body" },
      h("dl", { class: "fact-list" }, facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value)))),
      head.columns_used.length > 0 && h("p", { class: "muted small" }, `Columns: ${head.columns_used.join("; ")}.`),
      lost > 0 && h("details", { class: "left-out" }, h("summary", null, `${count(lost)} left out, with reasons`), h("ul", null, head.dropped.map((one) => h("li", null, h("b", { class: "number" }, count(one.rows)), h("span", null, one.reason))))),
    ),
  );
}
