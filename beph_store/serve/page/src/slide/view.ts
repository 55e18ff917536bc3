/** A slide: deep zoom, what lies over it, search by clicking, labelling. */

import "./slide.css";

import { get, integers, isAbort, reason } from "../api.ts";
import { h, icon, replace } from "../dom.ts";
import { count, counted, digits, sentence, when } from "../format.ts";
import { LabelBook } from "../labels/book.ts";
import { labelPanel, type LabelPanel } from "../labels/panel.ts";
import { go, link, remember, type Dispose, type Params, type View } from "../router.ts";
import { hitsOn, search, takeDrops } from "../search/search.ts";
import { markCard, onTray, tray } from "../search/tray.ts";
import { onRecipe, recipeInfo, setRecipe } from "../session.ts";
import { neighbour } from "../store/order.ts";
import { toastError } from "../toast.ts";
import type { SlideInfo } from "../types.ts";
import { placeOf, slideLink, type Place } from "./address.ts";
import { facts, slideHead, slideLabel } from "./facts.ts";
import { rowAt, rowOf, rowsIn, tileGrid, type TileGrid } from "./grid.ts";
import { slideKeys } from "./keys.ts";
import { modeSwitch, type Mode } from "./mode.ts";
import { Overlaying } from "./overlaying.ts";
import { Layers } from "./painting.ts";
import { scaleBar } from "./scale.ts";
import { toolbar, type Toggle } from "./toolbar.ts";
import type { Style } from "./values.ts";
import { SlideViewer, type Box } from "./viewer.ts";

/** Kept while one goes from slide to slide. */
const style: Style = { map: "viridis", opacity: 0.6, range: null, from: 0, without: new Set() };
let mode: Mode = "look";
const drawn = { tissue: false, grid: false };

export const slide: View = (root, params) => {
  const ending = new AbortController();
  let page: SlidePage | null = null;
  const { recipe, slide: handle } = params.path;
  if (recipeInfo(recipe)) setRecipe(recipe);
  const place = h("div", { class: "slide-page", "data-view": "slide", "data-state": "loading" });
  root.append(place);
  get<SlideInfo>(`/api/recipes/${encodeURIComponent(recipe)}/slides/${encodeURIComponent(handle)}`, ending.signal).then(
    (info) => { page = new SlidePage(place, recipe, info, placeOf(params.query)); },
    (thrown: unknown) => {
      if (!isAbort(thrown)) failed(place, "This slide cannot be shown", reason(thrown));
    },
  );
  const dispose: Dispose = () => {
    ending.abort();
    page?.destroy();
  };
  dispose.update = (next: Params): boolean => {
    if (next.path.recipe !== recipe || next.path.slide !== handle || !page) return false;
    page.go(placeOf(next.query));
    return true;
  };
  return dispose;
};

function failed(place: HTMLElement, title: string, why: string): void {
  place.dataset.state = "failed";
  replace(place, h("div", { class: "empty" }, icon("warn"), h("h2", null, title), h("p", null, sentence(why)), h("a", { class: "button", href: "#/" }, "All slides")));
}

class SlidePage {
  private readonly place: HTMLElement;
  private readonly recipe: string;
  private readonly info: SlideInfo;
  private readonly mpp: number;
  private readonly layers = new Layers();
  private readonly ending = new AbortController();
  private readonly offs: (() => void)[] = [];
  private readonly readout = h("output", { class: "readout", "data-test": "readout", "aria-live": "off" });
  private readonly stage = h("div", { class: "stage" });
  private readonly side = h("aside", { class: "inspector", "aria-label": "About the slide" });
  private readonly over: Overlaying;
  private readonly book: LabelBook;
  private readonly labels: LabelPanel;
  private viewer: SlideViewer | null = null;
  /** Press a button of the toolbar, once there is one. */
  private press: (what: Toggle) => void = () => undefined;
  private grid: TileGrid | null = null;
  /** The view is where it was asked to be: from now on the address follows it. */
  private opened = false;
  private readonly modeSwitch = modeSwitch((to) => this.setMode(to));
  private readonly lookPart = h("div", { class: "stack" });
  private readonly labelPart = h("div", { class: "stack" });

  constructor(place: HTMLElement, recipe: string, info: SlideInfo, at: Place) {
    this.place = place;
    this.recipe = recipe;
    this.info = info;
    this.mpp = info.mpp_x && info.mpp_y ? (info.mpp_x + info.mpp_y) / 2 : 0;
    this.over = new Overlaying({ recipe, slide: info.slide, signal: this.ending.signal }, at.overlay ?? { kind: "none" }, this.layers, style, {
      repaint: () => this.viewer?.repaint(),
      state: (overlay, state) => {
        place.dataset.overlay = overlay.kind;
        place.dataset.overlayState = state;
        if (state === "ready") this.keepAddress();
      },
    });
    this.book = new LabelBook(recipe, info.slide, () => this.labelsChanged(), () => this.refitted());
    this.labels = labelPanel(this.book, () => (this.grid && this.layers.selected >= 0 ? this.grid.tile[this.layers.selected] : null));
    document.title = `${info.slide_id} · beph-store`;
    replace(place, this.stage, this.side);
    this.layers.opacity = style.opacity;
    this.drawSide();
    if (!info.image) {
      this.place.dataset.state = "failed";
      replace(this.stage, h("div", { class: "empty" }, icon("warn"), h("h2", null, "This slide could not be opened"), h("p", null, info.error ?? info.note)));
      return;
    }
    this.open(at);
  }

  destroy(): void {
    this.ending.abort();
    for (const off of this.offs) off();
    this.book.destroy();
    this.viewer?.destroy();
  }

  /** Look at another place of the same slide. */
  go(at: Place): void {
    if (at.x !== undefined && at.y !== undefined) this.viewer?.look(at.x, at.y, at.z ?? this.viewer.place.z);
    if (at.tile !== undefined && this.grid) this.select(rowOf(this.grid, at.tile));
    if (at.overlay && at.overlay.kind !== "none") void this.over.set(at.overlay);
  }

  // ---- the stage ------------------------------------------------------------------------------

  private open(at: Place): void {
    const bar = scaleBar(this.mpp);
    const element = h("div", { class: "viewer" });
    const tools = toolbar(this.mpp, {
      zoom: (factor) => this.viewer?.zoomBy(factor),
      fit: () => this.viewer?.fit(),
      scale: (scale) => {
        const now = this.viewer?.place;
        if (now) this.viewer?.look(now.x, now.y, scale);
      },
      toggle: (what) => this.toggle(what),
    });
    replace(this.stage, element, tools.element, this.over.legend.element, h("div", { class: "stage-foot" }, bar.element, this.readout), this.note());
    const placed = at.x !== undefined && at.y !== undefined;
    this.viewer = new SlideViewer(element, this.recipe, this.info, (context, sight) => {
      bar.show(sight.scale);
      this.layers.paint(context, sight);
    }, {
      click: (x, y, event) => this.click(x, y, event),
      region: (box) => this.region(box),
      pointer: (x, y) => this.point(x, y),
      rest: () => this.keepAddress(),
      state: (state, message) => {
        this.place.dataset.state = state;
        if (state === "failed") toastError(new Error(message || "the image of this slide cannot be read"));
        if (state !== "open" || this.opened) return;
        this.opened = true;
        if (placed) this.viewer?.look(at.x ?? 0, at.y ?? 0, at.z ?? 0.5, true);
      },
    });
    this.press = tools.press;
    this.listen(tools.press);
    if (drawn.tissue) tools.press("tissue");
    if (drawn.grid) tools.press("grid");
    void this.loadGrid(at);
  }

  private note(): HTMLElement | false {
    if (this.info.file) return this.info.note ? h("div", { class: "stage-note", "data-test": "slide-note" }, icon("info"), h("span", null, this.info.note)) : false;
    const [why] = this.info.note.split(";");
    return h(
      "div",
      { class: "stage-note", "data-tone": "warn", "data-test": "moved", role: "note" },
      icon("warn"),
      h("span", null, h("strong", null, sentence(why)), " Shown is the stored overview; overlays, labels and search work as before."),
    );
  }

  private listen(press: (what: Toggle) => void): void {
    this.offs.push(
      slideKeys({
        zoom: (factor) => this.viewer?.zoomBy(factor),
        fit: () => this.viewer?.fit(),
        pan: (dx, dy) => this.viewer?.panBy(dx, dy),
        middle: () => this.clickMiddle(),
        press,
        fade: (by) => this.fade(by),
        switchMode: () => this.setMode(mode === "look" ? "label" : "look"),
        choose: (at) => { if (mode === "label") this.labels.choose(at); },
        step: (what) => void this.book.step(what),
        slide: (by) => this.stepSlide(by),
        propose: () => {
          this.setMode("label");
          this.labels.propose();
        },
      }),
      takeDrops(this.place, () => this.recipe),
      // A slide is called the same under every recipe.
      onRecipe((key) => { if (key !== this.recipe) go(slideLink(key, this.info.slide)); }),
      onTray(() => this.showHits()),
    );
  }

  private async loadGrid(at: Place): Promise<void> {
    const { signal } = this.ending;
    const base = `/api/recipes/${this.recipe}/slides/${this.info.slide}`;
    try {
      const rows = await integers(`${base}/grid.bin`, signal);
      const spec = recipeInfo(this.recipe)?.recipe.tile;
      const stride = spec && this.mpp ? (spec.stride_px * spec.mpp) / this.mpp : 0;
      this.grid = this.layers.grid = tileGrid(rows, this.info.footprint_l0 ?? 1, stride);
      this.place.dataset.tiles = String(this.grid.count);
    } catch (thrown) {
      if (isAbort(thrown)) return;
      this.over.chooser.state("failed", reason(thrown));
      return;
    }
    if (at.tile !== undefined) this.select(rowOf(this.grid, at.tile));
    void this.book.load();
    this.showHits();
    this.setMode(mode);
    await this.over.set(this.over.overlay);
  }

  private click(x: number, y: number, event: PointerEvent | null): void {
    if (!this.grid) return;
    const row = rowAt(this.grid, x, y);
    if (mode === "label" && !(event?.altKey ?? false)) {
      if (row >= 0) this.label(row);
      return;
    }
    if (row < 0) return;
    this.select(row);
    const tile = this.grid.tile[row];
    const half = this.grid.side / 2;
    this.layers.region = null;
    search(this.recipe, { kind: "place", slide: this.info.slide, name: this.info.slide_id, point: [Math.round(this.grid.x[row] + half), Math.round(this.grid.y[row] + half)] });
    const likeness = { kind: "similarity", of: this.info.slide, tile } as const;
    this.over.chooser.offer(likeness);
    // What somebody chose to see stays; similarity is one choice away.
    if (this.over.overlay.kind === "none" || this.over.overlay.kind === "similarity") void this.over.set(likeness);
  }

  private clickMiddle(): void {
    const at = this.viewer?.place;
    if (at) this.click(at.x, at.y, null);
  }

  private region(box: Box): void {
    if (!this.grid) return;
    const rows = rowsIn(this.grid, box);
    if (rows.length === 0) {
      toastError(new Error("No tile has its middle in this region: draw it larger, or over tissue."));
      return;
    }
    if (mode === "label") {
      const name = this.labels.active();
      if (name) void this.book.put({ region: box }, name);
      else toastError(new Error("Add a class first."));
      return;
    }
    this.layers.region = box;
    this.viewer?.repaint();
    search(this.recipe, { kind: "place", slide: this.info.slide, name: `${this.info.slide_id}, ${counted(rows.length, "tile")}`, region: [...box] });
  }

  private label(row: number): void {
    const name = this.labels.active();
    if (!name || !this.grid) {
      toastError(new Error("Add a class first: its name goes into the field under Classes."));
      return;
    }
    const tile = this.grid.tile[row];
    void this.book.put({ tile }, this.book.here.get(tile)?.label === name ? null : name);
  }

  private select(row: number): void {
    this.layers.selected = row;
    if (row >= 0 && this.grid) {
      this.place.dataset.tile = String(this.grid.tile[row]);
      markCard(`${this.info.slide}/${this.grid.tile[row]}`);
    }
    this.viewer?.repaint();
  }

  private point(x: number | null, y: number | null): void {
    const row = x === null || y === null || !this.grid ? -1 : rowAt(this.grid, x, y);
    const value = this.over.valueOf(row);
    this.over.legend.point(value);
    if (x === null || y === null) {
      this.readout.textContent = "";
      return;
    }
    const where = `x ${count(Math.round(x))}  y ${count(Math.round(y))}`;
    const tile = row >= 0 && this.grid ? `  ·  tile ${this.grid.tile[row]}` : "";
    const given = row >= 0 && this.grid ? this.book.here.get(this.grid.tile[row]) : undefined;
    const shown = value !== null && this.over.values?.kind === "scale" ? `  ·  ${digits(value)}` : "";
    this.readout.textContent = `${where}${tile}${shown}${given ? `  ·  ${given.label}, by ${given.who}, ${when(given.at)}` : ""}`;
  }

  private toggle(what: Toggle): boolean {
    switch (what) {
      case "region":
        if (!this.viewer) return false;
        this.viewer.regionMode = !this.viewer.regionMode;
        this.stage.dataset.region = String(this.viewer.regionMode);
        return this.viewer.regionMode;
      case "tissue":
        this.layers.showTissue = drawn.tissue = !this.layers.showTissue;
        this.tissueBox.checked = this.layers.showTissue;
        if (this.layers.showTissue) this.loadTissue();
        break;
      case "grid":
        this.layers.showGrid = drawn.grid = !this.layers.showGrid;
        break;
      case "hidden":
        this.layers.hidden = !this.layers.hidden;
        break;
    }
    this.viewer?.repaint();
    return { tissue: this.layers.showTissue, grid: this.layers.showGrid, hidden: this.layers.hidden }[what];
  }

  private loadTissue(): void {
    const { image } = this.info;
    const mask = new Image();
    mask.addEventListener("load", () => {
      if (image) this.layers.setTissue(mask, image.width, image.height);
      this.viewer?.repaint();
    }, { signal: this.ending.signal });
    mask.src = `/api/recipes/${this.recipe}/slides/${this.info.slide}/tissue.png`;
  }

  // ---- overlays -------------------------------------------------------------------------------

  private fade(by: number): void {
    const to = Math.min(1, Math.max(0.1, Math.round((style.opacity + by) * 10) / 10));
    this.opacityField.value = String(to);
    this.setOpacity(to);
  }

  private setOpacity(to: number): void {
    style.opacity = this.layers.opacity = to;
    this.viewer?.repaint();
  }

  private showHits(): void {
    this.layers.hits = hitsOn(this.recipe, this.info.slide);
    if (tray()?.kind !== "search") this.layers.region = null;
    this.viewer?.repaint();
  }

  private keepAddress(): void {
    if (!this.viewer || !this.opened || this.ending.signal.aborted) return;
    const tile = this.layers.selected >= 0 ? this.grid?.tile[this.layers.selected] : undefined;
    remember(slideLink(this.recipe, this.info.slide, { ...this.viewer.place, tile, overlay: this.over.overlay }));
  }

  // ---- labels ---------------------------------------------------------------------------------

  private labelsChanged(): void {
    this.labels.draw();
    this.over.chooser.labelled(this.book.classes.map((entry) => entry.label));
    const { grid } = this;
    if (!grid) return;
    this.layers.marks = mode === "label" || this.over.overlay.kind === "classes"
      ? [...this.book.here].map(([tile, given]) => ({ row: rowOf(grid, tile), colour: this.book.colour(given.label) })).filter((mark) => mark.row >= 0)
      : [];
    this.place.dataset.labels = String(this.book.here.size);
    this.viewer?.repaint();
  }

  private refitted(): void {
    if (this.book.refit && (this.over.overlay.kind === "classes" || (mode === "label" && this.over.overlay.kind !== "head"))) {
      void this.over.set(this.over.overlay.kind === "classes" ? this.over.overlay : { kind: "classes", class: "" });
    } else if (this.book.version >= 0 && !this.book.fitting && !this.book.refit && this.over.overlay.kind === "classes") {
      void this.over.set({ kind: "none" });
    }
  }

  private setMode(to: Mode): void {
    mode = to;
    this.place.dataset.mode = to;
    this.modeSwitch.show(to);
    this.labelPart.hidden = to !== "label";
    if (to === "label") this.refitted();
    this.labelsChanged();
  }

  // ---- the panel beside it --------------------------------------------------------------------

  private readonly opacityField = h("input", { type: "range", min: 0.1, max: 1, step: 0.05, value: style.opacity, "data-test": "opacity" });

  private readonly tissueBox = h("input", { type: "checkbox", "data-test": "tissue-box" });

  private stepSlide(by: number): void {
    const next = neighbour(this.recipe, this.info.slide, by);
    const { overlay } = this.over;
    if (next) go(slideLink(this.recipe, next, { overlay }));
  }

  private drawSide(): void {
    this.opacityField.addEventListener("input", () => this.setOpacity(Number(this.opacityField.value)));
    this.tissueBox.addEventListener("change", () => this.press("tissue"));
    const tissue = h("label", { class: "choice" }, this.tissueBox, h("span", null, "Tissue", h("span", { class: "choice-hint" }, "what was found, and so was cut into tiles")));
    replace(this.lookPart, h("div", { class: "stack tight" }, this.over.chooser.element, tissue), h("label", { class: "labelled" }, h("span", null, "Opacity"), this.opacityField));
    replace(this.labelPart, this.labels.element);
    this.labelPart.hidden = mode !== "label";
    const known = this.info.status === "done";
    replace(
      this.side,
      slideHead(this.recipe, this.info, (by) => this.stepSlide(by)),
      known && this.modeSwitch.element,
      known && this.labelPart,
      known && this.lookPart,
      known && h("button", { class: "button small wide", "data-test": "search-slide", onclick: () => search(this.recipe, { kind: "place", slide: this.info.slide, name: this.info.slide_id }) }, icon("search"), "Tiles like the whole slide"),
      h("section", { class: "stack tight" }, h("h3", null, "About"), facts(this.recipe, this.info, this.ending.signal)),
      slideLabel(this.recipe, this.info.slide, this.ending.signal),
      h("a", { class: "small", href: link("/train") }, "Train a head on labels of slides"),
    );
    if (known) this.setMode(mode);
  }
}
