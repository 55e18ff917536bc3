/** Heads: what was trained, how good it is on cases it had not seen, and where it errs. */

import "../charts/charts.css";
import "../jobs/jobs.css";
import "../train/train.css";
import "./heads.css";

import { get, isAbort, reason } from "../api.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { when } from "../format.ts";
import { shortcuts } from "../keys.ts";
import { link, type Dispose, type View } from "../router.ts";
import { isWritable } from "../session.ts";
import { TASKS, type HeadDetail, type HeadList } from "../studies.ts";
import { casesPanel } from "./cases.ts";
import { about, allMetrics, curvePanels, metricCards, training } from "./figures.ts";
import { headList } from "./list.ts";
import { apply, predictionsPanel } from "./predictions.ts";

export const heads: View = (root, params) => {
  const ending = new AbortController();
  const page = h("div", { class: "page heads-page", "data-view": "heads", "data-state": "loading" }, h("span", { class: "spinner" }));
  root.append(page);
  const id = params.path.id;
  const shown = id === undefined ? all(ending.signal) : one(id, ending.signal);
  shown.then(
    (content) => {
      if (ending.signal.aborted) return;
      replace(page, content);
      page.dataset.state = "ready";
    },
    (thrown: unknown) => {
      if (isAbort(thrown)) return;
      page.dataset.state = "error";
      replace(
        page,
        h("div", { class: "empty panel" }, icon("warn"), h("h2", null, "This cannot be shown"), h("p", null, reason(thrown)), h("a", { class: "button", href: link("/heads") }, "All heads")),
      );
    },
  );
  const offKeys = shortcuts("Charts", [{ keys: "", shown: "ArrowLeft ArrowRight", does: "read values off the chart that has the focus" }]);
  const dispose: Dispose = () => {
    offKeys();
    ending.abort();
  };
  return dispose;
};

async function all(signal: AbortSignal): Promise<Child> {
  const found = await get<HeadList>("/api/heads", signal);
  return [
    h(
      "header",
      { class: "page-head" },
      h("h1", null, "Heads"),
      h("p", { class: "muted grow" }, "Every figure is of cases that the head had not seen."),
      isWritable() && found.heads.length > 0 && h("a", { class: "button", href: link("/train") }, icon("plus"), "Train a head"),
    ),
    headList(found),
  ];
}

async function one(id: string, signal: AbortSignal): Promise<Child> {
  const head = await get<HeadDetail>(`/api/heads/${encodeURIComponent(id)}`, signal);
  const subtitle = `${TASKS[head.task]}: ${head.classes.join(" / ") || "risk"} · ${head.kind} head on ${head.encoder} · trained ${when(head.trained_at)}`;
  return [
    h(
      "header",
      { class: "page-head head-head" },
      h("div", { class: "grow" }, h("p", { class: "small" }, h("a", { href: link("/heads") }, "All heads")), h("h1", null, head.title), h("p", { class: "muted" }, subtitle)),
      h(
        "div",
        { class: "row wrap" },
        isWritable() && head.in_store && h("button", { class: "button primary", "data-test": "apply", onclick: () => void apply(head) }, icon("play"), head.predictions ? "Apply anew" : "Apply to all slides"),
        h("a", { class: "button", href: `/api/heads/${head.head}/report.html`, download: "", "data-test": "report" }, icon("download"), "Report"),
        h("a", { class: "button", href: `/api/heads/${head.head}/download.zip`, download: "", "data-test": "download" }, icon("download"), "Head"),
      ),
    ),
    head.warnings.map((text) => h("div", { class: "note", "data-tone": "warn", "data-test": "warning" }, icon("warn"), h("span", null, text))),
    metricCards(head),
    h("div", { class: `figures ${head.task === "survive" ? "of-survival" : head.classes.length > 3 ? "of-many" : ""}` }, curvePanels(head), about(head)),
    casesPanel(head, signal),
    head.in_store && predictionsPanel(head, signal),
    allMetrics(head),
    training(head),
  ];
}
