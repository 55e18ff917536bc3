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
  readonly values?: readonly (string | { readonly value: string; readonly rows: number })[];
}

/** An uploaded table. */
export interface CohortTable {
  readonly cohort: string;
  readonly name: string;
  readonly rows: number;
  readonly columns: readonly ColumnInfo[];
  readonly created_at?: string;
}

export interface CohortCheck {
  readonly ok: boolean;
  readonly problems: readonly string[];
  readonly cases: number;
  readonly slides: number;
  readonly classes: readonly { readonly label: string; readonly cases: number; readonly slides: number }[] | null;
  readonly events?: number | null;
  readonly dropped: readonly { readonly reason: string; readonly rows: number; readonly examples: readonly string[] }[];
  readonly columns_used: Readonly<Record<string, unknown>>;
}

export interface MetricValue {
  readonly value: number | null;
  readonly ci_low: number | null;
  readonly ci_high: number | null;
}

export interface HeadSummary {
  readonly head: string;
  readonly title?: string;
  readonly task: Task;
  readonly kind?: string;
  readonly classes: readonly string[];
  readonly recipe: string;
  readonly cases?: number;
  readonly slides?: number;
  readonly folds_count?: number;
  readonly created_at?: string;
  readonly metrics: Readonly<Record<string, MetricValue>>;
}

export interface HeadFold {
  readonly name: string;
  readonly train?: number;
  readonly val?: number;
  readonly test?: number;
  readonly metrics: Readonly<Record<string, number | null>>;
  readonly curve: readonly { readonly epoch: number; readonly train_loss: number | null; readonly val_loss: number | null }[];
  readonly best_epoch?: number | null;
}

export interface HeadDetail extends HeadSummary {
  readonly cohort: unknown;
  readonly options: Readonly<Record<string, unknown>>;
  readonly folds: readonly HeadFold[];
  readonly roc: readonly {
    readonly class: string;
    readonly fpr: readonly number[];
    readonly tpr: readonly number[];
    readonly auroc: number | null;
  }[] | null;
  readonly km: readonly {
    readonly group: string;
    readonly time_days: readonly number[];
    readonly survival: readonly number[];
    readonly at_risk: readonly number[];
  }[] | null;
  readonly logrank_p?: number | null;
  readonly confusion: { readonly labels: readonly string[]; readonly counts: readonly (readonly number[])[] } | null;
  readonly warnings: readonly string[];
}

export interface HeadCase {
  readonly case_id: string;
  readonly slides: readonly (string | { readonly slide: string; readonly slide_id: string })[];
  readonly label: string | null;
  readonly predicted: string | null;
  readonly probabilities: Readonly<Record<string, number>> | null;
  readonly risk?: number | null;
  readonly event?: boolean | null;
  readonly time_days?: number | null;
  readonly loss: number | null;
  readonly fold: number | string | null;
}

const LIVE: readonly JobState[] = ["queued", "running"];

/** Whether a job is still to end. */
export function isLive(job: Job): boolean {
  return LIVE.includes(job.state);
}

/** What metrics are called in sentences. */
const METRICS: Readonly<Record<string, string>> = {
  auroc: "AUROC",
  auprc: "average precision",
  balanced_accuracy: "balanced accuracy",
  accuracy: "accuracy",
  f1_macro: "F1, macro",
  f1_weighted: "F1, weighted",
  kappa_quadratic: "quadratic kappa",
  log_loss: "log loss",
  brier: "Brier score",
  ece: "calibration error",
  cindex_harrell: "Harrell’s C",
  cindex_uno: "Uno’s C",
  cindex_uno_truncated: "Uno’s C, truncated",
  auc_t: "time-dependent AUC",
  ibs: "integrated Brier score",
};

/** The name of a metric; `recall[high]` is "recall of high". */
export function metricName(name: string): string {
  const of = /^(.*)\[(.*)\]$/s.exec(name);
  if (of) return `${METRICS[of[1]] ?? of[1]} of ${of[2]}`;
  return METRICS[name] ?? name.replaceAll("_", " ");
}

/** Those to show first, in order. */
export const HEADLINES: Readonly<Record<Task, readonly string[]>> = {
  classify: ["auroc", "balanced_accuracy", "auprc", "accuracy"],
  survive: ["cindex_harrell", "cindex_uno", "auc_t", "ibs"],
};

/** Of these less is better. */
export const LESS_IS_BETTER: ReadonlySet<string> = new Set(["log_loss", "brier", "ece", "ibs"]);

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
