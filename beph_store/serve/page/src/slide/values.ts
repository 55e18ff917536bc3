/** What can be painted over a slide: one number a tile, where it comes from, and what it means. */

import { floats, get, url } from "../api.ts";
import type { Clusters, TileLabels } from "../types.ts";
import type { OverlayAddress } from "./address.ts";
import { classColour, rgb, table, type MapName } from "./colours.ts";

export interface ClassEntry {
  readonly label: string;
  readonly colour: string;
  readonly about?: string;
  /** Of a typical tile. */
  readonly image?: string;
}

export interface Values {
  /** Numbers on a scale, or numbers of classes. */
  readonly kind: "scale" | "class";
  /** (N,) in the order of the grid; NaN where there is none. */
  readonly values: Float32Array;
  readonly title: string;
  /** A sentence: what the number says. */
  readonly meaning: string;
  /** How the ends of the scale are chosen unless a person says otherwise. */
  readonly range: Range;
  readonly classes: readonly ClassEntry[];
  /** Good to know, as the fold that a head is of. */
  readonly note: string;
}

/** "spread" leaves out the most extreme hundredth at both ends; "full" is from least to most; "unit" is 0 to 1. */
export type Range = "spread" | "full" | "unit";

export interface Style {
  map: MapName;
  opacity: number;
  /** null: as the values themselves suggest. */
  range: Range | null;
  /** Share of the scale below which nothing is painted. */
  from: number;
  /** Classes that are not painted. */
  without: Set<number>;
}

/** The values of an overlay on a slide; null for none. */
export async function loadValues(recipe: string, slide: string, overlay: OverlayAddress, signal: AbortSignal): Promise<Values | null> {
  const base = `/api/recipes/${recipe}/slides/${slide}`;
  switch (overlay.kind) {
    case "similarity": {
      const { values } = await floats(url(`${base}/similarity.bin`, { tile: overlay.tile, of: overlay.of }), signal);
      return scale(values, "Similarity", "Cosine of each tile's embedding with the framed tile's: 1 is the same direction.", "spread");
    }
    case "head":
      return headValues(base, overlay, signal);
    case "classes":
      return classValues(recipe, base, overlay.class, signal);
    case "clusters":
      return clusterValues(recipe, base, overlay.k, signal);
    case "none":
      return null;
  }
}

function scale(values: Float32Array, title: string, meaning: string, range: Range, note = ""): Values {
  return { kind: "scale", values, title, meaning, range, classes: [], note };
}

async function headValues(base: string, overlay: OverlayAddress & { kind: "head" }, signal: AbortSignal): Promise<Values> {
  const asked = url(`${base}/head/${overlay.head}.bin`, { class: overlay.values === "attention" ? "" : overlay.class, kind: overlay.values });
  const { values, headers } = await floats(asked, signal);
  const attention = headers.get("x-kind") === "attention";
  const of = headers.get("x-class");
  const said = headers.get("x-said");
  const seen = headers.get("x-held-out") === "true" ? "by heads that had not seen this case" : "by heads that were trained on this case too: it flatters";
  const title = attention ? "Attention" : of ? `Score for ${of}` : "Score";
  return scale(values, title, headers.get("x-meaning") ?? "", attention ? "unit" : "spread", [said, seen].filter(Boolean).join("; "));
}

async function classValues(recipe: string, base: string, name: string, signal: AbortSignal): Promise<Values> {
  if (name) {
    const { values } = await floats(url(`${base}/tile-classes.bin`, { class: name }), signal);
    return scale(values, `Probability of ${name}`, "How sure the head of the labels is that a tile is of this class.", "unit");
  }
  const [{ values, headers }, places] = await Promise.all([floats(`${base}/tile-classes.bin`, signal), classPlaces(recipe, signal)]);
  const names = JSON.parse(decodeURIComponent(headers.get("x-classes") ?? "[]")) as string[];
  return {
    kind: "class", values, title: "Likeliest class", range: "full", note: "",
    meaning: "The class that the head of the labels finds likeliest for each tile.",
    classes: names.map((label, i) => ({ label, colour: classColour(places.get(label) ?? i) })),
  };
}

/** The place of each class among all that were ever used: its colour stays when others go. */
async function classPlaces(recipe: string, signal: AbortSignal): Promise<Map<string, number>> {
  const { classes } = await get<Pick<TileLabels, "classes">>(`/api/recipes/${recipe}/labels/tiles`, signal);
  return new Map(classes.map((entry) => [entry.label, entry.place]));
}

async function clusterValues(recipe: string, base: string, k: number, signal: AbortSignal): Promise<Values> {
  const said = await get<Clusters>(url(`${base}/clusters.json`, { k }), signal);
  return {
    kind: "class", values: Float32Array.from(said.cluster), title: `${said.k} clusters`, range: "full", note: "",
    meaning: "Groups of tiles with like embeddings, found without labels over the whole recipe: the same number on every slide. The picture is a typical tile.",
    classes: said.clusters.map((cluster) => ({
      label: `Cluster ${cluster.cluster + 1}`,
      colour: classColour(cluster.cluster),
      about: `${Math.round(100 * cluster.share)} % of the tiles of the whole recipe`,
      image: `/api/recipes/${recipe}/slides/${cluster.exemplar.slide}/tiles/${cluster.exemplar.tile}.jpg`,
    })),
  };
}

const known = new WeakMap<Values, Map<Range, [number, number]>>();

/** Both ends of the scale. */
export function ends(values: Values, range: Range): [number, number] {
  const held = known.get(values) ?? new Map<Range, [number, number]>();
  known.set(values, held);
  const found = held.get(range) ?? measured(values.values, range);
  held.set(range, found);
  return found;
}

function measured(values: Float32Array, range: Range): [number, number] {
  if (range === "unit") return [0, 1];
  const sorted = values.filter(Number.isFinite).sort();
  if (sorted.length === 0) return [0, 1];
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
  const [low, high] = range === "spread" && sorted.length > 20 ? [at(0.01), at(0.99)] : [sorted[0], sorted[sorted.length - 1]];
  return high > low ? [low, high] : [low - 0.5, low + 0.5];
}

/** (N × 4) RGBA: transparent where there is nothing to show. */
export function colours(values: Values, style: Style): Uint8ClampedArray {
  const made = new Uint8ClampedArray(values.values.length * 4);
  if (values.kind === "class") {
    const palette = values.classes.map((entry) => rgb(entry.colour));
    for (let i = 0; i < values.values.length; i++) {
      const number = values.values[i];
      const colour = palette[number];
      if (!colour || style.without.has(number)) continue;
      made.set(colour, i * 4);
      made[i * 4 + 3] = 255;
    }
    return made;
  }
  const [low, high] = ends(values, style.range ?? values.range);
  const map = table(style.map);
  for (let i = 0; i < values.values.length; i++) {
    const share = (values.values[i] - low) / (high - low);
    if (!Number.isFinite(share) || share < style.from) continue;
    const at = Math.round(Math.min(1, Math.max(0, share)) * 255) * 3;
    made[i * 4] = map[at];
    made[i * 4 + 1] = map[at + 1];
    made[i * 4 + 2] = map[at + 2];
    made[i * 4 + 3] = 255;
  }
  return made;
}

/** How many tiles have each class, or fall into each of `bins` equal steps of the scale. */
export function histogram(values: Values, range: Range, bins: number): number[] {
  if (values.kind === "class") {
    const counts = values.classes.map(() => 0);
    for (const number of values.values) if (counts[number] !== undefined) counts[number]++;
    return counts;
  }
  const counts = new Array<number>(bins).fill(0);
  const [low, high] = ends(values, range);
  for (const value of values.values) {
    const share = (value - low) / (high - low);
    if (Number.isFinite(share)) counts[Math.min(bins - 1, Math.max(0, Math.floor(share * bins)))]++;
  }
  return counts;
}
