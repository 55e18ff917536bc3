/** All heads of the store, with the one figure that sums each up. */

import { intervalChart } from "../charts/intervals.ts";
import { h, icon, type Child } from "../dom.ts";
import { ago, count, fixed } from "../format.ts";
import { link } from "../router.ts";
import { isWritable, recipeInfo, recipeName } from "../session.ts";
import { chanceOf, TASKS, type HeadList, type HeadListItem } from "../studies.ts";

export function headList(found: HeadList): Child {
  if (found.heads.length === 0 && found.unreadable.length === 0) return nothing();
  return [
    found.heads.length > 0 &&
      h(
        "div",
        { class: "table-box" },
        h(
          "table",
          { class: "table heads-table", "data-test": "heads" },
          h(
            "thead",
            null,
            h("tr", null, ["head", "task", "classes", "recipe"].map((name) => h("th", null, name)), h("th", { class: "number" }, "cases"), h("th", { class: "number" }, "figure"), h("th", { class: "interval-column" }, "95 % interval, chance dotted"), h("th", null, "trained")),
          ),
          h("tbody", null, found.heads.map(row)),
        ),
      ),
    found.unreadable.map((one) =>
      h("div", { class: "note", "data-tone": "warn" }, icon("warn"), h("span", null, h("b", null, one.head), `: ${one.error}`)),
    ),
  ];
}

function row(head: HeadListItem): HTMLTableRowElement {
  const recipe = recipeInfo(head.recipe);
  const best = head.headline;
  const address = link("/heads/:id", { id: head.head });
  return h(
    "tr",
    { "data-test": "head", "data-head": head.head, "data-open": "", onclick: (event: MouseEvent) => { if (!(event.target as HTMLElement).closest("a")) location.hash = address; } },
    h("td", null, h("a", { href: address }, h("b", null, head.title)), head.predictions && h("span", { class: "chip", "data-tone": head.predictions.stale ? "warn" : "good" }, head.predictions.stale ? "predictions of before" : "applied")),
    h("td", null, TASKS[head.task], h("span", { class: "muted small" }, ` · ${head.kind}`)),
    h("td", { class: "clip classes-cell" }, head.classes.join(", ") || "–"),
    h("td", null, recipe ? recipeName(recipe) : h("span", { class: "chip", "data-tone": "warn" }, `${head.encoder}, not in this store`)),
    h("td", { class: "number" }, count(head.cases)),
    h("td", { class: "number" }, best ? [h("span", { class: "muted small" }, `${best.title} `), h("b", null, fixed(best.value))] : "–"),
    h("td", { class: "interval-column" }, best && intervalChart(best.title, { value: best.value, low: best.ci_low, high: best.ci_high, folds: [] }, chanceOf(best.name, head.classes.length), 200)),
    h("td", { class: "muted" }, ago(head.trained_at)),
  );
}

function nothing(): HTMLElement {
  return h(
    "div",
    { class: "empty panel", "data-test": "no-heads" },
    icon("head"),
    h("h2", null, "No head yet"),
    h(
      "p",
      null,
      isWritable()
        ? "A head learns from a table of labels what embeddings mean: a class, or survival. It takes seconds."
        : "Train one with beph-store train, and start the server with --heads FOLDER; or start it with --allow-write and train here.",
    ),
    isWritable() && h("a", { class: "button primary", href: link("/train") }, "Train a head"),
  );
}
