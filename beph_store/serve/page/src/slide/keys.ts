/** The keys of a slide's page. */

import { shortcuts } from "../keys.ts";
import { stepCard } from "../search/tray.ts";
import type { Toggle } from "./toolbar.ts";

export interface SlideActions {
  readonly zoom: (factor: number) => void;
  readonly fit: () => void;
  /** By shares of the view. */
  readonly pan: (dx: number, dy: number) => void;
  /** As a click in the middle of the view. */
  readonly middle: () => void;
  readonly press: (what: Toggle) => void;
  readonly fade: (by: number) => void;
  readonly switchMode: () => void;
  /** The class of that place, from 0. */
  readonly choose: (at: number) => void;
  readonly step: (what: "undo" | "redo") => void;
  readonly propose: () => void;
  /** The next slide of the list, or with -1 the one before. */
  readonly slide: (by: number) => void;
}

const NEARER = 1.6;
const PAN = 0.2;

/** Returns what takes them away. */
export function slideKeys(act: SlideActions): () => void {
  const move = (dx: number, dy: number) => (): void => act.pan(dx * PAN, dy * PAN);
  const offs = [
    shortcuts("Move about", [
      { keys: "+ =", shown: "+", does: "nearer", run: () => act.zoom(NEARER) },
      { keys: "- _", shown: "-", does: "farther", run: () => act.zoom(1 / NEARER) },
      { keys: "0", does: "the whole slide", run: act.fit },
      { keys: "ArrowLeft", does: "move; so do the other arrows", run: move(-1, 0) },
      { keys: "ArrowRight", hidden: true, does: "move right", run: move(1, 0) },
      { keys: "ArrowUp", hidden: true, does: "move up", run: move(0, -1) },
      { keys: "ArrowDown", hidden: true, does: "move down", run: move(0, 1) },
      { keys: "k j", does: "the slide before, the next of the list", run: (event) => act.slide(event.key === "j" ? 1 : -1) },
    ]),
    shortcuts("Search and overlay", [
      { keys: "", shown: "click", does: "search for tiles like this one" },
      { keys: "", shown: "Shift drag", does: "search for tiles like a region" },
      { keys: "", shown: "drop", does: "an image file: search for its like" },
      { keys: "Enter", does: "search from the middle of the view, or label it", run: act.middle },
      { keys: "r", does: "drag a region instead of the slide", run: () => act.press("region") },
      { keys: "m", does: "the tissue that was found, outlined", run: () => act.press("tissue") },
      { keys: "t", does: "outlines of the tiles", run: () => act.press("grid") },
      { keys: "o", does: "hide the overlay for a look", run: () => act.press("hidden") },
      { keys: "[ ]", does: "weaker or stronger overlay", run: (event) => act.fade(event.key === "]" ? 0.1 : -0.1) },
      { keys: ", .", does: "the tile before, the next of the strip", run: (event) => { stepCard(event.key === "." ? 1 : -1); } },
    ]),
    shortcuts("Labels", [
      { keys: "l", does: "clicks label, or search again", run: act.switchMode },
      { keys: "1 2 3 4 5 6 7 8 9", shown: "1 … 9", does: "choose a class; labels a proposed tile", run: (event) => act.choose(Number(event.key) - 1) },
      { keys: "mod+z", does: "take back", run: () => act.step("undo") },
      { keys: "mod+shift+z mod+y", shown: "mod+shift+z", does: "put back", run: () => act.step("redo") },
      { keys: "n", does: "propose tiles to label", run: act.propose },
    ]),
  ];
  return () => { for (const off of offs) off(); };
}
