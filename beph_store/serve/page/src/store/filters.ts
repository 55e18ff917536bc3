/** Which slides are shown: words, state, labels, a condition. */

import { h, icon, replace, type Child } from "../dom.ts";
import { count } from "../format.ts";
import type { LabelColumn, SlideList, SlideStatus } from "../types.ts";

export interface Filters {
  q: string;
  status: SlideStatus | "";
  /** Column to the value that is wanted. */
  labels: Map<string, string>;
  /** Column to least and most, as typed. */
  ranges: Map<string, [string, string]>;
  where: string;
  /** Column to order by, `-` before it for the largest first; "" is by id. */
  order: string;
}

export function noFilters(): Filters {
  return { q: "", status: "", labels: new Map(), ranges: new Map(), where: "", order: "" };
}

/** As a query of the API. */
export function queryOf(filters: Filters): URLSearchParams {
  const asked = new URLSearchParams();
  if (filters.q) asked.set("q", filters.q);
  if (filters.status) asked.set("status", filters.status);
  for (const [name, value] of filters.labels) asked.set(`label[${name}]`, value);
  const parts = [...filters.ranges].flatMap(([name, [low, high]]) => [
    isNumber(low) ? `"${name}" >= ${Number(low)}` : "",
    isNumber(high) ? `"${name}" <= ${Number(high)}` : "",
  ]);
  const where = [...parts, filters.where.trim() && `(${filters.where.trim()})`].filter(Boolean).join(" AND ");
  if (where) asked.set("where", where);
  if (filters.order) asked.set("order", filters.order);
  return asked;
}

/** A plain decimal number: what goes into a condition is nothing else. */
function isNumber(text: string): boolean {
  return /^-?\d+(\.\d+)?$/.test(text.trim());
}

export function isFiltered(filters: Filters): boolean {
  return queryOf({ ...filters, order: "" }).size > 0;
}

const STATUSES: readonly (readonly [SlideStatus, string])[] = [["done", "Embedded"], ["empty", "Without tissue"], ["failed", "Failed"]];

export interface FilterPanel {
  readonly element: HTMLElement;
  /** Draw with the counts of an answer. */
  readonly counts: (list: SlideList) => void;
  readonly columns: (columns: readonly LabelColumn[]) => void;
  readonly draw: () => void;
}

/** Writes to `filters` and calls `changed`. */
export function filterPanel(filters: Filters, changed: () => void): FilterPanel {
  const states = h("div", { class: "stack tight" });
  const labels = h("div", { class: "stack" });
  let counts: SlideList["statuses"] = { done: 0, empty: 0, failed: 0 };
  let columns: readonly LabelColumn[] = [];
  const change = (): void => {
    draw();
    changed();
  };
  const where = h("input", { class: "field small mono", value: filters.where, placeholder: "tiles > 500", "aria-label": "Condition over columns", spellcheck: "false", "data-test": "filter-where" });
  where.addEventListener("change", () => { filters.where = where.value; change(); });
  const draw = (): void => {
    where.value = filters.where;
    replace(states, ...STATUSES.filter(([name]) => counts[name] > 0 || filters.status === name || name === "done").map(([name, label]) =>
      facet(label, counts[name], filters.status === name, `status-${name}`, () => { filters.status = filters.status === name ? "" : name; change(); }, name === "failed" ? "bad" : "")));
    replace(labels, ...columns.map((column) => columnFilter(column, filters, change)));
  };
  const element = h(
    "aside",
    { class: "filters", "aria-label": "Filters", "data-test": "filters" },
    h("section", { class: "stack tight" }, h("h3", null, "State"), states),
    labels,
    h("section", { class: "stack tight" }, h("h3", null, "Condition"), where, h("p", { class: "muted small" }, "SQL over the columns: comparisons, and, or, in, like.")),
  );
  draw();
  return {
    element,
    draw,
    counts: (list) => { counts = list.statuses; draw(); },
    columns: (found) => { columns = found; draw(); },
  };
}

function facet(label: Child, slides: number, on: boolean, test: string, choose: () => void, tone = ""): HTMLElement {
  return h(
    "button",
    { class: "facet", "aria-pressed": String(on), "data-tone": tone, "data-test": test, onclick: choose },
    h("span", { class: "clip grow" }, label),
    h("span", { class: "facet-count" }, count(slides)),
    on && icon("close"),
  );
}

function columnFilter(column: LabelColumn, filters: Filters, change: () => void): HTMLElement {
  const head = h("div", { class: "row between" }, h("h3", { class: "clip", title: column.name }, column.name), h("span", { class: "muted small" }, count(column.slides)));
  if (column.values?.length) {
    const chosen = filters.labels.get(column.name);
    return h("section", { class: "stack tight" }, head, h("div", { class: "facets" }, column.values.map((entry) =>
      facet(entry.value, entry.slides, chosen === entry.value, "facet", () => {
        if (chosen === entry.value) filters.labels.delete(column.name);
        else filters.labels.set(column.name, entry.value);
        change();
      }))));
  }
  if (column.low !== undefined && column.high !== undefined) return h("section", { class: "stack tight" }, head, rangeFilter(column, filters, change));
  const input = h("input", { class: "field small", placeholder: `one of ${count(column.distinct)} values`, value: filters.labels.get(column.name) ?? "", "aria-label": column.name });
  input.addEventListener("change", () => {
    if (input.value.trim()) filters.labels.set(column.name, input.value.trim());
    else filters.labels.delete(column.name);
    change();
  });
  return h("section", { class: "stack tight" }, head, input);
}

function rangeFilter(column: LabelColumn, filters: Filters, change: () => void): HTMLElement {
  const [low, high] = filters.ranges.get(column.name) ?? ["", ""];
  const box = (value: string, hint: number | undefined, label: string): HTMLInputElement =>
    h("input", { class: "field small", inputmode: "decimal", value, placeholder: String(hint ?? ""), "aria-label": `${column.name}, ${label}` });
  const [from, to] = [box(low, column.low, "least"), box(high, column.high, "most")];
  const keep = (): void => {
    if (from.value.trim() || to.value.trim()) filters.ranges.set(column.name, [from.value.trim(), to.value.trim()]);
    else filters.ranges.delete(column.name);
    change();
  };
  from.addEventListener("change", keep);
  to.addEventListener("change", keep);
  return h("div", { class: "row" }, from, h("span", { class: "muted" }, "to"), to);
}

/** What is set, each with a cross; empty where nothing is. */
export function chips(filters: Filters, change: () => void): Child[] {
  const made: Child[] = [];
  const chip = (text: string, drop: () => void): void => {
    made.push(h("button", { class: "chip", "data-tone": "accent", title: "Take this filter away", onclick: () => { drop(); change(); } }, text, icon("close")));
  };
  if (filters.status) chip(STATUSES.find(([name]) => name === filters.status)?.[1] ?? filters.status, () => { filters.status = ""; });
  for (const [name, value] of filters.labels) chip(`${name}: ${value}`, () => filters.labels.delete(name));
  for (const [name, [low, high]] of filters.ranges) chip(`${name}: ${low || "…"} to ${high || "…"}`, () => filters.ranges.delete(name));
  if (filters.where) chip(filters.where, () => { filters.where = ""; });
  return made;
}
