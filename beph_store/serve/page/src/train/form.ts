/** The question and the head: what to learn, from which columns, with what. */

import { h, type Child } from "../dom.ts";
import { HEAD_KINDS, TASKS, type CohortTable, type Task } from "../studies.ts";
import { kept, targets, valuesOf, type Choices } from "./choices.ts";

/** Fields whose option has another name. */
const OPTIONS: Readonly<Record<string, string>> = {
  event: "event_column", "event-means": "event_means", time: "time_column", "time-unit": "time_unit", slide: "slide_column", case: "case_column",
};

type Change = (part: Partial<Choices>) => void;

/**
 * The form for a table as it stands. `wrong` names the options that a problem is about, `open` is whether the rarer
 * options are unfolded; `change` is told what the person changed, and draws the form anew.
 */
export function form(table: CohortTable, choices: Choices, wrong: readonly string[], open: boolean, change: Change): HTMLElement {
  const made = h(
    "div",
    { class: "stack train-form" },
    h(
      "div",
      { class: "segments wide", role: "group", "aria-label": "What to learn" },
      (Object.keys(TASKS) as Task[]).map((task) =>
        h(
          "button",
          { "aria-pressed": choices.task === task, "data-test": `task-${task}`, "data-focus": `task-${task}`, onclick: () => change({ task }) },
          TASKS[task],
        ),
      ),
    ),
    choices.task === "classify" ? classFields(table, choices, change) : survivalFields(table, choices, change),
    heads(choices, change),
    numbers(choices, change),
    more(table, choices, change, open),
  );
  for (const field of made.querySelectorAll<HTMLElement>("[data-option]")) {
    if (!wrong.includes(field.dataset.option ?? "")) continue;
    field.setAttribute("aria-invalid", "true");
    const folded = field.closest("details");
    if (folded) folded.open = true;
  }
  return made;
}

function classFields(table: CohortTable, choices: Choices, change: Change): Child[] {
  const column = table.columns.find((one) => one.name === choices.target);
  const values = valuesOf(column);
  const names = targets(table).map((one) => one.name);
  const learnt = kept(choices, table);
  const positive = choices.positive !== "" && learnt.includes(choices.positive) ? choices.positive : learnt[1];
  return [
    h(
      "div",
      { class: learnt.length === 2 ? "pair" : "stack" },
      select("Class", "target", choices.target, [["", "by the column’s name"], ...names.map(same)], (target) => change({ target, without: [], positive: "" })),
      learnt.length === 2 && select("Positive class", "positive", positive, learnt.map(same), (chosen) => change({ positive: chosen })),
    ),
    values.length > 2 &&
      h(
        "div",
        { class: "classes", role: "group", "aria-label": "Classes to learn" },
        h("span", { class: "muted small" }, "Classes to learn"),
        values.map((value) =>
          h(
            "label",
            { class: "tick" },
            h("input", {
              type: "checkbox", checked: !choices.without.includes(value), "data-focus": `class-${value}`,
              onchange: () => change({ without: toggled(choices.without, value) }),
            }),
            h("span", { class: "clip" }, value),
          ),
        ),
      ),
  ];
}

function survivalFields(table: CohortTable, choices: Choices, change: Change): Child[] {
  const columns = [["", "by the column’s name"], ...table.columns.map((column) => same(column.name))] as [string, string][];
  return [
    h(
      "div",
      { class: "pair" },
      select("Event", "event", choices.event, columns, (event) => change({ event })),
      select(
        "1, true or yes means", "event-means", choices.eventMeans,
        [["", "as the name says"], ["event", "the event was seen"], ["censored", "the case is censored"]],
        (eventMeans) => change({ eventMeans }),
      ),
    ),
    h(
      "div",
      { class: "pair" },
      select("Time", "time", choices.time, columns, (time) => change({ time })),
      select(
        "Unit of time", "time-unit", choices.timeUnit,
        [["", "as the name says"], ["days", "days"], ["months", "months"], ["years", "years"]],
        (timeUnit) => change({ timeUnit }),
      ),
    ),
  ];
}

function heads(choices: Choices, change: Change): HTMLElement {
  return h(
    "div",
    { class: "head-cards", role: "radiogroup", "aria-label": "Head" },
    h("span", { class: "muted small" }, "Head"),
    HEAD_KINDS.map((kind) =>
      h(
        "label",
        { class: "head-card" },
        h("input", {
          type: "radio", name: "head", value: kind.name, checked: choices.head === kind.name, "data-test": `head-${kind.name}`,
          "data-focus": `head-${kind.name}`, onchange: () => change({ head: kind.name }),
        }),
        h("span", null, h("b", null, kind.title), h("span", { class: "muted small" }, kind.says)),
      ),
    ),
  );
}

function numbers(choices: Choices, change: Change): HTMLElement {
  return h(
    "div",
    { class: "pair" },
    whole("Folds, by case", "folds", choices.folds, 2, 100, (folds) => change({ folds: folds ?? 5 })),
    choices.head === "linear"
      ? whole("Seed", "seed", choices.seed, 0, 2 ** 31 - 1, (seed) => change({ seed: seed ?? 0 }))
      : whole("Epochs at most", "epochs", choices.epochs, 1, 1000, (epochs) => change({ epochs }), "as suits the head"),
  );
}

/** What is rarely chosen, folded away. */
function more(table: CohortTable, choices: Choices, change: Change, open: boolean): HTMLElement {
  const columns = [["", "by the column’s name"], ...table.columns.map((column) => same(column.name))] as [string, string][];
  const deep = choices.head !== "linear";
  return h(
    "details",
    { class: "more-options", open, "data-test": "more" },
    h("summary", null, "More options"),
    h(
      "div",
      { class: "pair" },
      select("Column of slides", "slide", choices.slide, columns, (slide) => change({ slide })),
      select("Column of cases (patients)", "case", choices.case, columns, (chosen) => change({ case: chosen })),
    ),
    deep &&
      h(
        "div",
        { class: "pair" },
        whole("Seed", "seed", choices.seed, 0, 2 ** 31 - 1, (seed) => change({ seed: seed ?? 0 })),
        choices.task === "survive" && select("Loss", "loss", choices.loss, [["auto", "Cox, the whole cohort"], ["nll", "discrete time"]], (loss) => change({ loss })),
      ),
    h(
      "label",
      { class: "labelled" },
      h("span", null, "Name of the head"),
      h("input", {
        class: "field", maxlength: 120, value: choices.title, placeholder: "made from what it learns", "data-test": "title", "data-focus": "title",
        onchange: (event: Event) => change({ title: (event.target as HTMLInputElement).value }),
      }),
    ),
  );
}

function select(
  title: string,
  name: string,
  value: string,
  entries: readonly (readonly [string, string])[],
  chosen: (value: string) => void,
): HTMLElement {
  const field = h(
    "select",
    { class: "field", "data-test": name, "data-focus": name, "data-option": OPTIONS[name] ?? name, onchange: () => chosen(field.value) },
    entries.map(([key, shown]) => h("option", { value: key, selected: key === value }, shown)),
  );
  return h("label", { class: "labelled" }, h("span", null, title), field);
}

function whole(
  title: string,
  name: string,
  value: number | null,
  low: number,
  high: number,
  chosen: (value: number | null) => void,
  placeholder = "",
): HTMLElement {
  const read = (): void => {
    const given = Number.parseInt(field.value, 10);
    const kept = Number.isNaN(given) ? null : Math.max(low, Math.min(high, given));
    if (kept !== null) field.value = String(kept);
    chosen(kept);
  };
  const field = h("input", {
    class: "field", type: "number", min: low, max: high, step: 1, value: value ?? "", placeholder, "data-test": name, "data-focus": name,
    "data-option": name, onchange: read,
  });
  return h("label", { class: "labelled" }, h("span", null, title), field);
}

function same(name: string): [string, string] {
  return [name, name];
}

function toggled(list: readonly string[], value: string): string[] {
  return list.includes(value) ? list.filter((one) => one !== value) : [...list, value];
}
