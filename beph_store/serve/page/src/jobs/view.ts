/** Jobs: the queue on the left, one job on the right, both as they happen. A reload loses nothing: the server has it. */

import "../charts/charts.css";
import "./jobs.css";

import { get, isAbort, reason } from "../api.ts";
import { h, icon, replace } from "../dom.ts";
import { on, onStream } from "../events.ts";
import { go, link, type Dispose, type Params, type View } from "../router.ts";
import { isWritable } from "../session.ts";
import type { JobEvent } from "../studies.ts";
import type { Job } from "../types.ts";
import { detail, type Detail } from "./detail.ts";
import { drawList } from "./list.ts";
import { inOrder } from "./words.ts";

const TICK_MS = 15_000;

export const jobs: View = (root, params) => {
  const ending = new AbortController();
  const known = new Map<string, Job>();
  const list = h("nav", { class: "job-list", "aria-label": "Jobs" });
  const place = h("div", { class: "job-place" });
  const page = h("div", { class: "page jobs-page", "data-view": "jobs", "data-state": "loading" });
  let chosen: string | null = params.path.id ?? null;
  let shown: Detail | null = null;

  const draw = (): void => {
    if (known.size === 0) return replace(page, head(), nothing());
    if (!page.contains(list)) replace(page, head(), h("div", { class: "jobs-columns" }, list, place));
    const current = chosen ?? inOrder([...known.values()])[0]?.job ?? null;
    drawList(list, [...known.values()], current);
    show(current);
  };

  const show = (id: string | null): void => {
    if (shown && shown.job() === id) return;
    shown?.stop();
    shown = null;
    const job = id === null ? undefined : known.get(id);
    if (job) {
      shown = detail(job, () => void removed(job.job));
      replace(place, shown.element);
    } else {
      replace(place, h("div", { class: "empty panel", "data-test": "no-job" }, icon("jobs"), h("h2", null, "There is no such job"), h("p", null, "It may have been deleted.")));
    }
  };

  const removed = (id: string): void => {
    known.delete(id);
    chosen = null;
    shown?.stop();
    shown = null;
    if (location.hash === link("/jobs")) draw();
    else go(link("/jobs"));
  };

  const load = async (): Promise<void> => {
    try {
      const found = await get<{ jobs: Job[] }>("/api/jobs", ending.signal);
      known.clear();
      for (const job of found.jobs) known.set(job.job, job);
      draw();
      for (const job of found.jobs) if (shown?.job() === job.job) shown.update(job);
      shown?.catchUp();
      page.dataset.state = "ready";
    } catch (thrown) {
      if (isAbort(thrown)) return;
      page.dataset.state = "error";
      replace(page, head(), h("div", { class: "note", "data-tone": "bad" }, icon("warn"), h("span", null, reason(thrown))));
    }
  };

  root.append(page);
  void load();
  const offs = [
    on<Job>("job", (job) => {
      if (page.dataset.state !== "ready") return;
      known.set(job.job, job);
      if (shown?.job() === job.job) shown.update(job);
      draw();
    }),
    on<JobEvent>("job-event", (event) => {
      if (event.job !== undefined && shown?.job() === event.job) shown.heard(event);
    }),
    // After a time without the stream, anything may have happened.
    onStream((state) => { if (state === "open" && page.dataset.state === "ready") void load(); }),
  ];
  const tick = window.setInterval(() => { if (page.dataset.state === "ready" && !document.hidden) draw(); }, TICK_MS);
  const dispose: Dispose = () => {
    ending.abort();
    clearInterval(tick);
    shown?.stop();
    for (const off of offs) off();
  };
  dispose.update = (now: Params) => {
    chosen = now.path.id ?? null;
    if (page.dataset.state === "ready") draw();
    return true;
  };
  return dispose;
};

function head(): HTMLElement {
  return h(
    "header",
    { class: "page-head" },
    h("h1", null, "Jobs"),
    h("p", { class: "muted" }, "They run beside the page and go on when it is closed, or the server is started anew."),
  );
}

function nothing(): HTMLElement {
  return h(
    "div",
    { class: "empty panel", "data-test": "no-jobs" },
    icon("jobs"),
    h("h2", null, "No job yet"),
    h("p", null, isWritable() ? "Trainings, predictions and ingests that are started in the page are listed here." : "This server only reads: started with --allow-write it can train and ingest."),
    isWritable() && h("a", { class: "button primary", href: link("/train") }, "Train a head"),
  );
}
