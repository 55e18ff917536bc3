/** Shortcuts, and the list of them under "?". */

import { dialog } from "./dialog.ts";
import { h } from "./dom.ts";

export interface Shortcut {
  /** `event.key`, as "f", "?", "Escape"; "mod+z" is Ctrl or Cmd. Several: "ArrowLeft ArrowRight". */
  readonly keys: string;
  readonly does: string;
  /** Without one it is only listed. */
  readonly run?: (event: KeyboardEvent) => void;
  /** Left out of the list. */
  readonly hidden?: boolean;
  /** How the list shows the keys, if not as they are. */
  readonly shown?: string;
}

interface Section {
  readonly title: string;
  readonly list: readonly Shortcut[];
}

const sections: Section[] = [];
let closeHelp: (() => void) | null = null;

/** Add a section; returns what takes it away. Keys typed into fields are left alone. */
export function shortcuts(title: string, list: readonly Shortcut[]): () => void {
  const section: Section = { title, list };
  sections.push(section);
  return () => {
    const at = sections.indexOf(section);
    if (at >= 0) sections.splice(at, 1);
  };
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.altKey || isTyping(event.target) || isUsed(event)) return;
  if (document.querySelector("dialog[open]")) return;
  const name = spelled(event);
  // The newest section first: a view's keys come before those of the whole page.
  for (const section of [...sections].reverse()) {
    const found = section.list.find((shortcut) => shortcut.run && shortcut.keys.split(" ").includes(name));
    if (found?.run) {
      event.preventDefault();
      found.run(event);
      return;
    }
  }
});

function spelled(event: KeyboardEvent): string {
  const key = event.key === " " ? "Space" : event.key;
  const mod = event.ctrlKey || event.metaKey ? "mod+" : "";
  // Shift is part of a character, "?" or "A", and is named only beside mod.
  return mod ? `${mod}${event.shiftKey ? "shift+" : ""}${key.toLowerCase()}` : key;
}

/** Whether what has the focus does something of its own with the key. */
function isUsed(event: KeyboardEvent): boolean {
  const { target } = event;
  if (!(target instanceof HTMLElement)) return false;
  if (event.key === "Enter" || event.key === " ") return target.matches("a, button, summary, input");
  return /^(Arrow|Home|End|Page)/.test(event.key) && target.matches("input, [role=slider]");
}

/** Whether the keys belong to a field that takes text. */
export function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "range", "button", "file"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target.isContentEditable;
}

/** Show the list. */
export function showHelp(): void {
  if (closeHelp) return;
  closeHelp = dialog(
    "Keys and gestures",
    [
      h(
        "div",
        { class: "help-columns", "data-test": "help" },
        ...[...sections].reverse().map((section) =>
          h(
            "section",
            null,
            h("h3", null, section.title),
            h(
              "dl",
              { class: "help-list" },
              ...section.list.filter((shortcut) => !shortcut.hidden).map((shortcut) => [
                h("dt", null, ...caps(shortcut)),
                h("dd", null, shortcut.does),
              ]),
            ),
          ),
        ),
      ),
      h("p", { class: "muted small row" }, h("a", { href: "/api/openapi.json", target: "_blank", rel: "noreferrer" }, "The API"), "·", h("a", { href: "/page/licences.txt", target: "_blank", rel: "noreferrer" }, "Licences of what the page is made of")),
    ],
    () => { closeHelp = null; },
  );
}

const NAMES: Readonly<Record<string, string>> = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc", "mod+z": "Ctrl Z", "mod+shift+z": "Ctrl Shift Z",
};

function caps(shortcut: Shortcut): (HTMLElement | string)[] {
  return (shortcut.shown ?? shortcut.keys).split(" ").filter(Boolean).map((key) => h("kbd", null, NAMES[key] ?? key));
}
