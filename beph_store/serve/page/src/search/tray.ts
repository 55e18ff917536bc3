/** The strip of tiles below every view: it stays while slides come and go, so that one can walk through what was found. */

import "./tray.css";

import { append, h, icon, replace, type Child } from "../dom.ts";

/** A tile of the strip. */
export interface Card {
  /** Stays the same for the same tile: the open one is marked by it. */
  readonly id: string;
  readonly image: string;
  readonly href: string;
  /** Below the picture, the first line strong. */
  readonly lines: readonly [string, ...Child[]];
  /** Said by screen readers and shown at the pointer. */
  readonly about: string;
  /** Keys while it has the focus; true if taken. */
  readonly key?: (event: KeyboardEvent) => boolean;
}

export interface Tray {
  /** What the strip is of: "search", "proposals". */
  readonly kind: string;
  readonly head: readonly Child[];
  readonly tools?: readonly Child[];
  readonly cards: readonly Card[];
  readonly state: "loading" | "ready" | "failed";
  /** Instead of cards. */
  readonly message?: string;
  readonly closed?: () => void;
}

let shown: Tray | null = null;
let current = "";
const watchers = new Set<() => void>();

/** Show this in place of whatever is there. The focus stays where it is. */
export function showTray(tray: Tray): void {
  const place = document.getElementById("tray");
  if (!place) return;
  const scroll = shown?.kind === tray.kind && tray.state === "loading" ? place.querySelector(".strip")?.scrollLeft : 0;
  shown = tray;
  place.hidden = false;
  place.dataset.kind = tray.kind;
  place.dataset.state = tray.state;
  place.dataset.test = "tray";
  place.setAttribute("aria-label", tray.kind === "proposals" ? "Tiles to label next" : "Search results");
  const strip = h("div", { class: "strip", role: "list", "data-test": "strip" });
  append(strip, tray.cards.length ? tray.cards.map(cardElement) : [message(tray)]);
  replace(
    place,
    h(
      "header",
      { class: "tray-head" },
      h("div", { class: "tray-title row" }, ...tray.head),
      h("div", { class: "row tray-tools" }, ...(tray.tools ?? [])),
      h("button", { class: "button quiet square small", "aria-label": "Close the strip", title: "Close", "data-test": "close-tray", onclick: closeTray }, icon("close")),
    ),
    strip,
  );
  strip.scrollLeft = scroll ?? 0;
  strip.addEventListener("keydown", (event) => walk(strip, event));
  strip.addEventListener("wheel", (event) => {
    if (event.deltaX === 0 && event.deltaY !== 0) strip.scrollLeft += event.deltaY;
  }, { passive: true });
  mark();
  for (const watch of watchers) watch();
}

/** What is shown. */
export function tray(): Tray | null {
  return shown;
}

/** Take the strip away. */
export function closeTray(): void {
  const place = document.getElementById("tray");
  const ended = shown;
  shown = null;
  current = "";
  if (place) {
    place.hidden = true;
    place.replaceChildren();
  }
  ended?.closed?.();
  for (const watch of watchers) watch();
}

/** Be told when the strip shows something else. */
export function onTray(watch: () => void): () => void {
  watchers.add(watch);
  return () => watchers.delete(watch);
}

/** Mark the card of that id as the one that is open. */
export function markCard(id: string): void {
  current = id;
  mark();
}

/** Open the next card, or with -1 the one before; says whether there was one. */
export function stepCard(by: number): boolean {
  if (!shown || shown.cards.length === 0) return false;
  const at = shown.cards.findIndex((card) => card.id === current);
  const next = shown.cards[at < 0 ? (by > 0 ? 0 : shown.cards.length - 1) : at + by];
  if (!next) return false;
  current = next.id;
  mark();
  location.hash = next.href;
  return true;
}

function mark(): void {
  for (const card of document.querySelectorAll<HTMLElement>("#tray .hit")) {
    const here = card.dataset.id === current;
    if (here) card.setAttribute("aria-current", "true");
    else card.removeAttribute("aria-current");
    if (here) card.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function cardElement(card: Card): HTMLElement {
  const [first, ...rest] = card.lines;
  const made = h(
    "a",
    { class: "hit", href: card.href, title: card.about, role: "listitem", "aria-label": card.about, "data-id": card.id, "data-test": "hit" },
    h("img", { src: card.image, alt: "", loading: "lazy", decoding: "async", width: 96, height: 96 }),
    h("span", { class: "hit-first" }, first),
    rest.map((line) => h("span", { class: "hit-line clip" }, line)),
  );
  made.addEventListener("click", () => {
    current = card.id;
    mark();
  });
  if (card.key) {
    made.addEventListener("keydown", (event) => {
      if (card.key?.(event)) event.preventDefault();
    });
  }
  return made;
}

function message(of: Tray): HTMLElement {
  if (of.state === "loading") return h("div", { class: "row strip-note" }, h("span", { class: "spinner" }), of.message ?? "Looking …");
  return h("div", { class: "row strip-note", role: of.state === "failed" ? "alert" : undefined }, icon(of.state === "failed" ? "warn" : "info"), of.message ?? "Nothing was found.");
}

function walk(strip: HTMLElement, event: KeyboardEvent): void {
  const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
  if (!by || event.defaultPrevented) return;
  const cards = [...strip.querySelectorAll<HTMLElement>(".hit")];
  const next = cards[cards.indexOf(document.activeElement as HTMLElement) + by];
  if (!next) return;
  event.preventDefault();
  event.stopPropagation();
  next.focus();
}
