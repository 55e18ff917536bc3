/** The cases, worst first, each one click away from its slides under the head's heatmap. */

import { get, isAbort, url } from "../api.ts";
import { percent } from "../charts/scale.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { count, fixed } from "../format.ts";
import { slideLink } from "../slide/address.ts";
import type { HeadCase, HeadCases, HeadDetail } from "../studies.ts";
import { toastError } from "../toast.ts";

const FIRST_PAGE = 25;
const PAGE = 100;
type Sort = "error" | "case" | "risk";

/**
 * The address of a slide with the head's heatmap over it. `of` is a class; null is where the head looked, or the risk.
 */
export function heatmapLink(head: HeadDetail, slide: string, of: string | null): string {
  const values = of !== null || head.kind === "linear" ? "score" : "attention";
  return slideLink(head.recipe, slide, { overlay: { kind: "head", head: head.head, class: of ?? "", values } });
}

export function casesPanel(head: HeadDetail, signal: AbortSignal): HTMLElement {
  const body = h("tbody", { "data-test": "cases" });
  const more = h("button", { class: "button small", hidden: true, onclick: () => void load(false) }, "More cases");
  const about = h("span", { class: "muted small grow" });
  const box = h("section", { class: "panel", "data-test": "cases-panel", "data-state": "loading" });
  let sort: Sort = "error";
  let rows: HeadCase[] = [];

  const load = async (anew: boolean): Promise<void> => {
    if (anew) rows = [];
    try {
      const found = await get<HeadCases>(url(`/api/heads/${head.head}/cases`, { sort, offset: rows.length, limit: rows.length === 0 ? FIRST_PAGE : PAGE }), signal);
      rows = [...rows, ...found.cases];
      replace(body, rows.map((one) => caseRow(head, one)));
      replace(about, `error: ${found.error}`);
      more.hidden = rows.length >= found.total;
      box.dataset.state = "ready";
    } catch (thrown) {
      if (isAbort(thrown)) return;
      box.dataset.state = "error";
      toastError(thrown);
    }
  };
  const sorts: [Sort, string][] = [["error", "worst first"], ["case", "by case"]];
  if (head.task === "survive") sorts.push(["risk", "by risk"]);
  const buttons = sorts.map(([name, title]) =>
    h("button", {
      "aria-pressed": name === sort,
      onclick: () => {
        sort = name;
        buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(sorts[i][0] === sort)));
        void load(true);
      },
    }, title),
  );
  replace(
    box,
    h("div", { class: "panel-head" }, h("h2", null, "Cases"), about, h("div", { class: "segments", role: "group", "aria-label": "Order" }, buttons)),
    h("div", { class: "scroll" }, h("table", { class: "table cases-table" }, h("thead", null, columns(head)), body)),
    h("div", { class: "row end panel-foot" }, more),
  );
  void load(true);
  return box;
}

function columns(head: HeadDetail): HTMLTableRowElement {
  const said = head.task === "classify" ? ["label", "predicted", "probability of the label"] : ["outcome", "predicted risk"];
  return h(
    "tr",
    null,
    h("th", null, "case"),
    said.map((name) => h("th", null, name)),
    h("th", { class: "number" }, "error"),
    h("th", { class: "number" }, "fold"),
    h("th", { class: "number" }, "tiles"),
    h("th", null, "slides, under the heatmap"),
  );
}

function caseRow(head: HeadDetail, one: HeadCase): HTMLTableRowElement {
  const wrong = one.label !== null && one.label !== one.predicted;
  return h(
    "tr",
    { "data-case": one.case_id, "data-wrong": wrong },
    h("td", { class: "mono" }, one.case_id),
    head.task === "classify" ? classCells(one, wrong) : riskCells(one),
    h("td", { class: "number" }, fixed(one.loss, 2)),
    h("td", { class: "number" }, one.fold === null ? "–" : count(one.fold + 1)),
    h("td", { class: "number muted" }, count(one.tiles)),
    h("td", null, h("div", { class: "row wrap" }, one.slides.map((slide, i) => slideLinks(head, one, slide, one.slide_ids[i] ?? slide)), one.slides.length === 0 && h("span", { class: "muted" }, "not in this store"))),
  );
}

function classCells(one: HeadCase, wrong: boolean): Child {
  const own = one.label === null ? null : (one.probabilities?.[one.label] ?? null);
  return [
    h("td", null, one.label ?? "–"),
    h("td", null, h("span", { class: "chip", "data-tone": wrong ? "bad" : "good" }, icon(wrong ? "close" : "check"), one.predicted ?? "–")),
    h(
      "td",
      null,
      h("div", { class: "chance-cell" }, h("span", { class: "chance-bar", "aria-hidden": "true" }, h("span", { style: { width: `${(own ?? 0) * 100}%` }, "data-wrong": wrong })), h("span", null, percent(own))),
    ),
  ];
}

function riskCells(one: HeadCase): Child {
  const days = one.time_days === null || one.time_days === undefined ? "–" : `${count(Math.round(one.time_days))} days`;
  return [
    h("td", { class: "outcome" }, h("span", { class: "chip", "data-tone": one.event ? "warn" : null }, one.event ? "event" : "censored"), ` ${days}`),
    h("td", { class: "number" }, fixed(one.risk ?? null, 2)),
  ];
}

/** The slide under the heatmap: where an attention head looked, else what it said; for a wrong case the truth too. */
function slideLinks(head: HeadDetail, one: HeadCase, slide: string, name: string): Child {
  const short = name.split("/").pop() ?? name;
  const of = head.kind === "linear" ? one.predicted : null;
  const first = h(
    "a",
    {
      class: "button small", href: heatmapLink(head, slide, of), title: of === null ? name : `${name}, tile scores of ${of}`,
      "data-test": "heatmap", "data-slide": slide,
    },
    icon("layers"),
    h("span", { class: "clip case-slide" }, short),
  );
  if (one.label === null || one.label === one.predicted) return first;
  return h(
    "span",
    { class: "row" },
    first,
    h("a", { class: "small", href: heatmapLink(head, slide, one.label), title: `${name}, tile scores of ${one.label}` }, `as ${one.label}`),
  );
}
