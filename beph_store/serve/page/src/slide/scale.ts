/** The scale bar, in true µm, and the magnification. */

import { h } from "../dom.ts";
import { micrometres } from "../format.ts";

const WIDEST = 160;

/** µm/px at which a slide is said to be shown at 1×, by the convention that 20× is 0.5 µm/px. */
const UM_AT_1X = 10;

export interface ScaleBar {
  readonly element: HTMLElement;
  /** CSS px per level-0 px. */
  readonly show: (scale: number) => void;
}

/** Of a slide with `mpp` µm per level-0 px. */
export function scaleBar(mpp: number): ScaleBar {
  const bar = h("span", { class: "scale-line" });
  const text = h("span", { class: "scale-text" });
  const times = h("span", { class: "scale-times", title: "Magnification: 20× is 0.5 µm on a px of the screen" });
  const element = h("div", { class: "scale-bar", "data-test": "scale-bar", "aria-live": "off" }, h("span", { class: "scale-drawn" }, text, bar), times);
  let last = 0;
  return {
    element,
    show: (scale) => {
      if (scale === last || !(scale > 0) || !(mpp > 0)) return;
      last = scale;
      const um = nice((WIDEST * mpp) / scale);
      bar.style.width = `${(um * scale) / mpp}px`;
      text.textContent = micrometres(um);
      times.textContent = `${magnification(mpp / scale)}×`;
      element.dataset.um = String(um);
    },
  };
}

/** The largest of 1, 2, 5 · 10ⁿ that is not larger. */
export function nice(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const times = value / power;
  return (times >= 5 ? 5 : times >= 2 ? 2 : 1) * power;
}

/** "20", "1.3", "0.4" of µm per CSS px. */
export function magnification(um: number): string {
  const times = UM_AT_1X / um;
  return times >= 10 ? times.toFixed(0) : String(Number(times.toPrecision(2)));
}

/** CSS px per level-0 px at a magnification. */
export function scaleAt(times: number, mpp: number): number {
  return mpp / (UM_AT_1X / times);
}
