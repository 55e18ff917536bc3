/** What a person chose for a training, and what that is for the server. Pure. */

import type { CohortTable, ColumnInfo, Task } from "../studies.ts";

export interface Choices {
  readonly task: Task;
  /** Column of the class; "" leaves it to the names of the columns. */
  readonly target: string;
  /** Those left out, of the classes that the target has. */
  readonly without: readonly string[];
  readonly case: string;
  readonly slide: string;
  readonly event: string;
  readonly eventMeans: string;
  readonly time: string;
  readonly timeUnit: string;
  readonly head: string;
  readonly loss: string;
  readonly folds: number;
  readonly seed: number;
  readonly epochs: number | null;
  readonly title: string;
}

export const FIRST: Choices = {
  task: "classify", target: "", without: [], case: "", slide: "", event: "", eventMeans: "", time: "", timeUnit: "",
  head: "linear", loss: "auto", folds: 5, seed: 0, epochs: null, title: "",
};

/** Names that the server takes for a class by itself; see docs/cohorts.md. */
const CLASS_NAMES = ["label", "labels", "class", "classes", "target", "oncotreecode", "subtype", "tumortype", "cancertype"];

/** A column's name without what does not matter in it. */
export function plain(name: string): string {
  return name.toLowerCase().replace(/[^a-z0-9]/g, "");
}

/** Values of a column as text, the frequent first. */
export function valuesOf(column: ColumnInfo | undefined): string[] {
  return (column?.values ?? []).map((value) => (typeof value === "string" ? value : value.value));
}

/** What can be learnt as a class: few values and not one a row. */
export function targets(table: CohortTable): ColumnInfo[] {
  return table.columns.filter((column) => column.distinct >= 2 && column.distinct <= 40 && valuesOf(column).length > 0);
}

/** The target to begin with: one whose name says that it is; "" where the person has to say. */
export function likelyTarget(table: CohortTable): string {
  const found = targets(table).filter((column) => CLASS_NAMES.includes(plain(column.name)));
  if (found.length > 0) return found[0].name;
  const others = targets(table);
  return others.length === 1 ? others[0].name : "";
}

/** Whether the names of the columns speak of survival rather than of classes. */
export function likelyTask(table: CohortTable): Task {
  const names = table.columns.map((column) => plain(column.name));
  const time = names.some((name) => /(days|months|years)$|^(time|ostime|oseventdata|survival|futime|duration)/.test(name));
  const event = names.some((name) => /^(event|os|osfl|osevent.*|osstatus|vitalstatus|censor.*|iscensored|death|dead|deceased|died)$/.test(name) || /event$/.test(name));
  return time && event && likelyTarget(table) === "" ? "survive" : "classify";
}

/** The classes to learn, in the table's order; null for all. */
export function classesOf(choices: Choices, table: CohortTable): string[] | null {
  if (choices.task !== "classify" || choices.without.length === 0) return null;
  const column = table.columns.find((one) => one.name === choices.target);
  return valuesOf(column).filter((value) => !choices.without.includes(value)).sort((a, b) => (a < b ? -1 : 1));
}

/** The part that a check and a training share. */
export function question(choices: Choices, table: CohortTable): Record<string, unknown> {
  const asked: Record<string, unknown> = { task: choices.task, folds: choices.folds };
  const put = (name: string, value: string): void => {
    if (value !== "") asked[name] = value;
  };
  if (choices.task === "classify") {
    put("target", choices.target);
    const classes = classesOf(choices, table);
    if (classes !== null) asked.classes = classes;
  } else {
    put("event_column", choices.event);
    put("event_means", choices.eventMeans);
    put("time_column", choices.time);
    put("time_unit", choices.timeUnit);
  }
  put("case_column", choices.case);
  put("slide_column", choices.slide);
  return asked;
}

/** The options of a training job. */
export function options(choices: Choices, table: CohortTable): Record<string, unknown> {
  const asked: Record<string, unknown> = {
    cohort: table.cohort,
    ...question(choices, table),
    head: choices.head,
    seed: choices.seed,
  };
  if (choices.task === "survive" && choices.loss !== "auto") asked.loss = choices.loss;
  if (choices.epochs !== null && choices.head !== "linear") asked.epochs = choices.epochs;
  if (choices.title.trim() !== "") asked.title = choices.title.trim();
  return asked;
}

/** The media type of a pasted or read table: tabs in the first line make it TSV. */
export function mediaType(text: string): string {
  const first = text.split(/\r?\n/, 1)[0];
  return first.includes("\t") ? "text/tab-separated-values" : "text/csv";
}
