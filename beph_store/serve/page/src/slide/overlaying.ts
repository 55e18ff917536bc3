/** The overlay of a slide: chosen, loaded, coloured, explained. */

import { isAbort, reason } from "../api.ts";
import { sentence } from "../format.ts";
import type { OverlayAddress } from "./address.ts";
import { chooser, type Chooser } from "./chooser.ts";
import { legend, type Legend } from "./legend.ts";
import type { Layers } from "./painting.ts";
import { colours, loadValues, type Style, type Values } from "./values.ts";

export interface OverlayHooks {
  readonly repaint: () => void;
  /** For the page's own attributes, and whoever keeps the address. */
  readonly state: (overlay: OverlayAddress, state: "loading" | "ready" | "failed") => void;
}

export class Overlaying {
  readonly chooser: Chooser;
  readonly legend: Legend;
  overlay: OverlayAddress;
  values: Values | null = null;
  private readonly recipe: string;
  private readonly slide: string;
  private readonly layers: Layers;
  private readonly style: Style;
  private readonly hooks: OverlayHooks;
  private loading: AbortController | null = null;

  constructor(place: { recipe: string; slide: string; signal: AbortSignal }, first: OverlayAddress, layers: Layers, style: Style, hooks: OverlayHooks) {
    this.recipe = place.recipe;
    this.slide = place.slide;
    this.overlay = first;
    this.layers = layers;
    this.style = style;
    this.hooks = hooks;
    this.chooser = chooser(place.recipe, first, (overlay) => void this.set(overlay), place.signal);
    this.legend = legend(style, () => this.recolour());
    place.signal.addEventListener("abort", () => this.loading?.abort());
  }

  /** Put this over the slide; a later call ends an earlier one. */
  async set(overlay: OverlayAddress): Promise<void> {
    this.loading?.abort();
    const mine = (this.loading = new AbortController());
    this.overlay = overlay;
    this.chooser.show(overlay);
    this.chooser.state("loading");
    this.hooks.state(overlay, "loading");
    try {
      const values = await loadValues(this.recipe, this.slide, overlay, mine.signal);
      if (mine.signal.aborted) return;
      if (values && this.layers.grid && values.values.length !== this.layers.grid.count) throw new Error("the slide was ingested anew just now: load the page again");
      this.show(values);
      this.chooser.state("ready");
      this.hooks.state(overlay, "ready");
    } catch (thrown) {
      if (isAbort(thrown)) return;
      this.show(null);
      this.chooser.state("failed", sentence(reason(thrown)));
      this.hooks.state(overlay, "failed");
    }
  }

  /** The value of a row; null where it has none. */
  valueOf(row: number): number | null {
    const value = row >= 0 ? this.values?.values[row] : undefined;
    return value === undefined || !Number.isFinite(value) ? null : value;
  }

  private show(values: Values | null): void {
    this.values = values;
    this.legend.show(values);
    this.recolour();
  }

  private recolour(): void {
    this.layers.paintTiles(this.values ? colours(this.values, this.style) : null);
    this.hooks.repaint();
  }
}
