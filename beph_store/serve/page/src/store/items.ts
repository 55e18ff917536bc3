/** Slides as cards with pictures, and as rows of a table. */

import { h, icon, type Child } from "../dom.ts";
import { count, when } from "../format.ts";
import { slideLink } from "../slide/address.ts";
import type { LabelColumn, SlideItem } from "../types.ts";

/** Labels on a card, and columns of labels in the table. */
const CARD_LABELS = 3;
const TABLE_LABELS = 5;

/** `columns` are the label columns in the order in which they are shown. */
export function slideCard(recipe: string, item: SlideItem, columns: readonly LabelColumn[]): HTMLElement {
  const labels = columns.filter((column) => item.labels[column.name] !== null && item.labels[column.name] !== undefined).slice(0, CARD_LABELS);
  return h(
    "a",
    { class: "card", href: slideLink(recipe, item.slide), "data-status": item.status, "data-slide": item.slide, "data-test": "slide-card", title: item.slide_id },
    h("div", { class: "card-picture" }, picture(recipe, item, 360)),
    h("div", { class: "card-text" },
      h("strong", { class: "clip" }, item.slide_id),
      h("span", { class: "muted small clip" }, [item.case_id !== item.slide_id && item.case_id, item.status === "done" && `${count(item.tiles)} tiles`].filter(Boolean).join(" · ") || " "),
      labels.length > 0 && h("span", { class: "row card-labels" }, labels.map((column) => h("span", { class: "chip", title: column.name }, h("span", { class: "clip" }, String(item.labels[column.name])))))),
  );
}

function picture(recipe: string, item: SlideItem, px: number): Child {
  if (item.status === "failed") {
    return h("div", { class: "card-failed" }, icon("warn"), h("span", null, item.error ?? "It failed, and nothing says why."));
  }
  const image = h("img", { src: `/api/recipes/${recipe}/slides/${item.slide}/thumbnail.jpg?max_px=${px}`, alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(icon("image")));
  return [image, item.status === "empty" && h("span", { class: "chip card-state", "data-tone": "warn" }, "no tissue")];
}

/** How a table is ordered, as the API has it, and what to call for another order. */
export interface Ordering {
  readonly order: string;
  readonly choose: (order: string) => void;
}

export function slideTable(recipe: string, items: readonly SlideItem[], columns: readonly LabelColumn[], ordering: Ordering): HTMLElement {
  const head = (title: string, column: string, kind = ""): HTMLElement => heading(title, column, kind, ordering);
  const shown = columns.slice(0, TABLE_LABELS);
  const failed = items.some((item) => item.status === "failed");
  return h(
    "div",
    { class: "table-box", "data-test": "slide-table" },
    h(
      "table",
      { class: "table slides-table" },
      h("thead", null, h("tr", null,
        h("th", null, h("span", { class: "visually-hidden" }, "Picture")), head("Slide", "slide_id"), head("Case", "case_id"), shown.map((column) => head(column.name, column.name)),
        head("State", "status"), head("Tiles", "tiles", "number"), head("Size, px", "width_l0", "number"), head("Scale", "mpp_x", "number"), head(failed ? "Ingested, or why not" : "Ingested", "created_at"))),
      h("tbody", null, items.map((item) => row(recipe, item, shown))),
    ),
  );
}

/** A column's title: a click orders by it, another one the other way round, a third by id again. */
function heading(title: string, column: string, kind: string, { order, choose }: Ordering): HTMLElement {
  const now = order === column ? "ascending" : order === `-${column}` ? "descending" : "none";
  const next = { none: column, ascending: `-${column}`, descending: "" }[now];
  return h(
    "th",
    { class: kind, "aria-sort": now },
    h("button", { class: "heading", "data-test": `order-${column}`, title: `Order by ${title.toLowerCase()}`, onclick: () => choose(next) }, title, now !== "none" && icon(now === "ascending" ? "up" : "down")),
  );
}

const STATES = { done: ["embedded", "good"], empty: ["no tissue", "warn"], failed: ["failed", "bad"] } as const;

function row(recipe: string, item: SlideItem, columns: readonly LabelColumn[]): HTMLElement {
  const href = slideLink(recipe, item.slide);
  const [state, tone] = STATES[item.status];
  const small = h("img", { class: "tiny", src: `/api/recipes/${recipe}/slides/${item.slide}/thumbnail.jpg?max_px=96`, alt: "", loading: "lazy", decoding: "async" });
  small.addEventListener("error", () => small.remove());
  return h(
    "tr",
    { "data-open": "", "data-slide": item.slide, "data-test": "slide-row", onclick: (event: MouseEvent) => { if (!(event.target instanceof HTMLAnchorElement)) location.hash = href; } },
    h("td", { class: "tiny-cell" }, item.status === "failed" ? null : small),
    h("td", { class: "slide-cell" }, h("a", { class: "slide-link", href }, item.slide_id)),
    h("td", null, item.case_id === item.slide_id ? h("span", { class: "muted" }, "–") : item.case_id),
    columns.map((column) => h("td", { class: "label-cell", title: String(item.labels[column.name] ?? "") }, item.labels[column.name] === null || item.labels[column.name] === undefined ? h("span", { class: "muted" }, "–") : String(item.labels[column.name]))),
    h("td", null, h("span", { class: "chip", "data-tone": tone }, state)),
    h("td", { class: "number" }, item.status === "done" ? count(item.tiles) : "–"),
    h("td", { class: "number nowrap" }, item.width_l0 && item.height_l0 ? `${count(item.width_l0)} × ${count(item.height_l0)}` : "–"),
    h("td", { class: "number nowrap" }, item.mpp_x ? `${Number(item.mpp_x.toPrecision(3))} µm/px` : "–"),
    h("td", { class: "reason" }, item.status === "failed" ? item.error : when(item.created_at)),
  );
}
