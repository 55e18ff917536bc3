/** What a click on the slide does. */

import { h, icon, replace } from "../dom.ts";

export type Mode = "look" | "label";

const MODES = [
  { name: "look", icon: "search", label: "Look and search", about: "A click searches for tiles like it (l)" },
  { name: "label", icon: "tag", label: "Label", about: "A click labels the tile (l)" },
] as const;

export interface ModeSwitch {
  readonly element: HTMLElement;
  readonly show: (mode: Mode) => void;
}

export function modeSwitch(choose: (mode: Mode) => void): ModeSwitch {
  const element = h("div", { class: "segments wide", role: "group", "aria-label": "What a click does" });
  return {
    element,
    show: (mode) =>
      replace(element, ...MODES.map((entry) =>
        h("button", { "aria-pressed": String(entry.name === mode), "data-test": `mode-${entry.name}`, title: entry.about, onclick: () => choose(entry.name) }, icon(entry.icon), entry.label))),
  };
}
