/** The store: its slides as pictures or as a table, filtered; what is being ingested; what failed and why. */

import "./store.css";

import { get, isAbort, reason } from "../api.ts";
import { h, icon, replace } from "../dom.ts";
import { counted } from "../format.ts";
import { shortcuts } from "../keys.ts";
import { remember, type Dispose, type Params, type View } from "../router.ts";
import { imageButton, takeDrops } from "../search/search.ts";
import { isWritable, loadStore, onRecipe, recipeInfo, recipeKey, storeInfo } from "../session.ts";
import type { LabelColumn, SlideItem, SlideList } from "../types.ts";
import { chips, filterPanel, isFiltered, noFilters, queryOf } from "./filters.ts";
import { askIngest } from "./ingest.ts";
import { slideCard, slideTable } from "./items.ts";
import { markingBar } from "./marking.ts";
import { keepOrder } from "./order.ts";
import { runsPanel } from "./runs.ts";

const PAGE = 120;
const TYPED_AFTER = 180;

/** Kept while one looks at a slide and comes back. */
const filters = noFilters();
let layout: "grid" | "table" = "grid";
let scrolled = 0;

export const store: View = (root, params) => {
  const page = new StorePage(root);
  page.find(params);
  const dispose: Dispose = () => page.destroy();
  dispose.update = (next) => {
    page.find(next);
    return true;
  };
  return dispose;
};

class StorePage {
  private readonly root: HTMLElement;
  private readonly ending = new AbortController();
  private readonly offs: (() => void)[] = [];
  private readonly title = h("h1", null, "Slides");
  private readonly summary = h("span", { class: "muted", "data-test": "summary" });
  private readonly search = h("input", { class: "field search-field", type: "search", placeholder: "Name or case", value: filters.q, "aria-label": "Look for a slide", "data-test": "search" });
  private readonly layoutSwitch = h("div", { class: "segments", role: "group", "aria-label": "Pictures or table" });
  private readonly chosen = h("div", { class: "row wrap chips" });
  private readonly body = h("div", { class: "slides", "data-test": "slides" });
  private readonly more = h("div", { class: "more", "aria-hidden": "true" });
  private readonly panel = filterPanel(filters, () => this.changed());
  private readonly marks = markingBar(() => this.marks.show(this.body));
  private readonly watcher: IntersectionObserver;
  private items: SlideItem[] = [];
  private columns: readonly LabelColumn[] = [];
  private total = 0;
  private asking: AbortController | null = null;
  private timer = 0;
  private first = true;

  constructor(root: HTMLElement) {
    this.root = root;
    const { signal } = this.ending;
    this.search.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => {
        filters.q = this.search.value.trim();
        this.changed();
      }, TYPED_AFTER);
    });
    root.append(
      h("div", { class: "store-page", "data-view": "store", "data-state": "loading" },
        this.panel.element,
        h("div", { class: "store-body" },
          h("header", { class: "page-head store-head" }, this.title, this.summary, h("span", { class: "grow" }),
            h("label", { class: "search-box" }, icon("search"), this.search), imageButton(recipeKey), this.marks.button, this.layoutSwitch,
            isWritable() && h("button", { class: "button", "data-test": "add-slides", onclick: askIngest }, icon("plus"), "Add slides")),
          runsPanel(() => void this.news(), signal),
          this.marks.bar, this.chosen, this.body, this.more)),
    );
    this.drawLayout();
    // In the capture phase: while slides are labelled, a click does not open them.
    this.body.addEventListener("click", (event) => this.clicked(event), { capture: true, signal });
    this.watcher = new IntersectionObserver((seen) => {
      if (seen.some((entry) => entry.isIntersecting)) void this.load(false);
    }, { root, rootMargin: "600px" });
    this.watcher.observe(this.more);
    this.offs.push(
      onRecipe(() => this.recipeChanged()),
      takeDrops(root, recipeKey),
      shortcuts("Slides", [
        { keys: "v", does: "pictures or table", run: () => this.setLayout(layout === "grid" ? "table" : "grid") },
        { keys: "ArrowRight ArrowLeft ArrowUp ArrowDown", does: "from slide to slide; Enter opens", run: (event) => this.walk(event.key) },
        { keys: "l", does: "label slides by clicking them", run: () => this.marks.button.click() },
        { keys: "1 2 3 4 5 6 7 8 9", shown: "1 … 9", does: "the label that a click gives", run: (event) => this.marks.choose(Number(event.key) - 1) },
        { keys: "", shown: "drop", does: "an image file: search for its like" },
      ]),
    );
    this.recipeChanged();
  }

  destroy(): void {
    scrolled = this.root.scrollTop;
    this.ending.abort();
    this.asking?.abort();
    clearTimeout(this.timer);
    this.watcher.disconnect();
    this.marks.destroy();
    for (const off of this.offs) off();
  }

  /** The address may ask for the search box or for a state. */
  find(params: Params): void {
    const status = params.query.get("status");
    if (status === "failed" || status === "empty" || status === "done") {
      filters.status = status;
      this.changed();
    }
    if (params.query.has("find")) {
      this.search.focus();
      this.search.select();
    }
    if (params.query.size) remember("#/");
  }

  private recipeChanged(): void {
    this.columns = [];
    const recipe = recipeKey();
    if (!recipe) {
      this.nothing();
      return;
    }
    get<{ columns: LabelColumn[] }>(`/api/recipes/${recipe}/labels`, this.ending.signal).then(({ columns }) => {
      this.columns = columns;
      this.panel.columns(columns);
      if (this.items.length) this.draw();
    }, () => undefined);
    void this.marks.load();
    void this.load(true);
  }

  private clicked(event: MouseEvent): void {
    const item = event.target instanceof Element ? event.target.closest<HTMLElement>("[data-slide]") : null;
    if (!item?.dataset.slide || !this.marks.isOn() || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    void this.marks.mark(item.dataset.slide);
  }

  private changed(): void {
    this.panel.draw();
    scrolled = 0;
    void this.load(true);
  }

  /** Slides have come to an end: read the list again as far as it is shown. */
  private async news(): Promise<void> {
    await loadStore().catch(() => undefined);
    await this.load(true, Math.max(PAGE, this.items.length));
  }

  private async load(anew: boolean, limit = PAGE): Promise<void> {
    const recipe = recipeKey();
    if (!recipe || (!anew && (this.asking || this.items.length >= this.total))) return;
    this.asking?.abort();
    const mine = (this.asking = new AbortController());
    const asked = queryOf(filters);
    asked.set("limit", String(Math.min(1000, limit)));
    asked.set("offset", String(anew ? 0 : this.items.length));
    try {
      const said = await get<SlideList>(`/api/recipes/${recipe}/slides?${asked}`, mine.signal);
      if (this.ending.signal.aborted) return;
      this.items = anew ? [...said.slides] : [...this.items, ...said.slides];
      this.total = said.total;
      keepOrder(recipe, this.items.map((item) => item.slide));
      this.panel.counts(said);
      this.draw(anew ? undefined : said.slides);
      this.state = this.items.length ? "ready" : "empty";
      if (this.first) this.root.scrollTop = scrolled;
      this.first = false;
    } catch (thrown) {
      if (isAbort(thrown)) return;
      this.items = [];
      this.total = 0;
      this.state = "failed";
      replace(this.body, h("div", { class: "note", "data-tone": "bad", role: "alert" }, icon("warn"), h("span", null, reason(thrown))));
    } finally {
      if (this.asking === mine) this.asking = null;
    }
  }

  private set state(state: string) {
    const page = this.root.querySelector<HTMLElement>("[data-view=store]");
    if (page) page.dataset.state = state;
  }

  /** All of them, or only what came last. */
  private draw(added?: readonly SlideItem[]): void {
    const recipe = recipeInfo();
    this.summary.textContent = isFiltered(filters)
      ? `${counted(this.total, "slide fits", "slides fit")}`
      : `${counted(this.total, "slide")}, ${counted(recipe?.tiles ?? 0, "tile")}`;
    replace(this.chosen, ...chips(filters, () => this.changed()));
    this.chosen.hidden = this.chosen.children.length === 0;
    if (this.items.length === 0) {
      replace(this.body, h("div", { class: "empty", "data-test": "empty" }, icon("slides"), h("h2", null, "No slide fits"), h("p", null, "Take a filter away, or look for another name."),
        h("button", { class: "button", onclick: () => this.clear() }, "Clear all filters")));
      return;
    }
    this.body.dataset.layout = layout;
    if (layout === "table") replace(this.body, slideTable(recipeKey(), this.items, this.columns, { order: filters.order, choose: (order) => this.orderBy(order) }));
    else if (added) this.body.append(...added.map((item) => slideCard(recipeKey(), item, this.columns)));
    else replace(this.body, ...this.items.map((item) => slideCard(recipeKey(), item, this.columns)));
    this.marks.show(this.body);
  }

  /** Keeps the keyboard where it was: the table is drawn anew. */
  private orderBy(order: string): void {
    const column = (order || filters.order).replace(/^-/, "");
    filters.order = order;
    void this.load(true, Math.max(PAGE, this.items.length)).then(() => {
      this.body.querySelector<HTMLElement>(`[data-test="${CSS.escape(`order-${column}`)}"]`)?.focus();
    });
  }

  private clear(): void {
    Object.assign(filters, noFilters(), { order: filters.order });
    this.search.value = "";
    this.changed();
  }

  private nothing(): void {
    this.state = "empty";
    this.summary.textContent = "";
    replace(this.body, h("div", { class: "empty" }, icon("slides"), h("h2", null, `${storeInfo().store || "The store"} has no slides yet`),
      h("p", null, "Embed some: ", h("code", null, "beph-store ingest SLIDES --store STORE"), ". They appear here as they are done.")));
  }

  private setLayout(to: "grid" | "table"): void {
    layout = to;
    this.drawLayout();
    this.draw();
  }

  private drawLayout(): void {
    replace(this.layoutSwitch, ...([["grid", "grid", "Pictures"], ["table", "table", "Table"]] as const).map(([name, picture, label]) =>
      h("button", { "aria-pressed": String(layout === name), title: `${label} (v)`, "data-test": `layout-${name}`, onclick: () => this.setLayout(name) }, icon(picture), label)));
  }

  private walk(key: string): void {
    const all = [...this.body.querySelectorAll<HTMLElement>(".card, .slide-link")];
    if (all.length === 0) return;
    const at = all.indexOf(document.activeElement as HTMLElement);
    const columns = layout === "table" ? 1 : getComputedStyle(this.body).gridTemplateColumns.split(" ").length;
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key] ?? 0;
    all[Math.min(all.length - 1, Math.max(0, at < 0 ? 0 : at + by))].focus();
  }
}
