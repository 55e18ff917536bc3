/** The queue: what runs, what waits, what has ended. */

import { progressBar } from "../charts/bar.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { ago, span } from "../format.ts";
import { link } from "../router.ts";
import type { Job } from "../types.ts";
import { inOrder, KINDS, progressWords, seconds, TONES } from "./words.ts";

/** Fill `box` with the jobs; `chosen` is the one that is shown beside them. */
export function drawList(box: HTMLElement, jobs: readonly Job[], chosen: string | null): void {
  const focused = (document.activeElement as HTMLElement | null)?.dataset.job;
  const sorted = inOrder(jobs);
  const parts: [string, Job[]][] = [
    ["Running", sorted.filter((job) => job.state === "running")],
    ["Waiting", sorted.filter((job) => job.state === "queued")],
    ["Ended", sorted.filter((job) => job.state !== "running" && job.state !== "queued")],
  ];
  replace(
    box,
    parts
      .filter(([, some]) => some.length > 0)
      .map(([title, some]) => h("section", null, h("h3", null, title), h("ul", null, some.map((job) => h("li", null, row(job, chosen)))))),
  );
  if (focused && box.isConnected) box.querySelector<HTMLElement>(`[data-job="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function row(job: Job, chosen: string | null): HTMLElement {
  const running = job.state === "running";
  return h(
    "a",
    {
      class: "job-row", href: link("/jobs/:id", { id: job.job }), "aria-current": job.job === chosen ? "true" : null,
      "data-job": job.job, "data-state": job.state, "data-test": "job",
    },
    h("span", { class: "row between" }, h("b", { class: "clip" }, job.title), stateChip(job)),
    h("span", { class: "muted small" }, KINDS[job.kind] ?? job.kind, " · ", timing(job)),
    running && progressBar(job.progress?.done ?? 0, job.progress?.total, job.title),
    running && job.progress && h("span", { class: "muted small clip" }, progressWords(job.progress)),
  );
}

function timing(job: Job): Child {
  const took = seconds(job);
  if (job.state === "queued") return `asked for ${ago(job.created_at)}`;
  if (job.state === "running") return `for ${span(took)}`;
  return took === null ? `ended ${ago(job.ended_at)}` : `${span(took)}, ended ${ago(job.ended_at)}`;
}

export function stateChip(job: Job): HTMLElement {
  return h(
    "span",
    { class: "chip", "data-tone": TONES[job.state] || null, "data-test": "job-state" },
    job.state === "running" ? h("span", { class: "spinner in-chip" }) : null,
    job.state === "failed" ? icon("warn") : null,
    job.state === "queued" ? "waiting" : job.state,
  );
}

/** Points down when the panel below it is open. */
export function foldMark(): SVGSVGElement {
  const mark = icon("right");
  mark.classList.add("fold-mark");
  return mark;
}
