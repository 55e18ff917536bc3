/** What every view needs to know: the store, its recipes, and the recipe that was chosen. */

import { get } from "./api.ts";
import type { RecipeInfo, StoreInfo } from "./types.ts";

const KEY = "beph-store.recipe";

let store: StoreInfo | null = null;
let chosen = "";
const watchers = new Set<(recipe: string) => void>();

/** Ask the server what the store is; again after an ingest. Keeps the chosen recipe if it is still there. */
export async function loadStore(): Promise<StoreInfo> {
  store = await get<StoreInfo>("/api/store");
  const keys = store.recipes.map((recipe) => recipe.key);
  const wanted = chosen || kept();
  // The one with the most tiles: a store often has a small trial beside what it is for.
  const largest = [...store.recipes].sort((a, b) => b.tiles - a.tiles)[0]?.key ?? "";
  setRecipe(keys.includes(wanted) ? wanted : largest);
  return store;
}

/** The store as last read. */
export function storeInfo(): StoreInfo {
  return store ?? { store: "", recipes: [], writable: false };
}

/** Whether the server writes: it was started with --allow-write. */
export function isWritable(): boolean {
  return storeInfo().writable === true;
}

/** Key of the chosen recipe; "" in a store without any. */
export function recipeKey(): string {
  return chosen;
}

export function recipeInfo(key: string = chosen): RecipeInfo | undefined {
  return storeInfo().recipes.find((recipe) => recipe.key === key);
}

/** Choose a recipe. */
export function setRecipe(key: string): void {
  if (key === chosen) return;
  chosen = key;
  try {
    localStorage.setItem(KEY, key);
  } catch {
    // private windows keep nothing
  }
  for (const watch of [...watchers]) watch(key);
}

/** Be told when another recipe is chosen. */
export function onRecipe(watch: (recipe: string) => void): () => void {
  watchers.add(watch);
  return () => watchers.delete(watch);
}

/** `beph-mini · 0.5 µm/px`, and what else tells it from others of the store that would be called the same. */
export function recipeName(recipe: RecipeInfo): string {
  const name = (each: RecipeInfo): string => `${each.encoder} · ${each.mpp} µm/px`;
  const alike = storeInfo().recipes.filter((each) => name(each) === name(recipe));
  if (alike.length < 2) return name(recipe);
  const mine = traits(recipe);
  const other = [...mine].filter(([trait, value]) => alike.some((each) => traits(each).get(trait) !== value));
  const said = other.map(([trait, value]) => (value === "none" ? `no ${trait}` : `${trait} ${value}`).replaceAll("_", " "));
  return [name(recipe), ...(said.length ? said : [recipe.key.slice(0, 6)])].join(" · ");
}

/** How tiles are cut and encoded, in words and numbers. */
function traits(recipe: RecipeInfo): Map<string, string> {
  const { tile, encoder } = recipe.recipe;
  const every = [...Object.entries(tile), ["precision", encoder.precision] as const];
  return new Map(every.map(([trait, value]) => [trait, value === null || value === undefined ? "none" : String(value)]));
}

function kept(): string {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}
