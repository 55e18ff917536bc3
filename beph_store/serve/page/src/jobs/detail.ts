/** One job: how far it is, its curves as they grow, what it said, and what can be done with it. */

import { del, get, isAbort, post, text } from "../api.ts";
import { progressBar } from "../charts/bar.ts";
import { legend } from "../charts/legend.ts";
import { curveChart, shared } from "../charts/lines.ts";
import { confirmed } from "../dialog.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { span, when } from "../format.ts";
import { link } from "../router.ts";
import { isWritable, recipeInfo, recipeName } from "../session.ts";
import { isLive, type JobEvent } from "../studies.ts";
import { toastError } from "../toast.ts";
import type { Job } from "../types.ts";
import { foldMark, stateChip } from "./list.ts";
import { hasGap, NOTHING, told, type Story } from "./story.ts";
import { eventWords, KINDS, progressWords, seconds } from "./words.ts";

const LOG_MS = 2500;
const DRAW_MS = 120;

export interface Detail {
  readonly element: HTMLElement;
  readonly job: () => string;
  readonly update: (job: Job) => void;
  readonly heard: (event: JobEvent) => void;
  /** Ask for what may have been missed, as after the tab was hidden. */
  readonly catchUp: () => void;
  readonly stop: () => void;
}

/** The detail of a job; `gone` is called when it was deleted. */
export function detail(first: Job, gone: () => void): Detail {
  const ending = new AbortController();
  let job = first;
  let story: Story = NOTHING;
  let asking: Promise<void> | null = null;
  let drawTimer = 0;
  let logTimer = 0;

  const head = h("div", { class: "panel-body job-head" });
  const curves = h("section", { class: "panel", "data-test": "curves", hidden: true });
  const notes = h("section", { class: "panel", hidden: true });
  const log = h("pre", { class: "log", tabindex: 0, "aria-label": "Log", "data-test": "log" });
  const logBox = h("details", { class: "panel job-log", ontoggle: () => readLog() }, h("summary", { class: "panel-head" }, foldMark(), h("h2", null, "Log")), log);
  const element = h("div", { class: "stack", "data-test": "job-detail", "data-job": job.job }, h("section", { class: "panel" }, head), curves, notes, logBox);

  const act = async (what: () => Promise<unknown>): Promise<void> => {
    try {
      await what();
    } catch (thrown) {
      toastError(thrown);
    }
  };
  const cancel = async (): Promise<void> => {
    if (job.state === "running" && !(await confirmed("Cancel this job?", `${job.title}: what it has done so far is thrown away.`, "Cancel the job"))) return;
    await act(async () => update(await post<Job>(`/api/jobs/${job.job}/cancel`)));
  };
  const remove = async (): Promise<void> => {
    const loses = job.kind === "train" && job.state === "done" ? " Its head is deleted with it." : "";
    if (!(await confirmed("Delete this job?", `${job.title}.${loses}`, "Delete"))) return;
    await act(async () => {
      await del(`/api/jobs/${job.job}`);
      gone();
    });
  };

  const drawHead = (): void => {
    element.dataset.state = job.state;
    replace(head, headOf(job, () => void cancel(), () => void remove()));
  };
  const drawStory = (): void => {
    drawTimer = 0;
    drawCurves(curves, job, story);
    drawNotes(notes, story);
    element.dataset.epochs = String(story.curves.reduce((sum, curve) => sum + curve.curve.length, 0));
  };
  const drawSoon = (): void => {
    if (drawTimer === 0) drawTimer = window.setTimeout(drawStory, DRAW_MS);
  };

  const ask = async (): Promise<void> => {
    try {
      for (;;) {
        const { events, next } = await get<{ events: JobEvent[]; next: number }>(`/api/jobs/${job.job}/events?after=${story.last}`, ending.signal);
        story = told(story, events);
        if (events.length === 0 || next <= story.last) break;
      }
      drawSoon();
    } catch (thrown) {
      if (!isAbort(thrown)) toastError(thrown);
    } finally {
      asking = null;
    }
  };
  const catchUp = (): void => {
    asking ??= ask();
  };

  const readLog = (): void => {
    clearTimeout(logTimer);
    if (!logBox.open || ending.signal.aborted) return;
    text(`/api/jobs/${job.job}/log`, ending.signal).then(
      (content) => {
        const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
        log.textContent = content.trim() === "" ? "Nothing has been written." : content;
        if (atEnd) log.scrollTop = log.scrollHeight;
        if (isLive(job)) logTimer = window.setTimeout(readLog, LOG_MS);
      },
      (thrown: unknown) => { if (!isAbort(thrown)) log.textContent = "There is no log."; },
    );
  };

  const update = (now: Job): void => {
    const ended = isLive(job) && !isLive(now);
    job = now;
    drawHead();
    drawSoon();
    if (ended) {
      catchUp();
      readLog();
    }
  };

  drawHead();
  catchUp();
  if (job.state === "failed") logBox.open = true;
  return {
    element,
    job: () => job.job,
    update,
    heard: (event) => {
      if (hasGap(story, event.n)) catchUp();
      else story = told(story, [event]);
      drawSoon();
    },
    catchUp,
    stop: () => {
      ending.abort();
      clearTimeout(drawTimer);
      clearTimeout(logTimer);
    },
  };
}

function headOf(job: Job, cancel: () => void, remove: () => void): Child {
  return [
    h("div", { class: "row between wrap" }, h("div", { class: "row grow" }, h("h2", { class: "clip job-title" }, job.title), stateChip(job)), h("div", { class: "row" }, actions(job, cancel, remove))),
    job.state === "running" && [
      progressBar(job.progress?.done ?? 0, job.progress?.total, job.title),
      h("p", { class: "muted", "data-test": "job-progress" }, job.progress ? progressWords(job.progress) : "starting …"),
    ],
    job.state === "queued" && h("p", { class: "muted" }, "One job runs at a time; this one starts when those before it have ended."),
    job.error !== null && h("div", { class: "note", "data-tone": "bad", "data-test": "job-error" }, icon("warn"), h("span", null, job.error)),
    facts(job),
  ];
}

function actions(job: Job, cancel: () => void, remove: () => void): Child {
  const headId = typeof job.result?.head === "string" ? job.result.head : null;
  return [
    headId !== null &&
      h("a", { class: "button primary", href: link("/heads/:id", { id: headId }), "data-test": "open-head" }, icon("head"), job.kind === "apply" ? "See the predictions" : "See the head"),
    isWritable() && isLive(job) && h("button", { class: "button danger", "data-test": "cancel", onclick: cancel }, icon("stop"), "Cancel"),
    isWritable() && !isLive(job) && h("button", { class: "button quiet square", "aria-label": "Delete this job", title: "Delete this job", "data-test": "delete-job", onclick: remove }, icon("trash")),
  ];
}

function facts(job: Job): HTMLElement {
  const recipe = job.recipe ? recipeInfo(job.recipe) : undefined;
  const told_: [string, string][] = [
    ["kind", KINDS[job.kind] ?? job.kind],
    ["asked for", when(job.created_at)],
    ["took", job.state === "running" ? `${span(seconds(job))} so far` : span(seconds(job))],
    ["recipe", recipe ? recipeName(recipe) : "–"],
    ...optionsOf(job),
  ];
  return h("dl", { class: "fact-list" }, told_.filter(([, value]) => value !== "–").map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

const SHOWN = ["task", "target", "head", "folds", "seed", "epochs", "encoder", "mpp"];

function optionsOf(job: Job): [string, string][] {
  return SHOWN.filter((name) => job.options[name] !== undefined && job.options[name] !== null && job.options[name] !== "" && !(job.kind === "apply" && name === "head")).map(
    (name) => [name, String(job.options[name])],
  );
}

function drawCurves(box: HTMLElement, job: Job, story: Story): void {
  const linear = job.kind === "train" && job.options.head === "linear";
  box.hidden = story.curves.length === 0 && !(job.kind === "train" && (linear || isLive(job)));
  if (box.hidden) return;
  const focused = [...box.querySelectorAll("svg.chart[tabindex]")].indexOf(document.activeElement as Element);
  const epochs = Math.max(0, ...story.curves.map((curve) => curve.epochs ?? 0)) || null;
  const domain = shared(story.curves, epochs);
  replace(
    box,
    h("div", { class: "panel-head" }, h("h2", { class: "grow" }, "Loss by epoch"), story.curves.length > 0 && legend(["training", "validation"])),
    story.curves.length > 0
      ? h("div", { class: "curves" }, story.curves.map((curve) => curveChart(curve, domain)))
      : h("p", { class: "panel-body muted" }, linear ? "The linear head has no epochs: all folds are solved at once, in seconds." : "The first epoch has not ended yet."),
  );
  if (focused >= 0) box.querySelectorAll<SVGElement>("svg.chart[tabindex]")[focused]?.focus();
}

function drawNotes(box: HTMLElement, story: Story): void {
  const lines = story.notes.map((event) => ({ at: event.at, text: eventWords(event) }));
  box.hidden = lines.length === 0;
  replace(
    box,
    h("div", { class: "panel-head" }, h("h2", null, "What happened")),
    h("ol", { class: "panel-body happened" }, lines.map((line) => h("li", null, h("time", { class: "muted small" }, line.at ? new Date(line.at).toLocaleTimeString("en-GB") : ""), h("span", null, line.text)))),
  );
}
