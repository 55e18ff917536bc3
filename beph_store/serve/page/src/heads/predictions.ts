/** What the head says of all slides of the store, once it was applied to them. */

import { get, isAbort, post, reason, text, url } from "../api.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { ago, counted, fixed } from "../format.ts";
import { go, link } from "../router.ts";
import { isWritable } from "../session.ts";
import type { HeadDetail } from "../studies.ts";
import { toast, toastError } from "../toast.ts";
import type { Job, SlideList } from "../types.ts";
import { heatmapLink } from "./cases.ts";
import { parseCsv } from "./csv.ts";

const SHOWN = 200;

/** Start a job that applies the head to all slides, and go to it. */
export async function apply(head: HeadDetail): Promise<void> {
  try {
    const job = await post<Job>("/api/jobs", { kind: "apply", recipe: head.recipe, options: { head: head.head } });
    toast("Applying the head to all slides", "good");
    go(link("/jobs/:id", { id: job.job }));
  } catch (thrown) {
    toastError(thrown);
  }
}

export function predictionsPanel(head: HeadDetail, signal: AbortSignal): HTMLElement {
  const made = head.predictions;
  const address = `/api/heads/${head.head}/predictions.csv`;
  const place = h("div", { class: "scroll predictions" });
  const show = async (button: HTMLButtonElement): Promise<void> => {
    button.disabled = true;
    try {
      const rows = parseCsv(await text(`${address}?by=slide`, signal));
      replace(place, table(head, rows, await handles(head, signal)));
      button.remove();
    } catch (thrown) {
      button.disabled = false;
      if (!isAbort(thrown)) replace(place, h("div", { class: "note", "data-tone": "warn" }, icon("warn"), h("span", null, reason(thrown))));
    }
  };
  return h(
    "section",
    { class: "panel", "data-test": "predictions", "data-state": made ? "made" : "none" },
    h(
      "div",
      { class: "panel-head" },
      h("h2", null, "Predictions of all slides"),
      h("span", { class: "muted small grow" }, made ? `${counted(made.slides, "slide")} of ${counted(made.cases, "case")}, made ${ago(made.made_at)}` : "not made yet"),
      made && [
        h("button", { class: "button small", "data-test": "show-predictions", onclick: (event: Event) => void show(event.currentTarget as HTMLButtonElement) }, "Show"),
        h("a", { class: "button small", href: `${address}?by=slide`, download: "" }, icon("download"), "By slide"),
        h("a", { class: "button small", href: `${address}?by=case`, download: "" }, icon("download"), "By case"),
      ],
    ),
    made?.stale && h("div", { class: "panel-body" }, h("div", { class: "note", "data-tone": "warn" }, icon("warn"), h("span", null, "Slides were added or ingested again since: apply the head anew."))),
    !made && h("p", { class: "panel-body muted" }, isWritable() ? "Apply the head to all slides of the store: those that it was trained on are predicted by the folds that had not seen them." : "Start the server with --allow-write to apply the head, or use beph-store predict."),
    place,
  );
}

/** Names of slides to the handles of their addresses; of the first thousand, more is not shown here. */
async function handles(head: HeadDetail, signal: AbortSignal): Promise<Map<string, string>> {
  const found = await get<SlideList>(url(`/api/recipes/${head.recipe}/slides`, { limit: 1000 }), signal);
  return new Map(found.slides.map((slide) => [slide.slide_id, slide.slide]));
}

function table(head: HeadDetail, rows: readonly (readonly string[])[], slides: ReadonlyMap<string, string>): HTMLElement {
  const [first = [], ...rest] = rows;
  const name = first.indexOf("slide_id");
  const predicted = first.indexOf("predicted");
  const cell = (row: readonly string[], value: string, i: number): Child => {
    const slide = i === name ? slides.get(value) : undefined;
    const of = head.kind === "linear" && predicted >= 0 ? row[predicted] : null;
    return slide === undefined ? shown(value, i) : h("a", { href: heatmapLink(head, slide, of), title: "the slide under the heatmap" }, value);
  };
  const numeric = first.map((_, i) => rest.length > 0 && rest.every((row) => row[i] === "" || Number.isFinite(Number(row[i]))));
  const shown = (value: string, i: number): string => (numeric[i] && value !== "" && !/^-?\d+$/.test(value) ? fixed(Number(value)) : value);
  return h(
    "div",
    null,
    h(
      "table",
      { class: "table", "data-test": "predictions-table" },
      h("thead", null, h("tr", null, first.map((name, i) => h("th", { class: numeric[i] ? "number" : null }, name)))),
      h("tbody", null, rest.slice(0, SHOWN).map((row) => h("tr", null, row.map((value, i) => h("td", { class: numeric[i] ? "number" : null }, cell(row, value, i)))))),
    ),
    rest.length > SHOWN && h("p", { class: "muted small panel-body" }, `The first ${SHOWN} of ${rest.length}; the file has all.`),
  );
}
