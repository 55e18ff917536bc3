/** The ingest that runs, live: how far, how fast, how long still, what holds it up. Else what the last one did. */

import { get, isAbort } from "../api.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { on } from "../events.ts";
import { ago, count, counted, fixed, span, stageName } from "../format.ts";
import type { Run } from "../types.ts";

/** How often it is asked beside the events: while one runs, and while none does. ms */
const BUSY = 5000;
const IDLE = 20_000;

/** `news` is called when slides have come to an end since the last look. Ends with the signal. */
export function runsPanel(news: () => void, signal: AbortSignal): HTMLElement {
  const element = h("div", { class: "runs", "data-test": "runs" });
  let timer = 0;
  let ended = -1;
  let runs: readonly Run[] = [];
  const draw = (): void => {
    const running = runs.filter((run) => run.state === "running");
    const now = runs.reduce((sum, run) => sum + over(run), 0);
    if (ended >= 0 && now !== ended) news();
    ended = now;
    element.dataset.state = running.length ? "running" : "idle";
    replace(element, ...(running.length ? running.map(live) : [last(runs[0])]));
  };
  const look = async (): Promise<void> => {
    clearTimeout(timer);
    try {
      runs = (await get<{ runs: Run[] }>("/api/runs", signal)).runs;
      draw();
    } catch (thrown) {
      if (isAbort(thrown)) return;
    }
    if (!signal.aborted && !document.hidden) timer = window.setTimeout(() => void look(), element.dataset.state === "running" ? BUSY : IDLE);
  };
  const soon = (): void => {
    if (!document.hidden) void look();
  };
  document.addEventListener("visibilitychange", soon, { signal });
  const offs = [
    on<Pick<Run, "run" | "state" | "progress">>("run", (event) => {
      const known = runs.find((run) => run.run === event.run);
      if (known?.state !== event.state) {
        soon();
        return;
      }
      runs = runs.map((run) => (run === known ? { ...run, progress: event.progress } : run));
      draw();
    }),
    on("reset", soon),
  ];
  signal.addEventListener("abort", () => {
    for (const off of offs) off();
    clearTimeout(timer);
  });
  void look();
  return element;
}

/** Slides of a run that have come to an end. */
function over(run: Run): number {
  return Object.values(run.progress?.ended ?? run.statuses ?? {}).reduce((a, b) => a + b, 0);
}

function live(run: Run): HTMLElement {
  const now = run.progress;
  const share = now?.total ? Math.min(1, now.done / now.total) : null;
  const cell = (name: string, value: Child): Child => h("div", { class: "run-cell" }, h("span", { class: "muted small" }, name), h("strong", null, value));
  return h(
    "section",
    { class: "panel run-live", "data-test": "run-live", "aria-label": "Running ingest" },
    h("div", { class: "row" }, h("span", { class: "spinner" }), h("h2", null, "Ingesting slides"), h("span", { class: "muted" }, run.encoder ?? "")),
    h("div", { class: "meter", "data-state": share === null ? "waiting" : "known", role: "progressbar", "aria-label": "Tiles encoded", "aria-valuenow": share === null ? undefined : Math.round(share * 100) },
      h("span", share === null ? {} : { style: { width: `${share * 100}%` } })),
    h("div", { class: "run-cells" },
      cell("Tiles", now ? `${count(now.done)}${now.total ? ` of ${count(now.total)}` : ""}` : "–"),
      cell("Slides", now?.slides ? `${count(over(run))} of ${count(now.slides)}` : count(over(run))),
      cell("Tiles/s", now?.per_second ? fixed(now.per_second, now.per_second < 10 ? 1 : 0) : "–"),
      cell("Time left", span(now?.eta_seconds)),
      cell("Held up by", now?.bottleneck ? stageName(now.bottleneck) : "nothing yet"),
      (now?.ended?.failed ?? 0) > 0 && cell("Failed", h("span", { class: "bad" }, count(now?.ended?.failed)))),
  );
}

function last(run: Run | undefined): Child {
  if (!run) return null;
  const done = run.statuses ?? {};
  const parts = [
    counted(done.done ?? 0, "slide"),
    (done.skipped ?? 0) > 0 && `${count(done.skipped)} were there already`,
    (done.empty ?? 0) > 0 && `${count(done.empty)} without tissue`,
    (done.failed ?? 0) > 0 && `${count(done.failed)} failed`,
    run.tiles_per_second ? `${fixed(run.tiles_per_second, 0)} tiles/s, held up by ${stageName(run.bottleneck)}` : null,
  ].filter(Boolean);
  return h(
    "p",
    { class: "row muted small", "data-test": "run-last" },
    icon(run.state === "stopped" ? "warn" : "check"),
    `Last ingest ${ago(run.written_at)}${run.state === "stopped" ? ", which was cut off" : ""}: ${parts.join(", ")}`,
  );
}
