/** What a person chose for a training, and what that is for the server. Pure. */

import type { CohortTable, ColumnInfo, Task } from "../studies.ts";

export interface Choices {
  readonly task: Task;
  /** Column of the class; "" leaves it to the names of the columns. */
  readonly target: string;
  /** Those left out, of the classes that the target has. */
  readonly without: readonly string[];
  /** Of two classes, the one that figures speak of; "" for the second of the alphabet. */
  readonly positive: string;
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
  task: "classify", target: "", without: [], positive: "", case: "", slide: "", event: "", eventMeans: "", time: "", timeUnit: "",
  head: "linear", loss: "auto", folds: 5, seed: 0, epochs: null, title: "",
};

/** Values of a column, the frequent first; empty where there are too many to list. */
export function valuesOf(column: ColumnInfo | undefined): string[] {
  return (column?.values ?? []).map((one) => one.value);
}

/** What can be learnt as a class: few values and not one a row. */
export function targets(table: CohortTable): ColumnInfo[] {
  return table.columns.filter((column) => column.distinct >= 2 && column.distinct <= 40 && valuesOf(column).length > 0);
}

/** The target to begin with: one whose name says that it is, or the only one that could be; "" to be asked. */
export function likelyTarget(table: CohortTable): string {
  const could = targets(table).map((column) => column.name);
  const named = table.suggested.class.filter((name) => could.includes(name));
  if (named.length > 0) return named[0];
  const others = could.filter((name) => !isKey(table, name));
  return others.length === 1 ? others[0] : "";
}

function isKey(table: CohortTable, name: string): boolean {
  const { slide, case: cases, event, time } = table.suggested;
  return [slide, cases, event, time].some((names) => names.includes(name));
}

/** Whether the names of the columns speak of survival rather than of classes. */
export function likelyTask(table: CohortTable): Task {
  const { event, time } = table.suggested;
  return event.length > 0 && time.length > 0 && table.suggested.class.length === 0 ? "survive" : "classify";
}

/** The classes that will be learnt, in the order of the alphabet. */
export function kept(choices: Choices, table: CohortTable): string[] {
  const column = table.columns.find((one) => one.name === choices.target);
  return valuesOf(column).filter((value) => !choices.without.includes(value)).sort((a, b) => (a < b ? -1 : 1));
}

/** The classes to ask for, of two the positive one last; null where the server's own order and all classes will do. */
export function classesOf(choices: Choices, table: CohortTable): string[] | null {
  const classes = kept(choices, table);
  const turned = classes.length === 2 && choices.positive === classes[0];
  if (choices.without.length === 0 && !turned) return null;
  return turned ? classes.reverse() : classes;
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
