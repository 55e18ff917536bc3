/** Metrics with their 95 % intervals, each on its own 0 to 1 rule, with the folds as dots. */

import { linear, ticks } from "./scale.ts";
import { picture, s } from "./svg.ts";

export interface Interval {
  readonly value: number | null;
  readonly low: number | null;
  readonly high: number | null;
  readonly folds: readonly (number | null | undefined)[];
}

/** One metric's rule; `chance` is marked where it means something. */
export function intervalChart(name: string, given: Interval, chance: number | null = null, width = 340): SVGSVGElement {
  const x = linear([0, 1], [6, width - 6]);
  const middle = 12;
  const inside = (value: number | null | undefined): value is number =>
    value !== null && value !== undefined && Number.isFinite(value);
  const clamp = (value: number): number => x(Math.max(0, Math.min(1, value)));
  const { value, low, high } = given;
  return picture(
    width,
    24,
    name,
    inside(low) && inside(high) ? `95 % interval ${low.toFixed(3)} to ${high.toFixed(3)}` : "no interval",
    s("line", { class: "axis", x1: x(0), x2: x(1), y1: middle, y2: middle }),
    ticks(0, 1, 4).map((tick) =>
      s("line", { class: "tick-line", x1: x(tick), x2: x(tick), y1: middle - 3, y2: middle + 3 }),
    ),
    chance !== null &&
      s("line", { class: "chance", x1: x(chance), x2: x(chance), y1: middle - 9, y2: middle + 9 }),
    inside(low) &&
      inside(high) &&
      s("line", { class: "whisker series-0", x1: clamp(low), x2: clamp(high), y1: middle, y2: middle }),
    given.folds
      .filter(inside)
      .map((fold) => s("circle", { class: "fold-dot", cx: clamp(fold), cy: middle, r: 2.6 })),
    inside(value) && s("path", { class: "diamond", d: diamond(clamp(value), middle, 6) }),
  );
}

function diamond(x: number, y: number, size: number): string {
  return `M${x - size} ${y}L${x} ${y - size}L${x + size} ${y}L${x} ${y + size}Z`;
}
