/** Dialogs: modal, closed by Escape, with focus kept inside by the browser. */

import { h, icon, type Child } from "./dom.ts";

/** Open a dialog; returns what closes it. `closed` is told, however it went. */
export function dialog(title: string, body: Child[], closed?: () => void): () => void {
  const box = h(
    "dialog",
    { class: "dialog", "aria-label": title, "data-test": "dialog" },
    h(
      "header",
      { class: "dialog-head" },
      h("h2", null, title),
      h("button", { class: "button quiet square", "aria-label": "Close", onclick: () => box.close() }, icon("close")),
    ),
    h("div", { class: "dialog-body" }, ...body),
  );
  box.addEventListener("close", () => {
    box.remove();
    closed?.();
  });
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close();
  });
  document.body.append(box);
  box.showModal();
  return () => box.close();
}

/** Ask before something is done; true for yes. */
export function confirmed(title: string, text: string, yes: string): Promise<boolean> {
  return new Promise((resolve) => {
    let said = false;
    const accept = (): void => { said = true; close(); };
    const close = dialog(
      title,
      [
        h("p", null, text),
        h(
          "div",
          { class: "row end" },
          h("button", { class: "button", onclick: () => close() }, "Cancel"),
          h("button", { class: "button primary", autofocus: true, "data-test": "yes", onclick: accept }, yes),
        ),
      ],
      () => resolve(said),
    );
  });
}
