/** Train: labels in, what was understood of them, the question, the head, and off it goes as a job. */

import "../charts/charts.css";
import "./train.css";

import { isAbort, post, reason } from "../api.ts";
import { h, icon, replace } from "../dom.ts";
import { counted } from "../format.ts";
import { go, link, remember, type Dispose, type Params, type View } from "../router.ts";
import { isWritable, onRecipe, recipeInfo, recipeKey, recipeName } from "../session.ts";
import type { CohortCheck, CohortTable } from "../studies.ts";
import { toast, toastError } from "../toast.ts";
import type { Job } from "../types.ts";
import { FIRST, likelyTarget, likelyTask, options, question, type Choices } from "./choices.ts";
import { form } from "./form.ts";
import { source, type Source } from "./source.ts";
import { balance, columnsTable, dropped, note, verdict } from "./understood.ts";

const WAIT_MS = 250;

export const train: View = (root, params) => {
  const ending = new AbortController();
  const page = new TrainPage(root, params, ending.signal);
  const offRecipe = onRecipe(() => page.recipeChanged());
  const dispose: Dispose = () => {
    offRecipe();
    ending.abort();
    page.stop();
  };
  return dispose;
};

class TrainPage {
  private readonly root: HTMLElement;
  private readonly signal: AbortSignal;
  private readonly labels: Source;
  private readonly understood = h("section", { class: "panel", "data-test": "understood", hidden: true });
  private readonly asked = h("section", { class: "panel", "data-test": "question" });
  private readonly about = h("p", { class: "muted" });
  private table: CohortTable | null = null;
  private choices: Choices = FIRST;
  private check: CohortCheck | null = null;
  private failed: string | null = null;
  private checking: AbortController | null = null;
  private timer = 0;

  constructor(root: HTMLElement, params: Params, signal: AbortSignal) {
    this.root = root;
    this.signal = signal;
    this.labels = source((table) => this.use(table), signal);
    this.labels.recipe(recipeKey());
    root.append(
      h(
        "div",
        { class: "page train-page", "data-view": "train" },
        h("header", { class: "page-head" }, h("h1", null, "Train a head"), this.about),
        !isWritable() && readOnly(),
        h(
          "div",
          { class: "train-columns" },
          h(
            "div",
            { class: "stack" },
            h("section", { class: "panel" }, h("div", { class: "panel-head" }, h("h2", null, "Labels")), h("div", { class: "panel-body" }, this.labels.element)),
            this.understood,
          ),
          this.asked,
        ),
      ),
    );
    this.draw();
    this.state("loading");
    this.labels.refresh().then(
      (tables) => {
        const wanted = params.query.get("cohort");
        const found = tables.find((table) => table.cohort === wanted);
        this.state("ready");
        if (found) this.use(found);
      },
      (thrown: unknown) => {
        if (isAbort(thrown)) return;
        this.state("error");
        toastError(thrown);
      },
    );
  }

  stop(): void {
    clearTimeout(this.timer);
    this.checking?.abort();
  }

  recipeChanged(): void {
    this.labels.recipe(recipeKey());
    this.draw();
    this.checkSoon();
  }

  private state(now: string): void {
    const page = this.root.querySelector<HTMLElement>("[data-view]");
    if (page) page.dataset.state = now;
  }

  private use(table: CohortTable | null): void {
    this.table = table;
    this.check = null;
    this.failed = null;
    this.labels.mark(table?.cohort ?? null);
    if (table) {
      this.choices = { ...FIRST, task: likelyTask(table), target: likelyTarget(table), folds: this.choices.folds, head: this.choices.head };
      remember(link("/train", {}, { cohort: table.cohort }));
    }
    this.draw();
    this.checkSoon();
  }

  private change(part: Partial<Choices>): void {
    this.choices = { ...this.choices, ...part };
    this.draw();
    if (Object.keys(part).some((name) => !["title", "seed", "epochs", "loss", "head"].includes(name))) this.checkSoon();
  }

  /** A check a moment after the last change, so that typing does not make a queue of them. */
  private checkSoon(): void {
    clearTimeout(this.timer);
    this.checking?.abort();
    if (!this.table || recipeKey() === "") return;
    this.asked.dataset.check = "waiting";
    this.timer = window.setTimeout(() => void this.ask(), WAIT_MS);
  }

  private async ask(): Promise<void> {
    const table = this.table;
    if (!table) return;
    const mine = new AbortController();
    this.checking = mine;
    try {
      const body = { recipe: recipeKey(), ...question(this.choices, table) };
      this.check = await post<CohortCheck>(`/api/cohorts/${table.cohort}/check`, body, undefined, mine.signal);
      this.failed = null;
    } catch (thrown) {
      if (isAbort(thrown)) return;
      this.check = null;
      this.failed = reason(thrown);
    }
    if (this.signal.aborted || this.checking !== mine) return;
    this.draw();
    this.asked.dataset.check = this.check?.ok ? "ok" : "problems";
  }

  private draw(): void {
    const recipe = recipeInfo();
    replace(this.about, recipe ? `on ${recipeName(recipe)}, ${counted(recipe.slides, "slide")}` : "The store has no embeddings yet: ingest slides first.");
    this.drawUnderstood();
    keepingFocus(this.asked, () => this.drawQuestion());
  }

  private drawUnderstood(): void {
    const table = this.table;
    this.understood.hidden = table === null;
    if (!table) return;
    const open = this.understood.querySelector("details")?.open ?? false;
    const left = this.check && dropped(this.check);
    if (left instanceof HTMLDetailsElement) left.open = open;
    replace(
      this.understood,
      h("div", { class: "panel-head" }, h("h2", { class: "clip grow" }, table.name), h("span", { class: "muted" }, counted(table.rows, "row"))),
      h("div", { class: "panel-body" }, this.check && balance(this.check, this.choices.task), columnsTable(table, this.check), left),
    );
  }

  private drawQuestion(): void {
    const table = this.table;
    if (!table) {
      replace(
        this.asked,
        h(
          "div",
          { class: "empty" },
          icon("table"),
          h("h2", null, "Labels first"),
          h("p", null, "Upload or paste a table, or choose one of the tables in this store. What can be learnt from it is shown here before anything is trained."),
        ),
      );
      return;
    }
    const ready = this.check?.ok === true && isWritable();
    const open = this.asked.querySelector<HTMLDetailsElement>("details.more-options")?.open ?? false;
    replace(
      this.asked,
      h("div", { class: "panel-head" }, h("h2", null, "Question and head")),
      h(
        "div",
        { class: "panel-body" },
        form(table, this.choices, this.check?.fields ?? [], open, (part) => this.change(part)),
        h(
          "div",
          { class: "stack", "aria-live": "polite" },
          this.check && verdict(this.check),
          this.failed !== null && note("bad", this.failed, "problem"),
        ),
        h(
          "button",
          { class: "button primary large", "data-test": "start", "data-focus": "start", disabled: !ready, onclick: () => void this.start() },
          icon("play"),
          "Start training",
        ),
        !isWritable() && h("p", { class: "muted small" }, "This server only reads: see above how to start one that trains."),
      ),
    );
  }

  private async start(): Promise<void> {
    const table = this.table;
    if (!table) return;
    try {
      const body = { kind: "train", recipe: recipeKey(), options: options(this.choices, table) };
      const job = await post<Job>("/api/jobs", body);
      toast(`${job.title} is in the queue`, "good");
      go(link("/jobs/:id", { id: job.job }));
    } catch (thrown) {
      toastError(thrown);
    }
  }
}

function readOnly(): HTMLElement {
  return h(
    "div",
    { class: "note", "data-tone": "warn", "data-test": "read-only" },
    icon("info"),
    h(
      "span",
      null,
      h("b", null, "This server only reads. "),
      "To upload labels and train, end it and start it with ",
      h("code", null, "beph-store serve STORE --allow-write"),
      ".",
    ),
  );
}

/** Draw anew without taking the focus away from the field that has it. */
function keepingFocus(box: HTMLElement, draw: () => void): void {
  const active = document.activeElement;
  const name = active instanceof HTMLElement && box.contains(active) ? active.dataset.focus : undefined;
  draw();
  if (name !== undefined) {
    [...box.querySelectorAll<HTMLElement>("[data-focus]")].find((one) => one.dataset.focus === name)?.focus({ preventScroll: true });
  }
}
