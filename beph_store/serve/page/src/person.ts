/** Who labels: asked once in this browser, written beside every label. */

import { dialog } from "./dialog.ts";
import { h } from "./dom.ts";

const KEY = "beph-store.person";

/** The name that was given, or "". */
export function knownPerson(): string {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** The name, asked for now where none was given yet; null if the question was closed. */
export async function person(): Promise<string | null> {
  return knownPerson() || (await askPerson());
}

/** Ask for the name, whether or not there is one. */
export function askPerson(): Promise<string | null> {
  return new Promise((resolve) => {
    let given: string | null = null;
    const input = h("input", {
      class: "field", id: "person", maxlength: 80, autocomplete: "name", autofocus: true, value: knownPerson(),
      "data-test": "person",
    });
    const keep = (event: Event): void => {
      event.preventDefault();
      const name = input.value.trim();
      if (!name) return;
      given = name;
      try {
        localStorage.setItem(KEY, name);
      } catch {
        // private windows keep nothing: the name is asked again
      }
      close();
    };
    const close = dialog(
      "Who labels?",
      [
        h(
          "form",
          { class: "stack", onsubmit: keep },
          h("label", { for: "person" }, "Your name or initials"),
          input,
          h("p", { class: "muted" }, "Written beside every label you make. Asked once in this browser."),
          h("div", { class: "row end" }, h("button", { class: "button primary", type: "submit" }, "Use this name")),
        ),
      ],
      () => resolve(given),
    );
  });
}
