/** Labels of tiles: what the server has, what was changed here, and the head that follows them. */

import { get, isAbort, post, reason, url } from "../api.ts";
import { on } from "../events.ts";
import { knownPerson, person } from "../person.ts";
import { classColour } from "../slide/colours.ts";
import { toastError } from "../toast.ts";
import type { Proposals, Refit, TileClass, TileLabels, TileLabelsChanged } from "../types.ts";

/** After the last label, before the head is fitted anew: several quick clicks are one question. ms */
const REFIT_AFTER = 250;

export type Place = { readonly tile: number } | { readonly region: readonly [number, number, number, number] };

export interface Given {
  readonly label: string;
  readonly who: string;
  readonly at: string;
}

export class LabelBook {
  readonly recipe: string;
  readonly slide: string;
  /** Label of each tile of the slide by its number, who gave it and when. */
  readonly here = new Map<number, Given>();
  classes: readonly TileClass[] = [];
  canUndo = false;
  canRedo = false;
  refit: Refit | null = null;
  /** Why there is no head. */
  refitNote = "";
  fitting = false;
  version = -1;
  private readonly added: string[] = [];
  private readonly changed: () => void;
  private readonly refitted: () => void;
  private readonly ending = new AbortController();
  private readonly off: () => void;
  private timer = 0;

  /** `changed` after every change; `refitted` when there is another head. */
  constructor(recipe: string, slide: string, changed: () => void, refitted: () => void) {
    this.recipe = recipe;
    this.slide = slide;
    this.changed = changed;
    this.refitted = refitted;
    // Another tab, or another person on this server.
    this.off = on<{ recipe: string; version?: number }>("labels", (event) => {
      if (event.recipe === recipe && event.version !== this.version) void this.load();
    });
  }

  destroy(): void {
    this.off();
    this.ending.abort();
    clearTimeout(this.timer);
  }

  /** Names in the order of their numbers 1, 2, …: those with labels or ever used first, then those added here. */
  get names(): readonly string[] {
    const known = this.classes.map((entry) => entry.label);
    return [...known, ...this.added.filter((name) => !known.includes(name))];
  }

  colour(name: string): string {
    const known = this.classes.find((entry) => entry.label === name);
    if (known) return classColour(known.place);
    const next = this.classes.reduce((most, entry) => Math.max(most, entry.place + 1), 0);
    return classColour(next + Math.max(0, this.added.filter((each) => !this.classes.some((entry) => entry.label === each)).indexOf(name)));
  }

  tiles(name: string): number {
    return this.classes.find((entry) => entry.label === name)?.tiles ?? 0;
  }

  add(name: string): void {
    if (name && !this.names.includes(name)) this.added.push(name);
    this.changed();
  }

  /** Read all labels of the slide, and fit the head if there are any. */
  async load(): Promise<void> {
    try {
      const said = await get<TileLabels>(url(`${this.base}/tiles`, { slide: this.slide, who: knownPerson() }), this.ending.signal);
      this.here.clear();
      for (const label of said.labels) this.here.set(label.tile, label);
      this.take(said);
    } catch (thrown) {
      if (!isAbort(thrown)) this.refitNote = reason(thrown);
      this.changed();
    }
  }

  /** Label a place; null takes the label away. */
  async put(place: Place, label: string | null, slide: string = this.slide): Promise<boolean> {
    const who = await person();
    if (!who) return false;
    const before = "tile" in place && slide === this.slide ? this.here.get(place.tile) : undefined;
    if ("tile" in place && slide === this.slide) {
      // Shown at once; the server has the last word.
      if (label === null) this.here.delete(place.tile);
      else this.here.set(place.tile, { label, who, at: new Date().toISOString() });
      this.changed();
    }
    try {
      this.took(await post<TileLabelsChanged>(`${this.base}/tiles`, { who, labels: [{ slide, ...place, label }] }));
      return true;
    } catch (thrown) {
      if ("tile" in place && slide === this.slide) {
        if (before === undefined) this.here.delete(place.tile);
        else this.here.set(place.tile, before);
      }
      this.changed();
      toastError(thrown);
      return false;
    }
  }

  async step(what: "undo" | "redo"): Promise<void> {
    const who = await person();
    if (!who) return;
    try {
      this.took(await post<TileLabelsChanged>(`${this.base}/tiles/${what}`, { who }));
    } catch (thrown) {
      toastError(thrown);
    }
  }

  /** What to label next, of this slide or of all. */
  async proposals(count: number, onlyHere: boolean, seed: number): Promise<Proposals> {
    return get<Proposals>(url(`${this.base}/proposals`, { count, seed, slide: onlyHere ? this.slide : "" }), this.ending.signal);
  }

  async save(name: string): Promise<void> {
    await post(`${this.base}/save`, { name, who: await person() });
  }

  get csv(): string {
    return `${this.base}/tiles.csv`;
  }

  /** Ends with the book. */
  get signal(): AbortSignal {
    return this.ending.signal;
  }

  private get base(): string {
    return `/api/recipes/${this.recipe}/labels`;
  }

  private took(said: TileLabelsChanged): void {
    for (const tile of said.changed) {
      if (tile.slide !== this.slide) continue;
      if (tile.label === null) this.here.delete(tile.tile);
      else this.here.set(tile.tile, { label: tile.label, who: tile.who, at: tile.at });
    }
    this.take(said);
  }

  private take(said: Omit<TileLabels, "labels">): void {
    const news = said.version !== this.version;
    this.version = said.version;
    this.classes = said.classes;
    this.canUndo = said.can_undo;
    this.canRedo = said.can_redo;
    this.changed();
    if (!news) return;
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.fit(), this.refit ? REFIT_AFTER : 0);
  }

  private async fit(): Promise<void> {
    if (this.classes.length < 2) {
      const tiles = this.classes.reduce((sum, entry) => sum + entry.tiles, 0);
      this.refit = null;
      this.refitNote = tiles ? "Label tiles of a second class: what this one must be told apart from." : "";
      this.changed();
      this.refitted();
      return;
    }
    this.fitting = true;
    this.changed();
    try {
      this.refit = await post<Refit>(`${this.base}/refit`, {}, undefined, this.ending.signal);
      this.refitNote = "";
    } catch (thrown) {
      if (isAbort(thrown)) return;
      this.refit = null;
      this.refitNote = reason(thrown);
    }
    this.fitting = false;
    this.changed();
    this.refitted();
  }
}
