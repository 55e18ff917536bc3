/** Buttons on the slide itself: zoom, magnifications, what is drawn. */

import { h, icon, type IconName } from "../dom.ts";
import { scaleAt } from "./scale.ts";

export interface Tools {
  readonly zoom: (factor: number) => void;
  readonly fit: () => void;
  /** CSS px per level-0 px. */
  readonly scale: (scale: number) => void;
  readonly toggle: (what: Toggle) => boolean;
}

export type Toggle = "region" | "tissue" | "grid" | "hidden";

export interface Toolbar {
  readonly element: HTMLElement;
  /** Press a button as if by hand. */
  readonly press: (what: Toggle) => void;
}

const TOGGLES: readonly (readonly [Toggle, IconName, string, string])[] = [
  ["region", "region", "Drag a region instead of the slide (r, or hold Shift)", "Drag a region"],
  ["tissue", "tissue", "Tissue, outlined (m)", "Tissue"],
  ["grid", "grid", "Outlines of the tiles (t)", "Outlines of the tiles"],
  ["hidden", "eye", "Hide the overlay for a look at the slide (o)", "Hide the overlay"],
];

/** For a slide with `mpp` µm per level-0 px; 0 where it is not known. */
export function toolbar(mpp: number, tools: Tools): Toolbar {
  const buttons = new Map<Toggle, HTMLButtonElement>();
  const press = (what: Toggle): void => {
    const button = buttons.get(what);
    button?.setAttribute("aria-pressed", String(tools.toggle(what)));
  };
  const plain = (name: IconName, label: string, run: () => void): HTMLElement =>
    h("button", { class: "tool", title: label, "aria-label": label, onclick: run }, icon(name));
  // As far as twice the slide's own px: more shows nothing more.
  const times = mpp > 0 ? [1, 5, 10, 20, 40].filter((t) => scaleAt(t, mpp) <= 2) : [];
  for (const [what, name, label, said] of TOGGLES) {
    buttons.set(what, h("button", { class: "tool", title: label, "aria-label": said, "aria-pressed": "false", "data-test": `toggle-${what}`, onclick: () => press(what) }, icon(name)));
  }
  const element = h(
    "div",
    { class: "toolbar", role: "toolbar", "aria-label": "Slide" },
    h("div", { class: "tools" }, plain("plus", "Nearer (+)", () => tools.zoom(1.6)), plain("minus", "Farther (-)", () => tools.zoom(1 / 1.6)), plain("fit", "Whole slide (0)", tools.fit)),
    times.length > 0 &&
      h("div", { class: "tools" }, times.map((t) => h("button", { class: "tool text", title: `Show at ${t}×`, "data-test": `times-${t}`, onclick: () => tools.scale(scaleAt(t, mpp)) }, `${t}×`))),
    h("div", { class: "tools" }, [...buttons.values()]),
  );
  return { element, press };
}
