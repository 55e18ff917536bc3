/** Where the labels come from: a file, pasted text, what was labelled in the page, or a table uploaded before. */

import { del, get, isAbort, post, reason, text } from "../api.ts";
import { confirmed } from "../dialog.ts";
import { h, icon, replace } from "../dom.ts";
import { ago, count, counted } from "../format.ts";
import { isWritable } from "../session.ts";
import type { CohortTable } from "../studies.ts";
import { toast, toastError } from "../toast.ts";
import { mediaType } from "./choices.ts";

export interface Source {
  readonly element: HTMLElement;
  /** Mark the table that is in use. */
  readonly mark: (cohort: string | null) => void;
  /** Read the list of tables again; returns it. */
  readonly refresh: () => Promise<readonly CohortTable[]>;
  /** Ask again what was labelled in the page. */
  readonly recipe: (key: string) => void;
}

type Way = "upload" | "paste" | "here";
const WAYS: readonly (readonly [Way, string])[] = [["upload", "Upload"], ["paste", "Paste"], ["here", "Labels made here"]];
const LARGEST_BYTES = 16 * 2 ** 20;

/** `use` is told the table to train on; null when the one in use was deleted. */
export function source(use: (table: CohortTable | null) => void, signal: AbortSignal): Source {
  const problem = h("div", { "data-test": "upload-problem", role: "alert" });
  const place = h("div");
  const list = h("div", { class: "tables", "data-test": "tables" });
  let tables: readonly CohortTable[] = [];
  let marked: string | null = null;
  let way: Way = "upload";
  let recipe = "";

  const send = async (content: string | Blob, name: string, type: string): Promise<void> => {
    replace(problem);
    try {
      if (content instanceof Blob && content.size > LARGEST_BYTES) throw new Error("the file is larger than 16 MiB");
      const made = await post<CohortTable>(`/api/cohorts?name=${encodeURIComponent(name)}`, content, type, signal);
      await refresh();
      use(made);
    } catch (thrown) {
      if (!isAbort(thrown)) {
        replace(problem, h("div", { class: "note", "data-tone": "bad" }, icon("warn"), h("span", null, reason(thrown))));
      }
    }
  };

  const file = async (given: File | undefined): Promise<void> => {
    if (!given) return;
    const start = await given.slice(0, 4096).text();
    await send(given, given.name, mediaType(start));
  };

  const refresh = async (): Promise<readonly CohortTable[]> => {
    tables = (await get<{ cohorts: CohortTable[] }>("/api/cohorts", signal)).cohorts;
    draw();
    return tables;
  };

  const remove = async (table: CohortTable): Promise<void> => {
    const text_ = `${table.name}: ${counted(table.rows, "row")}. Heads that were trained on it keep their figures.`;
    if (!(await confirmed("Delete this table?", text_, "Delete"))) return;
    try {
      await del(`/api/cohorts/${table.cohort}`);
      if (marked === table.cohort) use(null);
      await refresh();
    } catch (thrown) {
      toastError(thrown);
    }
  };

  const draw = (): void => {
    const rows = tables.map((table) => tableRow(table, table.cohort === marked, () => use(table), () => void remove(table)));
    replace(list, rows.length > 0 && h("h3", null, "Tables in this store"), rows);
  };

  const show = (chosen: Way): void => {
    way = chosen;
    for (const button of segments.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.way === way));
    }
    replace(problem);
    if (way === "upload") replace(place, dropZone((given) => void file(given)));
    else if (way === "paste") replace(place, pasteBox((content) => void send(content, "pasted table", mediaType(content))));
    else void showHere();
  };

  const showHere = async (): Promise<void> => {
    const box = labelsHere(recipe, signal, async () => {
      const content = await text(`/api/recipes/${recipe}/labels/slides.csv`, signal);
      await send(content, `labels made here, ${new Date().toISOString().slice(0, 10)}`, "text/csv");
    });
    replace(place, box);
  };

  const segments = h(
    "div",
    { class: "segments", role: "group", "aria-label": "Where the labels come from" },
    WAYS.map(([name, title]) => h("button", { "data-way": name, "data-test": `way-${name}`, onclick: () => show(name) }, title)),
  );
  show("upload");
  const element = h("div", { class: "stack" }, segments, place, problem, list);
  dropAnywhere(element, (given) => void file(given));
  return {
    element,
    mark: (cohort) => { marked = cohort; draw(); },
    refresh,
    recipe: (key) => {
      recipe = key;
      if (way === "here") void showHere();
    },
  };
}

function tableRow(table: CohortTable, on: boolean, use: () => void, remove: () => void): HTMLElement {
  return h(
    "div",
    { class: "table-row" },
    h(
      "button",
      { class: "table-pick", "aria-pressed": on, "data-test": "table", "data-cohort": table.cohort, onclick: use },
      icon(on ? "check" : "table"),
      h("span", { class: "clip grow" }, table.name),
      h("span", { class: "muted small" }, counted(table.rows, "row"), ` · ${ago(table.uploaded_at)}`),
    ),
    isWritable() &&
      h("button", { class: "button quiet square small", "aria-label": `Delete ${table.name}`, onclick: remove }, icon("trash")),
  );
}

function dropZone(given: (file: File | undefined) => void): HTMLElement {
  const input = h("input", {
    type: "file", class: "visually-hidden", accept: ".csv,.tsv,.txt,text/csv,text/tab-separated-values",
    "data-test": "file", disabled: !isWritable(), onchange: () => { given(input.files?.[0]); input.value = ""; },
  });
  return h(
    "label",
    { class: "drop", "data-test": "drop", "data-off": !isWritable() },
    input,
    icon("upload"),
    h("b", null, "Drop a CSV or TSV here, or choose a file"),
    h("span", { class: "muted small" }, "One row a slide or a case. Columns are known by their names:"),
    h(
      "span",
      { class: "muted small" },
      h("code", null, "slide_id"), " or ", h("code", null, "case_id"), ", and ", h("code", null, "label"), " – or ",
      h("code", null, "event"), " and ", h("code", null, "days"), " for survival.",
    ),
  );
}

/** A table may be dropped anywhere on the panel, not only into the frame. */
function dropAnywhere(element: HTMLElement, given: (file: File | undefined) => void): void {
  const over = (event: DragEvent, on: boolean): void => {
    if (!isWritable() || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    element.classList.toggle("dropping", on);
  };
  element.addEventListener("dragover", (event) => over(event, true));
  element.addEventListener("dragleave", (event) => over(event, element.contains(event.relatedTarget as Node | null)));
  element.addEventListener("drop", (event) => {
    over(event, false);
    if (isWritable()) given(event.dataTransfer?.files[0]);
  });
}

function pasteBox(given: (content: string) => void): HTMLElement {
  const area = h("textarea", {
    class: "field", rows: 8, spellcheck: "false", "aria-label": "The table", "data-test": "paste", disabled: !isWritable(),
    placeholder: "slide_id,case_id,label\nslide-1.svs,P1,high\nslide-2.svs,P2,low",
  });
  const use = (): void => {
    if (area.value.trim() === "") toast("Paste the table first: its first line names the columns.", "warn");
    else given(area.value);
  };
  return h(
    "div",
    { class: "stack" },
    area,
    h(
      "div",
      { class: "row between" },
      h("span", { class: "muted small" }, "Comma, tab or semicolon. Cells copied from a spreadsheet are fine."),
      h("button", { class: "button", "data-test": "use-paste", disabled: !isWritable(), onclick: use }, "Use this table"),
    ),
  );
}

interface SlideLabels {
  readonly columns: readonly { readonly column: string; readonly values: readonly { readonly value: string; readonly slides: number }[] }[];
  readonly labels: readonly unknown[];
}

function labelsHere(recipe: string, signal: AbortSignal, use: () => Promise<void>): HTMLElement {
  const box = h("div", { class: "stack", "data-test": "labels-here" }, h("span", { class: "spinner" }));
  const none = (): void =>
    replace(
      box,
      h(
        "div",
        { class: "empty" },
        icon("tag"),
        h("p", null, "No slide has been labelled in this page yet. Select slides in the list of slides and give them a label."),
        h("a", { class: "button", href: "#/" }, "Go to the slides"),
      ),
    );
  get<SlideLabels>(`/api/recipes/${recipe}/labels/slides`, signal).then(
    (found) => {
      if (found.labels.length === 0) return none();
      const button = h("button", { class: "button", "data-test": "use-here", disabled: !isWritable() }, "Use these labels");
      button.addEventListener("click", () => void use().catch(toastError));
      return replace(
        box,
        found.columns.map((column) =>
          h(
            "div",
            { class: "row wrap" },
            h("b", null, column.column),
            column.values.map((one) => h("span", { class: "chip" }, `${one.value} · ${count(one.slides)}`)),
          ),
        ),
        h("div", { class: "row between" }, h("span", { class: "muted small" }, `${counted(found.labels.length, "label")} on slides`), button),
      );
    },
    (thrown: unknown) => {
      if (!isAbort(thrown)) replace(box, h("div", { class: "note", "data-tone": "warn" }, icon("warn"), h("span", null, reason(thrown))));
    },
  );
  return box;
}
