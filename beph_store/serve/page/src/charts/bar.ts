/** A thin bar of progress that tells assistive technology what it tells eyes. */

import { s } from "./svg.ts";

/** The share of `total` that is done, 0 to 1; null where the total is unknown. */
export function share(done: number, total: number | null | undefined): number | null {
  if (total === null || total === undefined || !(total > 0)) return null;
  return Math.max(0, Math.min(1, done / total));
}

export function progressBar(done: number, total: number | null | undefined, label: string): SVGSVGElement {
  const part = share(done, total);
  const made = s(
    "svg",
    { class: "progress-bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "progressbar" },
    s("rect", { class: "progress-track", x: 0, y: 0, width: 100, height: 6 }),
    s("rect", {
      class: part === null ? "progress-done unknown" : "progress-done",
      x: 0,
      y: 0,
      width: part === null ? 100 : part * 100,
      height: 6,
    }),
  );
  made.setAttribute("aria-label", label);
  made.setAttribute("aria-valuemin", "0");
  made.setAttribute("aria-valuemax", "100");
  if (part !== null) made.setAttribute("aria-valuenow", String(Math.round(part * 100)));
  return made;
}
