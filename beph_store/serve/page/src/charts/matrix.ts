/** A confusion matrix as a table: rows the truth, columns what was predicted, shaded by the share of the row. */

import { h } from "../dom.ts";
import { percent } from "./scale.ts";

/** Counts of a row as shares of it; zeros for an empty row. */
export function shares(row: readonly number[]): number[] {
  const sum = row.reduce((total, value) => total + value, 0);
  return row.map((value) => (sum > 0 ? value / sum : 0));
}

export function confusionTable(
  labels: readonly string[],
  counts: readonly (readonly number[])[],
  unit = "cases",
): HTMLTableElement {
  return h(
    "table",
    { class: "confusion", "data-test": "confusion" },
    h("caption", { class: "quiet-text" }, `${unit}; rows are the truth, columns what the head says`),
    h(
      "thead",
      null,
      h("tr", null, h("td"), labels.map((label) => h("th", { scope: "col", title: label }, h("span", null, label)))),
    ),
    h("tbody", null, labels.map((label, i) => line(label, counts[i] ?? [], i))),
  );
}

function line(label: string, row: readonly number[], truth: number): HTMLTableRowElement {
  return h(
    "tr",
    null,
    h("th", { scope: "row", title: label }, h("span", null, label)),
    shares(row).map((share, i) => {
      const cell = h(
        "td",
        { class: i === truth ? "right-cell" : "wrong-cell" },
        h("b", null, String(row[i] ?? 0)),
        h("small", null, percent(share)),
      );
      cell.style.setProperty("--share", `${Math.round(share * 100)}%`);
      return cell;
    }),
  );
}
