/** What is known of a slide, in the panel beside it. */

import { get, isAbort, post, url } from "../api.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { count, when } from "../format.ts";
import { person } from "../person.ts";
import { isWritable } from "../session.ts";
import { neighbour, placeInOrder } from "../store/order.ts";
import { toastError } from "../toast.ts";
import type { LabelValue, SlideInfo, SlideLabels, SlideList } from "../types.ts";
import { magnification } from "./scale.ts";

/** Name, state, and the ways to the slides before and after. */
export function slideHead(recipe: string, info: SlideInfo, step: (by: number) => void): HTMLElement {
  const at = placeInOrder(recipe, info.slide);
  const button = (by: 1 | -1, label: string): Child =>
    h("button", { class: "button quiet square small", title: label, "aria-label": label, disabled: !neighbour(recipe, info.slide, by), onclick: () => step(by) }, icon(by > 0 ? "right" : "left"));
  return h(
    "header",
    { class: "slide-head" },
    h("div", { class: "row" },
      h("a", { class: "small back", href: "#/" }, icon("slides"), "All slides"), h("span", { class: "grow" }),
      at && [button(-1, "Slide before (k)"), h("span", { class: "muted small nowrap" }, at), button(1, "Next slide (j)")]),
    h("h1", { class: "slide-name", title: info.slide_id, "data-test": "slide-name" }, info.slide_id),
    info.status !== "done" &&
      h("div", { class: "note", "data-tone": info.status === "failed" ? "bad" : "warn" }, icon("warn"),
        h("span", null, info.status === "empty" ? "No tissue was found: there are no tiles." : (info.error ?? "It failed."))),
  );
}

/** The list of facts; the operator's labels join when they are read. */
export function facts(recipe: string, info: SlideInfo, signal: AbortSignal): HTMLElement {
  const element = h("div", null, factList(info, {}));
  get<SlideList>(url(`/api/recipes/${recipe}/slides`, { q: info.slide_id, limit: 1000 }), signal).then(
    (said) => {
      const mine = said.slides.find((entry) => entry.slide === info.slide);
      if (mine) replace(element, factList({ ...info, case_id: mine.case_id }, mine.labels));
    },
    () => undefined,
  );
  return element;
}

function factList(info: SlideInfo, labels: Readonly<Record<string, LabelValue>>): HTMLElement {
  const mpp = info.mpp_x && info.mpp_y ? (info.mpp_x + info.mpp_y) / 2 : null;
  const size = info.width_l0 && info.height_l0 ? `${count(info.width_l0)} × ${count(info.height_l0)} px` : null;
  const real = mpp && info.width_l0 && info.height_l0 ? `${((info.width_l0 * mpp) / 1000).toFixed(1)} × ${((info.height_l0 * mpp) / 1000).toFixed(1)} mm` : null;
  const rows: (readonly [string, Child])[] = [
    ["Case", info.case_id],
    ...Object.entries(labels).filter(([, value]) => value !== null && value !== "").map(([name, value]) => [name, String(value)] as const),
    ["Size", size && [size, real && h("span", { class: "muted" }, ` · ${real}`)]],
    ["Scale", mpp && [`${Number(mpp.toPrecision(4))} µm/px`, h("span", { class: "muted", title: `from: ${info.mpp_source ?? "?"}` }, ` · ${magnification(mpp)}× · ${info.mpp_source ?? ""}`)]],
    ["Tiles", info.tiles !== null && count(info.tiles)],
    ["Ingested", info.created_at && when(info.created_at)],
  ];
  return h("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
}

/** A slide's own label, given by hand: one value of a column. */
export function slideLabel(recipe: string, slide: string, signal: AbortSignal): HTMLElement {
  const path = `/api/recipes/${recipe}/labels/slides`;
  const element = h("section", { class: "stack tight", "data-test": "slide-label" });
  const column = "label";

  const put = async (value: string | null): Promise<void> => {
    const who = await person();
    if (!who) return;
    try {
      await post(path, { who, labels: [{ slide, column, value }] });
      await load();
    } catch (thrown) {
      toastError(thrown);
    }
  };
  const draw = (said: SlideLabels): void => {
    const mine = said.labels.find((label) => label.slide === slide && label.column === column);
    const values = said.columns.find((entry) => entry.name === column)?.values ?? [];
    const input = h("input", { class: "field small", placeholder: "Another value", maxlength: 80, "aria-label": "Label of the slide", disabled: !isWritable(), "data-test": "slide-label-value" });
    replace(
      element,
      h("div", { class: "row between" }, h("h3", null, "Label of the slide"), h("a", { class: "small", href: `${path}.csv`, download: "" }, "all as CSV")),
      values.length > 0 &&
        h("div", { class: "row wrap" }, values.map((entry) => {
          const on = entry.value === mine?.value;
          return h("button", { class: "button small", "aria-pressed": String(on), disabled: !isWritable(), title: `${entry.slides} slides, ${entry.cases} cases`, onclick: () => void put(on ? null : entry.value) }, entry.value);
        })),
      h("form", { class: "row", onsubmit: (event: Event) => { event.preventDefault(); if (input.value.trim()) void put(input.value.trim()); } },
        input, h("button", { class: "button small square", type: "submit", title: "Give this label", "aria-label": "Give this label", disabled: !isWritable() }, icon("check"))),
      mine && h("p", { class: "muted small" }, `${mine.value}, by ${mine.who}, ${when(mine.at)}`),
    );
  };
  const load = async (): Promise<void> => {
    try {
      draw(await get<SlideLabels>(path, signal));
    } catch (thrown) {
      if (!isAbort(thrown)) element.hidden = true;
    }
  };
  void load();
  return element;
}
