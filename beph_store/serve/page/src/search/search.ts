/** Search: what was asked, what limits it, and the strip of what was found. */

import { isAbort, post, reason, url } from "../api.ts";
import { h, icon, type Child } from "../dom.ts";
import { count, fixed, sentence } from "../format.ts";
import { slideLink } from "../slide/address.ts";
import { recipeInfo } from "../session.ts";
import type { Found, Hit } from "../types.ts";
import { markCard, showTray, tray, type Card } from "./tray.ts";

export type Question =
  | { readonly kind: "place"; readonly slide: string; readonly name: string; readonly point?: [number, number]; readonly region?: [number, number, number, number] }
  | { readonly kind: "image"; readonly file: File };

interface Limits {
  exclude: "none" | "slide" | "case";
  perSlide: number | null;
  where: string;
  top: number;
}

const limits: Limits = { exclude: "case", perSlide: null, where: "", top: 32 };
let asked: { recipe: string; question: Question } | null = null;
let found: Found | null = null;
let fitted = "";
let ending: AbortController | null = null;

const IMAGES: readonly string[] = ["image/png", "image/jpeg", "image/tiff", "image/bmp", "image/webp"];

/** Search, and show the strip. A later search ends an earlier one. */
export function search(recipe: string, question: Question): void {
  asked = { recipe, question };
  fitted = "";
  void run();
}

/** Hits of the last search on a slide: they are framed there. */
export function hitsOn(recipe: string, slide: string): readonly Hit[] {
  if (!asked || asked.recipe !== recipe || tray()?.kind !== "search") return [];
  return found?.hits.filter((hit) => hit.slide === slide) ?? [];
}

/** The image of a drop or paste, null where it brought none. */
export function imageOf(data: DataTransfer | null): File | null {
  return [...(data?.files ?? [])].find((file) => IMAGES.includes(file.type)) ?? null;
}

/** Make an element take dropped images. Returns what ends it. */
export function takeDrops(on: HTMLElement, recipe: () => string): () => void {
  const over = (event: DragEvent): void => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    on.dataset.drop = "true";
  };
  const out = (): void => { delete on.dataset.drop; };
  const drop = (event: DragEvent): void => {
    out();
    event.preventDefault();
    const file = imageOf(event.dataTransfer);
    if (file && recipe()) search(recipe(), { kind: "image", file });
    else show("failed", [], "Drop one image file: PNG, JPEG, TIFF, BMP or WebP.");
  };
  on.addEventListener("dragover", over);
  on.addEventListener("dragleave", out);
  on.addEventListener("drop", drop);
  return () => {
    on.removeEventListener("dragover", over);
    on.removeEventListener("dragleave", out);
    on.removeEventListener("drop", drop);
  };
}

/** The same for those who do not drag: a button that asks for a file. */
export function imageButton(recipe: () => string): HTMLElement {
  const input = h("input", { type: "file", accept: IMAGES.join(","), hidden: true, "data-test": "image-file" });
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    if (file && recipe()) search(recipe(), { kind: "image", file });
    input.value = "";
  });
  return h(
    "span",
    null,
    input,
    h("button", { class: "button square", title: "Search with an image file; or drop one anywhere", "aria-label": "Search with an image file", "data-test": "search-image", onclick: () => input.click() }, icon("image")),
  );
}

async function run(): Promise<void> {
  if (!asked) return;
  const { recipe, question } = asked;
  ending?.abort();
  const mine = (ending = new AbortController());
  const slow = window.setTimeout(() => show("loading", []), 150);
  try {
    const answer = question.kind === "image" ? await askImage(recipe, question.file, mine.signal) : await askPlace(recipe, question, mine.signal);
    if (ending !== mine) return;
    clearTimeout(slow);
    found = answer;
    markCard("");
    show("ready", answer.hits.map((hit) => card(recipe, hit)));
  } catch (thrown) {
    clearTimeout(slow);
    if (isAbort(thrown) || ending !== mine) return;
    found = null;
    show("failed", [], sentence(reason(thrown)));
  }
}

async function askPlace(recipe: string, question: Question & { kind: "place" }, signal: AbortSignal): Promise<Found> {
  const body = {
    slide: question.slide, point: question.point, region: question.region,
    top: limits.top, exclude: limits.exclude, where: limits.where || undefined, per_slide: limits.perSlide ?? undefined,
  };
  return post<Found>(`/api/recipes/${recipe}/search`, body, undefined, signal);
}

type Fit = readonly [fit: string | undefined, note: string];
const AS_IT_IS: Fit = [undefined, ""];
const MIDDLE: Fit = ["centre", "only its middle, at the size of a tile"];
const RESIZED: Fit = ["crop", "resized to the size of a tile"];

/** How an image is made to fit the encoder: the gentlest that will do, with what the strip says of it. */
async function fitOf(recipe: string, file: File): Promise<Fit> {
  const side = recipeInfo(recipe)?.recipe.tile.tile_px ?? 0;
  try {
    const { width, height } = await createImageBitmap(file);
    if (width === side && height === side) return AS_IT_IS;
    return Math.min(width, height) >= side ? MIDDLE : RESIZED;
  } catch {
    // TIFF: browsers cannot read it, the server can, and says if it does not fit.
    return AS_IT_IS;
  }
}

async function askImage(recipe: string, file: File, signal: AbortSignal): Promise<Found> {
  const [fit, note] = await fitOf(recipe, file);
  const asked = url(`/api/recipes/${recipe}/search/image`, { top: limits.top, where: limits.where, per_slide: limits.perSlide, fit });
  const answer = await post<Found>(asked, file, file.type, signal);
  fitted = note;
  return answer;
}

function card(recipe: string, hit: Hit): Card {
  const half = hit.footprint_l0 / 2;
  const of = found?.query.tile;
  // Where else in that slide it looks like this.
  const overlay = of ? ({ kind: "similarity", of: of.slide, tile: of.tile } as const) : undefined;
  return {
    id: `${hit.slide}/${hit.tile}`,
    image: `/api/recipes/${recipe}/slides/${hit.slide}/tiles/${hit.tile}.jpg`,
    href: slideLink(recipe, hit.slide, { x: hit.x + half, y: hit.y + half, z: Math.min(1, 420 / hit.footprint_l0), tile: hit.tile, overlay }),
    lines: [fixed(hit.score), hit.slide_id, hit.case_id === hit.slide_id ? null : hit.case_id],
    about: `${hit.slide_id}, case ${hit.case_id}, tile ${hit.tile}: cosine ${fixed(hit.score, 4)}`,
  };
}

function show(state: "loading" | "ready" | "failed", cards: Card[], message?: string): void {
  showTray({ kind: "search", state, cards, message: message ?? empty(), head: head(state), tools: tools(), closed: forget });
}

function empty(): string {
  const why = limits.where ? "the condition" : limits.exclude === "case" ? "leaving out the same case" : limits.exclude === "slide" ? "leaving out the same slide" : "the store";
  return `No tile is left by ${why}.`;
}

function forget(): void {
  ending?.abort();
  found = null;
}

function head(state: string): Child[] {
  if (!asked) return [h("strong", null, "Search by image")];
  const { recipe, question } = asked;
  const what: Child[] = [];
  if (question.kind === "image") {
    what.push(icon("image"), h("strong", { class: "clip" }, "Like ", question.file.name), fitted && h("span", { class: "chip", "data-tone": "warn" }, fitted));
  } else {
    const of = found?.query.tile;
    const thumb = state === "ready" && of && h("img", { class: "query", alt: "", src: `/api/recipes/${recipe}/slides/${of.slide}/tiles/${of.tile}.jpg`, width: 28, height: 28 });
    const place = question.region ? "the region" : question.point ? "the tile" : "the slide";
    what.push(thumb || icon(question.region ? "region" : "target"), h("strong", { class: "clip" }, `Most like ${place}`, h("span", { class: "muted" }, ` · ${question.name}`)));
  }
  if (state === "ready" && found) {
    what.push(h("span", { class: "muted small nowrap search-time", "data-test": "search-time" }, `${count(found.tiles)} tiles searched in ${Math.max(1, Math.round(found.seconds * 1000))} ms`));
  }
  return what;
}

function tools(): Child[] {
  const again = (): void => void run();
  const exclude = h(
    "div",
    { class: "segments", role: "group", "aria-label": "Leave out" },
    (["case", "slide", "none"] as const).map((value) =>
      h(
        "button",
        {
          "aria-pressed": String(limits.exclude === value), "data-test": `exclude-${value}`,
          title: { case: "Only other cases", slide: "Only other slides", none: "Leave nothing out but the tile itself" }[value],
          onclick: () => { limits.exclude = value; again(); },
        },
        { case: "Other cases", slide: "Other slides", none: "All" }[value],
      ),
    ),
  );
  const per = h("select", { class: "field small auto", "aria-label": "At most so many of one slide", title: "At most so many of one slide", "data-test": "per-slide" },
    [["", "any number a slide"], ["1", "1 a slide"], ["2", "2 a slide"], ["5", "5 a slide"]].map(([value, text]) =>
      h("option", { value, selected: value === String(limits.perSlide ?? "") }, text)));
  per.addEventListener("change", () => { limits.perSlide = per.value ? Number(per.value) : null; again(); });
  const where = h("input", { class: "field small where", value: limits.where, placeholder: "where: tissue > 0.8", "aria-label": "Condition over columns", spellcheck: "false", "data-test": "where" });
  where.addEventListener("change", () => { limits.where = where.value.trim(); again(); });
  return [asked?.question.kind === "image" ? null : exclude, per, where];
}
