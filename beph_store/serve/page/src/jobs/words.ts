/** How jobs are spoken of. Pure. */

import { count, span, stageName } from "../format.ts";
import type { JobEvent } from "../studies.ts";
import type { Job, JobState, Progress } from "../types.ts";

export const TONES: Readonly<Record<JobState, string>> = {
  queued: "", running: "accent", done: "good", failed: "bad", cancelled: "warn",
};

export const KINDS: Readonly<Record<string, string>> = {
  train: "training", apply: "predictions", ingest: "ingest", index: "index", finetune: "fine-tuning",
};

const STATES: Readonly<Record<string, string>> = {
  queued: "put into the queue", running: "started", done: "done", failed: "failed", cancelled: "cancelled",
};

/** A line of the history in words. */
export function eventWords(event: JobEvent): string {
  if (event.text) return event.text;
  const words = STATES[event.state ?? ""] ?? event.kind;
  return event.error ? `${words}: ${event.error}` : words;
}

/** "12 of 100 epochs · 3.2 epochs/s · 28 s left" */
export function progressWords(progress: Progress | null): string {
  if (progress === null) return "";
  const of = progress.total ? `${count(progress.done)} of ${count(progress.total)}` : count(progress.done);
  const parts = [`${of} ${progress.unit}`];
  if (progress.per_second) parts.push(`${rate(progress.per_second)} ${progress.unit}/s`);
  if (progress.eta_seconds !== null && progress.eta_seconds !== undefined) parts.push(`${span(progress.eta_seconds)} left`);
  if (progress.bottleneck) parts.push(`held up by ${stageName(progress.bottleneck)}`);
  return parts.join(" · ");
}

function rate(value: number): string {
  return value >= 10 ? count(Math.round(value)) : value.toFixed(value >= 1 ? 1 : 2);
}

/** Seconds from the start to the end, or to `now` for one that runs; null for one that has not begun. */
export function seconds(job: Job, now: number = Date.now()): number | null {
  if (!job.started_at) return null;
  const end = job.ended_at ? Date.parse(job.ended_at) : now;
  return Math.max(0, (end - Date.parse(job.started_at)) / 1000);
}

/** Those that run, then those that wait in their order, then those that ended, the newest first. */
export function inOrder(jobs: readonly Job[]): Job[] {
  const rank = (job: Job): number => (job.state === "running" ? 0 : job.state === "queued" ? 1 : 2);
  return [...jobs].sort((a, b) => {
    if (rank(a) !== rank(b)) return rank(a) - rank(b);
    if (rank(a) < 2) return a.created_at < b.created_at ? -1 : 1;
    return (a.ended_at ?? a.created_at) > (b.ended_at ?? b.created_at) ? -1 : 1;
  });
}
