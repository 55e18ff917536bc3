/** What the server says about jobs, tables of labels and heads, and what that is called in sentences. */

import type { Job, JobState } from "./types.ts";

export type Task = "classify" | "survive";
/** A line of a job's history; which fields are there depends on `kind`. */
export interface JobEvent {
  readonly n: number;
  readonly job?: string;
  readonly kind: string;
  readonly at?: string;
  readonly text?: string;
  readonly error?: string;
  readonly state?: JobState;
  readonly fold?: number;
  readonly folds?: number;
  readonly epoch?: number | null;
  readonly epochs?: number | null;
  readonly train_loss?: number | null;
  readonly val_loss?: number | null;
}

export interface ColumnInfo {
  readonly name: string;
  readonly distinct: number;
  /** Rows that have a value. */
  readonly given?: number;
  /** Absent where there are too many to list. */
  readonly values?: readonly { readonly value: string; readonly rows: number }[];
}

export type Role = "slide" | "case" | "class" | "event" | "time";

/** An uploaded table. */
export interface CohortTable {
  readonly cohort: string;
  readonly name: string;
  readonly rows: number;
  readonly uploaded_at: string;
  readonly columns: readonly ColumnInfo[];
  /** Columns whose name says what they are; none, or several. */
  readonly suggested: Readonly<Record<Role, readonly string[]>>;
}

export interface CohortCheck {
  readonly ok: boolean;
  readonly problems: readonly string[];
  /** Options that the problems are about. */
  readonly fields: readonly string[];
  /** Good to know, in nobody's way. */
  readonly notes: readonly string[];
  readonly task: Task;
  readonly cases: number;
  readonly slides: number;
  readonly classes: readonly { readonly label: string; readonly cases: number; readonly slides: number }[] | null;
  readonly events: number | null;
  readonly dropped: readonly { readonly reason: string; readonly rows: number; readonly examples: readonly string[] }[];
  readonly columns_used: Readonly<Record<string, { readonly column: string; readonly how: string }>>;
  readonly splits: readonly { readonly name: string; readonly train: number; readonly val: number; readonly test: number }[];
}

export interface MetricValue {
  readonly value: number | null;
  readonly ci_low: number | null;
  readonly ci_high: number | null;
}

export interface HeadSummary {
  readonly head: string;
  readonly title: string;
  readonly source: "job" | "folder";
  readonly task: Task;
  readonly classes: readonly string[];
  readonly kind: string;
  readonly recipe: string;
  readonly encoder: string;
  /** Whether this store has the recipe. */
  readonly in_store: boolean;
  readonly cases: number;
  readonly trained_at: string;
  readonly headline: (MetricValue & { readonly name: string; readonly title: string }) | null;
  readonly predictions: { readonly made_at: string; readonly slides: number; readonly cases: number; readonly stale: boolean } | null;
}

export interface HeadListItem extends HeadSummary {
  readonly folds: number;
}

export interface HeadList {
  readonly heads: readonly HeadListItem[];
  readonly unreadable: readonly { readonly head: string; readonly error: string }[];
}

export interface HeadFold {
  readonly name: string;
  readonly train: number;
  readonly val: number;
  readonly test: number;
  readonly metrics: Readonly<Record<string, number | null>>;
  readonly curve: readonly { readonly epoch: number; readonly train_loss: number | null; readonly val_loss: number | null }[];
  readonly best_epoch: number | null;
  readonly penalties?: readonly { readonly penalty: number; readonly loss: number }[];
  readonly penalty?: number | null;
}

export interface KmCurve {
  readonly group: string;
  readonly cases: number;
  readonly events: number;
  readonly time_days: readonly number[];
  readonly survival: readonly number[];
  readonly at_risk: readonly number[];
  readonly censored: readonly number[];
}

export interface HeadDetail extends HeadSummary {
  readonly cohort: { readonly cohort: string | null; readonly name: string; readonly cases: number; readonly slides: number };
  readonly options: Readonly<Record<string, unknown>>;
  readonly metrics: Readonly<Record<string, MetricValue & { readonly title: string; readonly lower_is_better: boolean }>>;
  readonly headlines: readonly string[];
  readonly folds: readonly HeadFold[];
  readonly roc: readonly {
    readonly class: string;
    readonly fpr: readonly number[];
    readonly tpr: readonly number[];
    readonly auroc: number | null;
  }[] | null;
  readonly km: readonly KmCurve[] | null;
  readonly logrank_p: number | null;
  readonly confusion: { readonly labels: readonly string[]; readonly counts: readonly (readonly number[])[] } | null;
  readonly warnings: readonly string[];
  readonly dropped: readonly { readonly reason: string; readonly rows: number }[];
  readonly columns_used: readonly string[];
}

export interface HeadCase {
  readonly case_id: string;
  readonly slides: readonly string[];
  readonly slide_ids: readonly string[];
  readonly tiles: number;
  readonly label: string | null;
  readonly predicted: string | null;
  readonly probabilities: Readonly<Record<string, number>> | null;
  readonly risk?: number | null;
  readonly event?: boolean | null;
  readonly time_days?: number | null;
  readonly loss: number | null;
  readonly fold: number | null;
}

export interface HeadCases {
  readonly total: number;
  readonly offset: number;
  /** What `loss` is. */
  readonly error: string;
  readonly cases: readonly HeadCase[];
}

const LIVE: readonly JobState[] = ["queued", "running"];

/** Whether a job is still to end. */
export function isLive(job: Job): boolean {
  return LIVE.includes(job.state);
}

const METRICS: Readonly<Record<string, string>> = { brier: "Brier score", ece: "calibration error", log_loss: "log loss", f1: "F1", auroc: "AUROC", auprc: "average precision" };

/** What a metric is called in the page, where the server has only its short name: `recall[high]` is "recall of high". */
export function metricTitle(name: string, title: string): string {
  if (title !== name) return title;
  const [, what = name, of] = /^([^[]+)\[(.*)\]$/s.exec(name) ?? [];
  const known = METRICS[what] ?? what.replaceAll("_", " ");
  return of === undefined ? known : `${known} of ${of}`;
}

/** Splits are numbered from 0 in files, from 1 in sentences: "fold-0" is "fold 1". */
export function splitTitle(name: string): string {
  const ours = /^(?:repeat-(\d+)-)?fold-(\d+)$/.exec(name);
  if (!ours) return name;
  const fold = `fold ${Number(ours[2]) + 1}`;
  return ours[1] === undefined ? fold : `repeat ${Number(ours[1]) + 1}, ${fold}`;
}

/** What chance reaches, where one number says it. */
export function chanceOf(metric: string, classes: number): number | null {
  if (/^auroc/.test(metric) || /^cindex/.test(metric) || metric === "auc_t") return 0.5;
  if (metric === "balanced_accuracy" && classes > 1) return 1 / classes;
  return null;
}

export const HEAD_KINDS = [
  { name: "linear", title: "Linear", says: "on each case’s mean embedding; in seconds. Start here." },
  { name: "abmil", title: "ABMIL", says: "gated attention over tiles; learns where to look. Minutes." },
  { name: "clam", title: "CLAM", says: "attention with an instance loss, as BEPH used it. Minutes." },
] as const;

export const TASKS: Readonly<Record<Task, string>> = { classify: "Classification", survive: "Survival" };
