/** Labels of slides by clicking them in the list: one column, "label"; what is learned from is a table of these. */

import { get, isAbort, post, url } from "../api.ts";
import { h, icon, replace } from "../dom.ts";
import { on } from "../events.ts";
import { counted } from "../format.ts";
import { knownPerson, person } from "../person.ts";
import { link } from "../router.ts";
import { isWritable, recipeKey } from "../session.ts";
import { classColour } from "../slide/colours.ts";
import { toastError } from "../toast.ts";
import type { SlideLabels } from "../types.ts";

const COLUMN = "label";

/** Kept while one looks at a slide and comes back. */
let marking = false;
let active = "";

export interface Marking {
  readonly button: HTMLElement;
  readonly bar: HTMLElement;
  readonly isOn: () => boolean;
  /** A slide was clicked: give it the chosen label, or take that away. */
  readonly mark: (slide: string) => Promise<void>;
  /** Choose the label of that place, from 0. */
  readonly choose: (at: number) => void;
  /** Write what each slide is called onto its card or row. */
  readonly show: (slides: HTMLElement) => void;
  /** Another recipe. */
  readonly load: () => Promise<void>;
  readonly destroy: () => void;
}

function tool(name: "undo" | "redo", label: string, off: boolean, test: string, run: () => void): HTMLElement {
  return h("button", { class: "button small square", disabled: off || !isWritable(), title: label, "aria-label": label, "data-test": test, onclick: run }, icon(name));
}

/** `changed` when cards must show something else. */
export function markingBar(changed: () => void): Marking {
  const ending = new AbortController();
  const bar = h("section", { class: "panel marking", "aria-label": "Label slides", "data-test": "marking", hidden: !marking });
  const button = h("button", { class: "button", "aria-pressed": String(marking), title: "Label slides by clicking them", "data-test": "mark-slides", onclick: () => toggle() }, icon("tag"), "Label");
  const added: string[] = [];
  let labels = new Map<string, string>();
  let counts = new Map<string, number>();
  let steps = { undo: false, redo: false };
  const path = (): string => `/api/recipes/${recipeKey()}/labels/slides`;
  const names = (): string[] => [...counts.keys(), ...added.filter((name) => !counts.has(name))];

  const toggle = (): void => {
    marking = !marking;
    button.setAttribute("aria-pressed", String(marking));
    bar.hidden = !marking;
    draw();
  };
  const draw = (): void => {
    if (!names().includes(active)) active = names()[0] ?? "";
    const input = h("input", { class: "field small", placeholder: "New label, e.g. responder", maxlength: 80, "aria-label": "New label", "data-test": "new-slide-label" });
    const add = (event: Event): void => {
      event.preventDefault();
      const name = input.value.trim();
      if (!name) return;
      if (!names().includes(name)) added.push(name);
      active = name;
      draw();
    };
    replace(
      bar,
      h("span", { class: "muted" }, isWritable() ? "Click slides to give them" : "Labels need a server with --allow-write:"),
      h("div", { class: "row wrap", role: "group", "aria-label": "Label" }, names().map((name, i) =>
        h("button", { class: "button small", "aria-pressed": String(name === active), "data-test": "slide-label-choice", "data-label": name, onclick: () => { active = name; draw(); } },
          h("span", { class: "swatch", style: { background: classColour(i) } }), name, h("span", { class: "muted" }, counts.get(name) ?? 0), i < 9 && h("kbd", null, i + 1)))),
      h("form", { class: "row", onsubmit: add }, input, h("button", { class: "button small square", type: "submit", "aria-label": "Add the label", title: "Add the label" }, icon("plus"))),
      h("span", { class: "grow" }),
      tool("undo", "Take back", !steps.undo, "undo-slides", () => void step("undo")),
      tool("redo", "Put back", !steps.redo, "redo-slides", () => void step("redo")),
      h("a", { class: "button small square", href: `${path()}.csv`, download: "", title: "Labels as CSV", "aria-label": "Labels as CSV" }, icon("download")),
      labels.size > 1 && h("a", { class: "button small primary", href: link("/train") }, icon("curve"), `Train on ${counted(labels.size, "slide")}`),
    );
    changed();
  };
  const load = async (): Promise<void> => {
    if (!recipeKey()) return;
    try {
      const said = await get<SlideLabels>(url(path(), { who: knownPerson() }), ending.signal);
      labels = new Map(said.labels.filter((label) => label.column === COLUMN).map((label) => [label.slide, label.value]));
      counts = new Map((said.columns.find((column) => column.name === COLUMN)?.values ?? []).map((entry) => [entry.value, entry.slides]));
      steps = { undo: said.can_undo, redo: said.can_redo };
      draw();
    } catch (thrown) {
      if (!isAbort(thrown)) toastError(thrown);
    }
  };
  const step = async (what: "undo" | "redo"): Promise<void> => {
    const who = await person();
    if (who) await sent(post(`${path()}/${what}`, { who }));
  };
  const sent = async (sending: Promise<unknown>): Promise<void> => {
    try {
      await sending;
      await load();
    } catch (thrown) {
      toastError(thrown);
    }
  };
  const off = on<{ recipe: string }>("labels", ({ recipe }) => {
    if (recipe === recipeKey()) void load();
  });
  return {
    button,
    bar,
    load,
    isOn: () => marking,
    mark: async (slide) => {
      if (!active) {
        toastError(new Error("Add a label first."));
        return;
      }
      const who = await person();
      if (who) await sent(post(path(), { who, labels: [{ slide, column: COLUMN, value: labels.get(slide) === active ? null : active }] }));
    },
    choose: (at) => {
      const name = names()[at];
      if (!marking || name === undefined) return;
      active = name;
      draw();
    },
    show: (slides) => {
      slides.dataset.marking = String(marking);
      const order = names();
      for (const element of slides.querySelectorAll<HTMLElement>("[data-slide]")) {
        const name = labels.get(element.dataset.slide ?? "");
        element.querySelector(".mark")?.remove();
        if (name === undefined) continue;
        const place = element.querySelector(".card-picture") ?? element.querySelector(".slide-cell");
        place?.append(h("span", { class: "mark chip", title: "Given here" }, h("span", { class: "swatch", style: { background: classColour(order.indexOf(name)) } }), h("span", { class: "clip" }, name)));
      }
    },
    destroy: () => {
      off();
      ending.abort();
    },
  };
}
