/** Short notes in the corner. */

import { isAbort, reason } from "./api.ts";
import { h, icon } from "./dom.ts";
import { sentence } from "./format.ts";

export type Tone = "info" | "good" | "warn" | "bad";

/** Say something; it goes by itself, an error after longer. `action` is a button on it. */
export function toast(message: string, tone: Tone = "info", action?: { label: string; run: () => void }): void {
  const place = document.getElementById("toasts");
  if (!place) return;
  const end = (): void => note.remove();
  const note = h(
    "div",
    { class: "toast", "data-tone": tone, "data-test": "toast" },
    icon(tone === "good" ? "check" : tone === "info" ? "info" : "warn"),
    h("span", { class: "toast-text" }, message),
    action &&
      h("button", { class: "button small", onclick: () => { end(); action.run(); } }, action.label),
    h("button", { class: "button quiet square small", "aria-label": "Close", onclick: end }, icon("close")),
  );
  place.append(note);
  while (place.children.length > 4) place.firstElementChild?.remove();
  window.setTimeout(end, tone === "bad" ? 12_000 : 5_000);
}

/** Say what went wrong, unless a request was only given up. */
export function toastError(thrown: unknown): void {
  if (!isAbort(thrown)) toast(sentence(reason(thrown)), "bad");
}
