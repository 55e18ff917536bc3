/** Labelling tiles: classes, what the head has learned of them so far, what to label next. */

import { isAbort, reason } from "../api.ts";
import { dialog } from "../dialog.ts";
import { h, icon, replace, type Child } from "../dom.ts";
import { count, counted, fixed, sentence } from "../format.ts";
import { knownPerson } from "../person.ts";
import { markCard, showTray, stepCard, tray, type Card } from "../search/tray.ts";
import { isWritable } from "../session.ts";
import { slideLink } from "../slide/address.ts";
import { toast, toastError } from "../toast.ts";
import type { Proposal } from "../types.ts";
import type { LabelBook } from "./book.ts";
import { savedHeads } from "./saved.ts";

export interface LabelPanel {
  readonly element: HTMLElement;
  /** Draw anew: the book has changed. */
  readonly draw: () => void;
  /** The class that a click gives; "" while there is none. */
  readonly active: () => string;
  /** Choose the class of that place, from 0; label the proposed tile with it if one is open. */
  readonly choose: (at: number) => void;
  readonly propose: () => void;
}

let active = "";
let onlyHere = false;
let seed = 0;

/** `shown` names the tile that is framed on this slide, null where there is none. */
export function labelPanel(book: LabelBook, shown: () => number | null): LabelPanel {
  const element = h("div", { class: "stack", "data-test": "label-panel" });
  const classes = h("ul", { class: "label-classes", "data-test": "classes" });
  const learned = h("div", { class: "stack tight", "data-test": "refit", "aria-live": "polite" });
  const undo = h("button", { class: "button small", title: "Take back (Ctrl Z)", "data-test": "undo", onclick: () => void book.step("undo") }, icon("undo"), "Undo");
  const redo = h("button", { class: "button small", title: "Put back (Ctrl Shift Z)", "data-test": "redo", onclick: () => void book.step("redo") }, icon("redo"), "Redo");
  const saved = savedHeads(book.recipe, book.signal);
  const adding = addForm(book, (name) => { active = name; panel.draw(); });

  const panel: LabelPanel = {
    element,
    active: () => active,
    choose: (at) => {
      const name = book.names[at];
      if (name === undefined) return;
      active = name;
      const tile = shown();
      const proposal = tray()?.kind === "proposals" && tile !== null;
      if (proposal) void book.put({ tile }, name).then((done) => { if (done) next(); });
      panel.draw();
    },
    draw: () => {
      if (!book.names.includes(active)) active = book.names[0] ?? "";
      replace(classes, ...book.names.map((name, i) => classRow(book, name, i, () => panel.choose(i))));
      classes.hidden = book.names.length === 0;
      undo.disabled = !book.canUndo || !isWritable();
      redo.disabled = !book.canRedo || !isWritable();
      replace(learned, ...learnedLines(book));
      element.dataset.state = book.fitting ? "fitting" : book.refit ? "fitted" : "unfitted";
      element.dataset.version = String(book.version);
    },
    propose: () => void propose(book, panel),
  };
  const next = (): void => {
    if (!stepCard(1)) void propose(book, panel);
  };
  replace(
    element,
    !isWritable() && readOnly(),
    h("section", { class: "stack tight" },
      h("h3", null, "Classes"),
      h("p", { class: "muted small" }, "Click tiles to give them the chosen class, once more to take it away. Shift and drag labels a region."),
      classes,
      adding,
      h("div", { class: "row wrap" }, undo, redo)),
    h("section", { class: "stack tight" }, h("h3", null, "What the head has learned"), learned),
    h("section", { class: "stack tight" },
      h("h3", null, "Label next"),
      h("p", { class: "muted small" }, "Tiles of which the head is unsure and that differ from each other."),
      h("div", { class: "row wrap" },
        h("button", { class: "button primary small", "data-test": "propose", onclick: () => panel.propose() }, icon("target"), "Propose tiles"),
        whereChoice())),
    h("section", { class: "row wrap" },
      h("a", { class: "button small", href: book.csv, download: "", "data-test": "labels-csv" }, icon("download"), "Labels as CSV"),
      h("button", { class: "button small", "data-test": "save-head", onclick: () => save(book, () => void saved.load()) }, icon("head"), "Save this head")),
    saved.element,
  );
  panel.draw();
  return panel;
}

function readOnly(): HTMLElement {
  return h("div", { class: "note", "data-tone": "warn", "data-test": "read-only" }, icon("warn"), h("span", null, "This server only reads. Start it with ", h("code", null, "--allow-write"), " to label."));
}

function classRow(book: LabelBook, name: string, at: number, choose: () => void): HTMLElement {
  const shares = book.tiles(name);
  return h(
    "li",
    null,
    h(
      "button",
      { class: "label-class", "aria-pressed": String(name === active), "data-test": "class", "data-label": name, onclick: choose },
      h("span", { class: "swatch", style: { background: book.colour(name) } }),
      h("span", { class: "clip grow" }, name),
      h("span", { class: "muted" }, count(shares)),
      at < 9 && h("kbd", null, at + 1),
    ),
  );
}

function addForm(book: LabelBook, added: (name: string) => void): HTMLElement {
  const input = h("input", { class: "field small", placeholder: "New class, e.g. tumour", "aria-label": "Name of a new class", maxlength: 80, "data-test": "new-class" });
  return h(
    "form",
    {
      class: "row",
      onsubmit: (event: Event) => {
        event.preventDefault();
        const name = input.value.trim();
        if (!name) return;
        input.value = "";
        book.add(name);
        added(name);
        input.blur();
      },
    },
    input,
    h("button", { class: "button small square", type: "submit", "aria-label": "Add the class", title: "Add the class", "data-test": "add-class" }, icon("plus")),
  );
}

function learnedLines(book: LabelBook): Child[] {
  if (book.fitting && !book.refit) return [h("span", { class: "row muted" }, h("span", { class: "spinner" }), "Fitting …")];
  const fit = book.refit;
  if (!fit) return [h("p", { class: "muted small" }, book.refitNote || "Nothing yet: label tiles of at least two classes.")];
  const { held_out: out } = fit;
  const lines: Child[] = [
    h("p", { class: "small" }, `${counted(fit.tiles, "tile")} of ${counted(fit.slides, "slide")}, ${counted(fit.cases, "case")}; fitted in ${Math.max(1, Math.round(fit.seconds * 1000))} ms.`),
  ];
  if (out.accuracy !== null) {
    lines.unshift(
      h("div", { class: "figure" },
        h("span", { class: "figure-number", "data-test": "accuracy" }, `${Math.round(100 * out.accuracy)} %`),
        h("span", { class: "muted small" }, `right on tiles of other ${out.by === "case" ? "cases" : "slides"}`,
          out.majority !== null && `; ${Math.round(100 * out.majority)} % by always saying the commonest`)),
    );
  }
  lines.push(h("p", { class: "muted small" }, sentence(out.note)));
  return lines;
}

function whereChoice(): HTMLElement {
  const box = h("input", { type: "checkbox", checked: onlyHere, "data-test": "only-here" });
  box.addEventListener("change", () => { onlyHere = box.checked; });
  return h("label", { class: "tick small" }, box, "only this slide");
}

/** The strip of proposals, and the first of them opened. */
async function propose(book: LabelBook, panel: LabelPanel): Promise<void> {
  showTray({ kind: "proposals", head: [icon("target"), h("strong", null, "Label next")], cards: [], state: "loading", message: "Choosing tiles …" });
  try {
    const said = await book.proposals(16, onlyHere, seed);
    seed += 1;
    const cards = said.proposals.map((proposal) => card(book, proposal, panel));
    showTray({
      kind: "proposals", state: "ready", cards,
      message: "Every tile has a label.",
      head: [icon("target"), h("strong", null, "Label next"), h("span", { class: "muted small clip" }, sentence(said.why))],
      tools: [
        h("span", { class: "muted small nowrap" }, "press 1–9 to label the framed tile"),
        h("button", { class: "button small", "data-test": "more-proposals", onclick: () => panel.propose() }, "Others"),
      ],
    });
    if (cards.length) {
      markCard("");
      stepCard(1);
    }
  } catch (thrown) {
    if (!isAbort(thrown)) showTray({ kind: "proposals", head: [h("strong", null, "Label next")], cards: [], state: "failed", message: reason(thrown) });
  }
}

function card(book: LabelBook, proposal: Proposal, panel: LabelPanel): Card {
  const half = proposal.footprint_l0 / 2;
  const best = Object.entries(proposal.probabilities ?? {}).sort((a, b) => b[1] - a[1]).slice(0, 2);
  const guess = best.map(([name, chance]) => h("span", { class: "guess" }, h("span", { class: "swatch", style: { background: book.colour(name) } }), h("span", { class: "clip grow" }, name), `${Math.round(100 * chance)} %`));
  return {
    id: `${proposal.slide}/${proposal.tile}`,
    image: `/api/recipes/${book.recipe}/slides/${proposal.slide}/tiles/${proposal.tile}.jpg`,
    href: slideLink(book.recipe, proposal.slide, { x: proposal.x + half, y: proposal.y + half, z: Math.min(1, 420 / proposal.footprint_l0), tile: proposal.tile }),
    lines: [proposal.uncertainty === null ? "not yet seen" : `unsure ${fixed(proposal.uncertainty, 2)}`, ...guess, guess.length ? null : proposal.slide_id],
    about: `${proposal.slide_id}, tile ${proposal.tile}${best.length ? `: ${best.map(([name, chance]) => `${name} ${Math.round(100 * chance)} %`).join(", ")}` : ""}`,
    key: (event) => {
      if (!/^[1-9]$/.test(event.key)) return false;
      const name = book.names[Number(event.key) - 1];
      if (name === undefined) return false;
      void book.put({ tile: proposal.tile }, name, proposal.slide).then((done) => { if (done) { panel.draw(); stepCard(1); } });
      return true;
    },
  };
}

function save(book: LabelBook, done: () => void): void {
  if (!book.refit) {
    toast("There is no head yet: label tiles of at least two classes.", "warn");
    return;
  }
  const input = h("input", { class: "field", id: "head-name", maxlength: 60, autofocus: true, value: book.refit.classes.join(" or "), "data-test": "head-name" });
  const keep = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      await book.save(input.value.trim());
      close();
      done();
      toast(`Saved as ${input.value.trim()}.`, "good");
    } catch (thrown) {
      toastError(thrown);
    }
  };
  const close = dialog("Save this head", [
    h("form", { class: "stack", onsubmit: (event: Event) => void keep(event) },
      h("label", { for: "head-name" }, "Name"), input,
      h("p", { class: "muted" }, `The weights and the ${counted(book.refit.tiles, "label")} they were fitted to, signed ${knownPerson() || "by you"}, are kept in the store.`),
      h("div", { class: "row end" }, h("button", { class: "button primary", type: "submit" }, "Save"))),
  ]);
}
