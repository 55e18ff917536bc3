/** All heads of the store, with the one figure that sums each up. */

import { intervalChart } from "../charts/intervals.ts";
import { h, icon, type Child } from "../dom.ts";
import { ago, count, fixed } from "../format.ts";
import { link } from "../router.ts";
import { isWritable, recipeInfo, recipeName, storeInfo } from "../session.ts";
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
            h("tr", null, ["head", "task", "classes"].map((name) => h("th", null, name)), telling(found.heads) && h("th", null, "recipe"), h("th", { class: "number" }, "cases"), h("th", { class: "number" }, "figure"), h("th", { class: "interval-column" }, "95 % interval, chance dotted"), h("th", null, "trained")),
          ),
          h("tbody", null, found.heads.map((head) => row(head, telling(found.heads)))),
        ),
      ),
    found.unreadable.map((one) =>
      h("div", { class: "note", "data-tone": "warn" }, icon("warn"), h("span", null, h("b", null, one.head), `: ${one.error}`)),
    ),
  ];
}

/** Whether the recipe says anything: not where there is one only. */
function telling(heads: readonly HeadListItem[]): boolean {
  return storeInfo().recipes.length > 1 || heads.some((head) => !head.in_store);
}

function row(head: HeadListItem, withRecipe: boolean): HTMLTableRowElement {
  const recipe = recipeInfo(head.recipe);
  const best = head.headline;
  const address = link("/heads/:id", { id: head.head });
  return h(
    "tr",
    { "data-test": "head", "data-head": head.head, "data-open": "", onclick: (event: MouseEvent) => { if (!(event.target as HTMLElement).closest("a")) location.hash = address; } },
    h("td", null, h("a", { href: address }, h("b", null, head.title)), head.predictions && h("span", { class: "chip", "data-tone": head.predictions.stale ? "warn" : "good" }, head.predictions.stale ? "predictions of before" : "applied")),
    h("td", { class: "nowrap" }, TASKS[head.task], h("span", { class: "muted small" }, ` · ${head.kind}`)),
    h("td", { class: "clip classes-cell" }, head.classes.join(", ") || "–"),
    withRecipe && h("td", null, recipe ? recipeName(recipe) : h("span", { class: "chip", "data-tone": "warn" }, `${head.encoder}, not in this store`)),
    h("td", { class: "number" }, count(head.cases)),
    h("td", { class: "number nowrap" }, best ? [h("span", { class: "muted small" }, `${best.title} `), h("b", null, fixed(best.value))] : "–"),
    h("td", { class: "interval-column" }, best && intervalChart(best.title, { value: best.value, low: best.ci_low, high: best.ci_high, folds: [] }, chanceOf(best.name, head.classes.length), 200)),
    h("td", { class: "muted nowrap" }, ago(head.trained_at)),
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
