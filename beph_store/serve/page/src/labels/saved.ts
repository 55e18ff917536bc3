/** Heads of tile labels that were saved: to take away, or to delete. */

import { del, get, isAbort } from "../api.ts";
import { confirmed } from "../dialog.ts";
import { h, icon, replace } from "../dom.ts";
import { counted, when } from "../format.ts";
import { isWritable } from "../session.ts";
import { toastError } from "../toast.ts";

interface SavedHead {
  readonly name: string;
  readonly title: string;
  readonly who: string;
  readonly saved_at: string;
  readonly classes: readonly string[];
  readonly tiles: number;
}

export interface SavedHeads {
  readonly element: HTMLElement;
  readonly load: () => Promise<void>;
}

export function savedHeads(recipe: string, signal: AbortSignal): SavedHeads {
  const element = h("section", { class: "stack tight", hidden: true, "data-test": "saved-heads" });
  const path = `/api/recipes/${recipe}/labels/saved`;
  const remove = async (head: SavedHead): Promise<void> => {
    if (!(await confirmed("Delete this head?", `“${head.title}” of ${counted(head.tiles, "label")} is deleted. The labels stay.`, "Delete"))) return;
    try {
      await del(`${path}/${encodeURIComponent(head.name)}`);
      await load();
    } catch (thrown) {
      toastError(thrown);
    }
  };
  const row = (head: SavedHead): HTMLElement =>
    h(
      "li",
      { class: "row", title: `${head.classes.join(", ")}; ${counted(head.tiles, "label")}; saved by ${head.who}, ${when(head.saved_at)}` },
      h("span", { class: "clip grow" }, head.title),
      h("span", { class: "muted small nowrap" }, counted(head.tiles, "label")),
      h("a", { class: "button quiet square small", href: `${path}/${encodeURIComponent(head.name)}.zip`, download: "", "aria-label": `Download ${head.title}` }, icon("download")),
      h("button", { class: "button quiet square small", "aria-label": `Delete ${head.title}`, disabled: !isWritable(), onclick: () => void remove(head) }, icon("trash")),
    );
  const load = async (): Promise<void> => {
    try {
      const { saved } = await get<{ saved: SavedHead[] }>(path, signal);
      element.hidden = saved.length === 0;
      replace(element, h("h3", null, "Saved heads"), h("ul", { class: "saved" }, saved.map(row)));
    } catch (thrown) {
      if (!isAbort(thrown)) element.hidden = true;
    }
  };
  void load();
  return { element, load };
}
