/** What the colours mean, in numbers: on the slide itself, with the value under the pointer. */

import { h, icon, replace } from "../dom.ts";
import { count, digits, sentence } from "../format.ts";
import { gradient, MAPS, type MapName } from "./colours.ts";
import { ends, histogram, type Range, type Style, type Values } from "./values.ts";

const BINS = 48;
const RANGES: Readonly<Record<Range, string>> = { spread: "Typical range", full: "Full range", unit: "0 to 1" };

/** Kept while one goes from slide to slide. On a narrow screen it would cover the half of one: it begins folded. */
let folded = matchMedia("(max-width: 1000px)").matches;

export interface Legend {
  readonly element: HTMLElement;
  readonly show: (values: Values | null) => void;
  /** The value under the pointer; null for none. */
  readonly point: (value: number | null) => void;
}

/** `changed` is called when a person changes `style`, which this writes to. */
export function legend(style: Style, changed: () => void): Legend {
  const element = h("section", { class: "legend", "aria-label": "Legend", "data-test": "legend", hidden: true });
  let values: Values | null = null;
  let marker: HTMLElement | null = null;
  let reading: HTMLElement | null = null;

  const draw = (): void => {
    element.hidden = values === null;
    if (!values) return;
    marker = h("span", { class: "legend-marker", hidden: true });
    reading = h("output", { class: "legend-value", "data-test": "pointer-value" });
    element.dataset.folded = String(folded);
    const label = folded ? "Unfold the legend" : "Fold the legend";
    const fold = h("button", { class: "button quiet square small", "aria-label": label, title: label, "aria-expanded": String(!folded), "data-test": "fold", onclick: () => { folded = !folded; draw(); } }, icon(folded ? "down" : "up"));
    replace(
      element,
      h("header", { class: "row" }, h("h3", { class: "clip grow" }, values.title), reading, fold),
      folded && values.kind === "scale" && scaleBar(values, style, marker),
      !folded && (values.kind === "scale" ? scaleBody(values, style, marker, redo) : classBody(values, style, redo)),
      !folded && h("p", { class: "legend-meaning" }, sentence(values.meaning), values.note && ` ${sentence(values.note)}`),
    );
  };
  const redo = (): void => {
    draw();
    changed();
  };
  return {
    element,
    show: (now) => {
      if (now?.kind === "class" && values?.classes.length !== now.classes.length) style.without.clear();
      values = now;
      draw();
    },
    point: (value) => {
      if (!values || !reading) return;
      const known = value !== null && Number.isFinite(value);
      reading.textContent = !known ? "" : values.kind === "class" ? (values.classes[value]?.label ?? "") : digits(value);
      if (!marker) return;
      marker.hidden = !known || values.kind === "class";
      if (!known) return;
      const [low, high] = ends(values, style.range ?? values.range);
      marker.style.left = `${Math.min(1, Math.max(0, (value - low) / (high - low))) * 100}%`;
    },
  };
}

/** The colours between the two ends: all that is left of a scale when it is folded. */
function scaleBar(values: Values, style: Style, marker: HTMLElement): HTMLElement[] {
  const [low, high] = ends(values, style.range ?? values.range);
  return [
    h("div", { class: "legend-bar", style: { background: gradient(style.map) } }, marker),
    h("div", { class: "row between small" }, h("span", { "data-test": "legend-low" }, digits(low)), h("span", { class: "muted" }, digits((low + high) / 2)), h("span", { "data-test": "legend-high" }, digits(high))),
  ];
}

function scaleBody(values: Values, style: Style, marker: HTMLElement, redo: () => void): HTMLElement {
  const range = style.range ?? values.range;
  const counts = histogram(values, range, BINS);
  const most = Math.max(1, ...counts);
  const bars = counts.map((n, i) => h("i", { style: { height: `${n ? Math.max(4, (n / most) * 100) : 0}%`, opacity: (i + 1) / BINS <= style.from ? 0.25 : 1 } }));
  const from = h("input", { type: "range", min: 0, max: 0.98, step: 0.01, value: style.from, "aria-label": "Paint only from here", title: "Paint only from here", "data-test": "from" });
  from.addEventListener("input", () => {
    style.from = Number(from.value);
    bars.forEach((bar, i) => { bar.style.opacity = (i + 1) / BINS <= style.from ? "0.25" : "1"; });
  });
  from.addEventListener("change", redo);
  const map = h("select", { class: "field small", "aria-label": "Colours", "data-test": "map" }, MAPS.map((entry) => h("option", { value: entry.name, selected: entry.name === style.map }, entry.label)));
  map.addEventListener("change", () => { style.map = map.value as MapName; redo(); });
  const choose = h("select", { class: "field small", "aria-label": "Ends of the scale", title: "Ends of the scale: without the most extreme hundredth at both ends, from least to most, or 0 to 1", "data-test": "range" }, Object.entries(RANGES).map(([name, text]) => h("option", { value: name, selected: name === range }, text)));
  choose.addEventListener("change", () => { style.range = choose.value as Range; redo(); });
  return h(
    "div",
    { class: "legend-scale" },
    h("div", { class: "legend-histogram", "aria-hidden": "true" }, bars),
    scaleBar(values, style, marker),
    h("label", { class: "legend-from" }, h("span", { class: "muted small" }, "From"), from),
    h("div", { class: "legend-choices" }, map, choose),
  );
}

function share(of: number): string {
  return of < 0.01 ? "< 1 %" : `${Math.round(100 * of)} %`;
}

function classBody(values: Values, style: Style, redo: () => void): HTMLElement {
  const counts = histogram(values, "full", 0);
  const all = Math.max(1, counts.reduce((sum, n) => sum + n, 0));
  return h(
    "ul",
    { class: "legend-classes" },
    values.classes.map((entry, i) => {
      const shown = !style.without.has(i);
      const toggle = (): void => {
        if (shown) style.without.add(i);
        else style.without.delete(i);
        redo();
      };
      return h(
        "li",
        null,
        h(
          "button",
          { class: "legend-class", "aria-pressed": String(shown), title: [entry.about, shown ? "Click to hide" : "Click to show"].filter(Boolean).join(". "), onclick: toggle },
          h("span", { class: "swatch", style: { background: entry.colour } }),
          entry.image && h("img", { src: entry.image, alt: "", width: 22, height: 22 }),
          h("span", { class: "clip grow" }, entry.label),
          h("span", { class: "muted" }, counts[i] ? `${count(counts[i])} · ${share(counts[i] / all)}` : "–"),
        ),
      );
    }),
  );
}
