/** What lies over the slide: one of several overlays, and the choices that each has. */

import { get, isAbort, reason } from "../api.ts";
import { h, replace, type Child } from "../dom.ts";
import { link } from "../router.ts";
import type { HeadList, HeadListItem } from "../studies.ts";
import type { OverlayAddress } from "./address.ts";

export interface Chooser {
  readonly element: HTMLElement;
  /** Another overlay was put there by something else. */
  readonly show: (overlay: OverlayAddress) => void;
  /** A tile was clicked: similarity to it can be chosen. */
  readonly offer: (likeness: Likeness) => void;
  /** Names of the classes that people labelled: from two on there is a head of them. */
  readonly labelled: (names: readonly string[]) => void;
  /** Loading, there, or why not. */
  readonly state: (state: "ready" | "loading" | "failed", message?: string) => void;
}

type Likeness = OverlayAddress & { readonly kind: "similarity" };

const CLUSTERS = [4, 6, 8, 12, 16, 24];

interface State {
  overlay: OverlayAddress;
  likeness: Likeness | null;
  names: readonly string[];
  heads: readonly HeadListItem[] | null;
  trouble: string;
}

/** `choose` is called when a person chooses. `recipe` limits the heads to those that fit. */
export function chooser(recipe: string, first: OverlayAddress, choose: (overlay: OverlayAddress) => void, signal: AbortSignal): Chooser {
  const now: State = { overlay: first, likeness: null, names: [], heads: null, trouble: "" };
  const list = h("div", { class: "choices", role: "radiogroup", "aria-label": "Overlay", "data-test": "overlay" });
  const message = h("p", { class: "small", role: "status", "data-test": "overlay-message" });
  const element = h("section", { class: "stack tight" }, h("h3", null, "Overlay"), list, message);
  const take = (overlay: OverlayAddress): void => {
    now.overlay = overlay;
    draw();
    choose(overlay);
  };
  const draw = (): void => replace(list, ...choices(now, take));
  get<HeadList>("/api/heads", signal).then(
    (said) => {
      now.heads = said.heads.filter((head) => head.recipe === recipe);
      draw();
    },
    (thrown: unknown) => {
      if (isAbort(thrown)) return;
      now.heads = [];
      now.trouble = reason(thrown);
      draw();
    },
  );
  draw();
  return {
    element,
    show: (overlay) => {
      now.overlay = overlay;
      draw();
    },
    offer: (likeness) => {
      now.likeness = likeness;
      draw();
    },
    labelled: (names) => {
      if (names.join("\n") === now.names.join("\n")) return;
      now.names = names;
      draw();
    },
    state: (state, text = "") => {
      element.dataset.state = state;
      message.dataset.tone = state === "failed" ? "bad" : "";
      message.textContent = state === "loading" ? "Loading …" : text;
      message.hidden = message.textContent === "";
    },
  };
}

function choices(now: State, take: (overlay: OverlayAddress) => void): Child[] {
  const { overlay } = now;
  const row = (kind: OverlayAddress["kind"], label: string, hint: string, on: (() => OverlayAddress) | null, ...more: Child[]): Child => {
    const chosen = overlay.kind === kind;
    const input = h("input", { type: "radio", name: "overlay", value: kind, checked: chosen, disabled: on === null, "data-test": `overlay-${kind}` });
    input.addEventListener("change", () => { if (on) take(on()); });
    return [
      h("label", { class: "choice", "data-chosen": chosen, "data-off": on === null }, input, h("span", null, label, hint && h("span", { class: "choice-hint" }, hint))),
      chosen && more.some(Boolean) && h("div", { class: "choice-more" }, ...more),
    ];
  };
  const likeness = overlay.kind === "similarity" ? overlay : now.likeness;
  return [
    row("none", "None", "", () => ({ kind: "none" })),
    row("similarity", "Similarity to a tile", likeness ? `tile ${likeness.tile}` : "click a tile", likeness ? () => likeness : null),
    row("head", "Head", headHint(now), now.heads?.length ? () => headChoice(now.heads?.[0] as HeadListItem) : null, overlay.kind === "head" && headMore(now, overlay, take)),
    row("classes", "Head of tile labels", now.names.length < 2 ? "label two classes first" : `${now.names.length} classes`, now.names.length < 2 ? null : () => ({ kind: "classes", class: "" }),
      overlay.kind === "classes" && pick("Show", [["", "likeliest class"], ...now.names.map((name) => [name, `probability of ${name}`] as const)], overlay.class, (name) => take({ kind: "classes", class: name }), "class-choice")),
    row("clusters", "Clusters", "kinds of tissue nobody named", () => ({ kind: "clusters", k: 8 }),
      overlay.kind === "clusters" && pick("How many", CLUSTERS.map((k) => [String(k), String(k)] as const), String(overlay.k), (k) => take({ kind: "clusters", k: Number(k) }), "cluster-choice")),
  ];
}

function headHint(now: State): Child & string {
  if (now.trouble) return now.trouble;
  if (now.heads === null) return "…";
  return now.heads.length === 0 ? "none trained on this recipe" : `${now.heads.length} trained on this recipe`;
}

function headChoice(head: HeadListItem): OverlayAddress {
  return { kind: "head", head: head.head, class: "", values: head.kind === "linear" ? "score" : "" };
}

function headMore(now: State, overlay: OverlayAddress & { kind: "head" }, take: (overlay: OverlayAddress) => void): Child[] {
  const head = now.heads?.find((entry) => entry.head === overlay.head);
  const heads = (now.heads ?? []).map((entry) => [entry.head, entry.title] as const);
  const known = head ? heads : [[overlay.head, overlay.head] as const, ...heads];
  const attends = !head || head.kind !== "linear";
  const kind = overlay.values || (attends && !overlay.class ? "attention" : "score");
  return [
    pick("Head", known, overlay.head, (id) => {
      const other = now.heads?.find((entry) => entry.head === id);
      if (other) take(headChoice(other));
    }, "head-choice"),
    attends &&
      h("div", { class: "segments wide", role: "group", "aria-label": "What of the head" },
        (["attention", "score"] as const).map((values) =>
          h("button", { "aria-pressed": String(kind === values), "data-test": `head-${values}`, onclick: () => take({ ...overlay, values, class: values === "attention" ? "" : overlay.class }) },
            values === "attention" ? "Attention" : "Score"))),
    kind === "score" && head && head.classes.length > 0 &&
      pick("Class", [["", "the one it predicts"], ...head.classes.map((name) => [name, name] as const)], overlay.class, (name) => take({ ...overlay, values: "score", class: name }), "head-class"),
    h("a", { class: "small", href: link("/heads/:id", { id: overlay.head }) }, "About this head"),
  ];
}

function pick(label: string, options: readonly (readonly [string, string])[], value: string, chosen: (value: string) => void, test: string): HTMLElement {
  const select = h("select", { class: "field small", "data-test": test }, options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
  select.addEventListener("change", () => chosen(select.value));
  return h("label", { class: "labelled" }, h("span", null, label), select);
}
