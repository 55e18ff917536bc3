/** What the server made of a table: its columns, the classes, what was left out and why. */

import { h, icon, type Child } from "../dom.ts";
import { count, counted } from "../format.ts";
import type { CohortCheck, CohortTable, Task } from "../studies.ts";
import { valuesOf } from "./choices.ts";

const SHOWN_VALUES = 5;

/** Column → what it serves as, and how that was found out. */
export function rolesOf(check: CohortCheck | null): Map<string, { role: string; how: string }> {
  const roles = new Map<string, { role: string; how: string }>();
  for (const [role, { column, how }] of Object.entries(check?.columns_used ?? {})) {
    const before = roles.get(column);
    roles.set(column, { role: before ? `${before.role}, ${role}` : role, how: [before?.how, how].filter(Boolean).join("; ") });
  }
  return roles;
}

export function columnsTable(table: CohortTable, check: CohortCheck | null): HTMLElement {
  const roles = rolesOf(check);
  return h(
    "div",
    { class: "table-box columns-box" },
    h(
      "table",
      { class: "table", "data-test": "columns" },
      h("thead", null, h("tr", null, h("th", null, "column"), h("th", null, "used as"), h("th", { class: "number" }, "distinct"), h("th", null, "values"))),
      h(
        "tbody",
        null,
        table.columns.map((column) => {
          const values = valuesOf(column);
          const role = roles.get(column.name);
          return h(
            "tr",
            null,
            h("td", { class: "mono" }, column.name),
            h("td", null, role ? h("span", { class: "chip", "data-tone": "accent", title: role.how || null }, role.role) : h("span", { class: "muted" }, "–")),
            h("td", { class: "number" }, count(column.distinct)),
            h(
              "td",
              null,
              h(
                "div",
                { class: "values" },
                values.slice(0, SHOWN_VALUES).map((value) => h("span", { class: "chip clip" }, value)),
                column.distinct > SHOWN_VALUES && values.length > 0 && h("span", { class: "muted small" }, `and ${count(column.distinct - SHOWN_VALUES)} more`),
              ),
            ),
          );
        }),
      ),
    ),
  );
}

/** Cases of each class as bars: what is rare is seen at once. */
export function balance(check: CohortCheck, task: Task): HTMLElement | null {
  const rows = task === "classify" ? (check.classes ?? []) : outcomes(check);
  if (rows.length === 0) return null;
  const most = Math.max(1, ...rows.map((row) => row.cases));
  return h(
    "div",
    { class: "balance", "data-test": "balance" },
    rows.map((row, i) => [
      h("span", { class: "clip", title: row.label }, row.label),
      h("span", { class: "balance-bar" }, h("span", { class: `fill fill-${i % 8}`, style: { width: `${(row.cases / most) * 100}%` } })),
      h("span", { class: "number" }, counted(row.cases, "case")),
      h("span", { class: "muted number" }, row.slides === null ? "" : counted(row.slides, "slide")),
    ]),
  );
}

function outcomes(check: CohortCheck): { label: string; cases: number; slides: number | null }[] {
  if (check.events === null) return [];
  return [
    { label: "event seen", cases: check.events, slides: null },
    { label: "censored", cases: Math.max(0, check.cases - check.events), slides: null },
  ];
}

/** Ready, or what is wrong and what would cure it. */
export function verdict(check: CohortCheck): Child[] {
  const notes = check.notes.map((text) => note("info", text, "note"));
  if (!check.ok) return [...check.problems.map((text) => note("bad", text, "problem")), ...notes];
  const what = `${counted(check.cases, "case")}, ${counted(check.slides, "slide")}, ${counted(check.splits.length, "split")}.`;
  return [h("div", { class: "note", "data-tone": "good", "data-test": "ready" }, icon("check"), h("span", null, h("b", null, "Ready: "), what)), ...notes];
}

export function note(tone: "warn" | "bad" | "info", text: string, test: string): HTMLElement {
  return h("div", { class: "note", "data-tone": tone, "data-test": test }, icon(tone === "info" ? "info" : "warn"), h("span", null, text));
}

/** Rows and slides that are not used, by reason, with examples. */
export function dropped(check: CohortCheck): HTMLElement | null {
  if (check.dropped.length === 0) return null;
  const all = check.dropped.reduce((sum, one) => sum + one.rows, 0);
  return h(
    "details",
    { class: "left-out", "data-test": "dropped" },
    h("summary", null, `${count(all)} left out, with reasons`),
    h(
      "ul",
      null,
      check.dropped.map((one) =>
        h(
          "li",
          null,
          h("b", { class: "number" }, count(one.rows)),
          h("span", null, one.reason, one.examples.length > 0 && h("span", { class: "muted" }, `: ${one.examples.slice(0, 3).join(", ")}${one.rows > 3 ? ", …" : ""}`)),
        ),
      ),
    ),
  );
}
