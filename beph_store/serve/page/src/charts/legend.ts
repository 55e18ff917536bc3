/** Names beside the lines that they stand for, drawn as the lines are: by colour and by dash. */

import { h } from "../dom.ts";
import { s } from "./svg.ts";

export function legend(names: readonly string[]): HTMLUListElement {
  return h("ul", { class: "series-legend" }, names.map((name, i) => h("li", null, sample(i), h("span", null, name))));
}

function sample(series: number): SVGSVGElement {
  return s(
    "svg",
    { class: "chart", viewBox: "0 0 26 8", "aria-hidden": "true" },
    s("path", { class: `line series-${series % 8}`, d: "M1 4H25" }),
  );
}
