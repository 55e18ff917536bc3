/** What is known of a slide, in the panel beside it. */

import { get, isAbort, post } from "../api.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { count, when } from "../format.ts";
import { person } from "../person.ts";
import { isWritable } from "../session.ts";
import { toastError } from "../toast.ts";
import type { LabelValue, SlideInfo, SlideLabels } from "../types.ts";
import { magnification } from "./scale.ts";

/** The list of facts. `labels` are the operator's, from a table. */
export function facts(info: SlideInfo, labels: Readonly<Record<string, LabelValue>>): HTMLElement {
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
