/** The frame of a chart: room for labels, grid, ticks, and a layer that follows the pointer. */

import { linear, number, type Scale } from "./scale.ts";
import { picture, s, type Child } from "./svg.ts";

export interface Box {
  readonly width: number;
  readonly height: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
  readonly left: number;
}

export interface Axis {
  readonly domain: readonly [number, number];
  readonly ticks: readonly number[];
  readonly label: string;
  readonly format?: (value: number) => string;
}

export interface Frame {
  readonly box: Box;
  readonly x: Scale;
  readonly y: Scale;
  readonly nodes: SVGElement[];
}

/** Axes with a light grid. The y label stands over the axis, where it needs no turned head. */
export function frame(box: Box, xAxis: Axis, yAxis: Axis): Frame {
  const x = linear(xAxis.domain, [box.left, box.width - box.right]);
  const y = linear(yAxis.domain, [box.height - box.bottom, box.top]);
  const [x0, x1] = x.range;
  const [y0, y1] = y.range;
  const xText = xAxis.format ?? number;
  const yText = yAxis.format ?? number;
  const nodes: SVGElement[] = [
    s(
      "g",
      { class: "grid" },
      yAxis.ticks.map((tick) => s("line", { x1: x0, x2: x1, y1: y(tick), y2: y(tick) })),
    ),
    s("line", { class: "axis", x1: x0, x2: x1, y1: y0, y2: y0 }),
    s(
      "g",
      { class: "tick-text" },
      xAxis.ticks.map((tick) =>
        s("text", { x: x(tick), y: y0 + 16, "text-anchor": "middle" }, xText(tick)),
      ),
      yAxis.ticks.map((tick) =>
        s("text", { x: x0 - 7, y: y(tick), "text-anchor": "end", dy: "0.32em" }, yText(tick)),
      ),
    ),
    s(
      "g",
      { class: "tick-mark" },
      xAxis.ticks.map((tick) => s("line", { x1: x(tick), x2: x(tick), y1: y0, y2: y0 + 4 })),
    ),
    s("text", { class: "axis-label", x: (x0 + x1) / 2, y: y0 + 33, "text-anchor": "middle" }, xAxis.label),
    s("text", { class: "axis-label", x: 2, y: y1 - 9 }, yAxis.label),
  ];
  return { box, x, y, nodes };
}

/** What to show for a place under the pointer: where the rule stands, the points on it, and the words. */
export interface Reading {
  readonly x: number;
  readonly points: readonly { readonly y: number; readonly series: number }[];
  readonly lines: readonly string[];
}

/**
 * A chart that reads its values out: under the pointer, and by the arrow keys once it has the focus.
 *
 * `readings` in order from left to right, px.
 */
export function readable(
  figure: Frame,
  title: string,
  description: string,
  drawn: readonly (Child | readonly Child[])[],
  readings: readonly Reading[],
): SVGSVGElement {
  const { box } = figure;
  const layer = s("g", { class: "reading", "aria-hidden": "true" });
  const made = picture(box.width, box.height, title, description, figure.nodes, drawn.flat(), layer);
  if (readings.length === 0) return made;
  let at = -1;
  const show = (index: number): void => {
    at = Math.max(0, Math.min(readings.length - 1, index));
    const reading = readings[at];
    if (reading !== undefined) layer.replaceChildren(...marks(figure, reading));
  };
  const hide = (): void => {
    at = -1;
    layer.replaceChildren();
  };
  made.tabIndex = 0;
  made.addEventListener("pointermove", (event) => show(nearest(readings, placeOf(made, event, box.width))));
  made.addEventListener("pointerleave", hide);
  made.addEventListener("blur", hide);
  made.addEventListener("keydown", (event) => {
    const by = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (by === 0) return;
    event.preventDefault();
    show(at < 0 ? (by > 0 ? 0 : readings.length - 1) : at + by);
  });
  return made;
}

/** The reading nearest to a place, px. */
export function nearest(readings: readonly Reading[], place: number): number {
  let best = 0;
  readings.forEach((reading, i) => {
    const other = readings[best];
    if (other !== undefined && Math.abs(reading.x - place) < Math.abs(other.x - place)) best = i;
  });
  return best;
}

function placeOf(made: SVGSVGElement, event: PointerEvent, width: number): number {
  const shown = made.getBoundingClientRect();
  return ((event.clientX - shown.left) / (shown.width || 1)) * width;
}

const LINE_PX = 15;
const LETTER_PX = 6.4;

function marks({ box, y }: Frame, reading: Reading): SVGElement[] {
  const width = Math.max(...reading.lines.map((line) => line.length)) * LETTER_PX + 16;
  const height = reading.lines.length * LINE_PX + 9;
  const right = reading.x + 10 + width <= box.width - 2;
  const left = right ? reading.x + 10 : Math.max(2, reading.x - 10 - width);
  const top = Math.max(2, Math.min(box.top, box.height - box.bottom - height));
  return [
    s("line", { class: "rule", x1: reading.x, x2: reading.x, y1: y.range[1], y2: y.range[0] }),
    ...reading.points
      .filter((point) => Number.isFinite(point.y))
      .map((point) => s("circle", { class: `dot series-${point.series % 8}`, cx: reading.x, cy: point.y, r: 3.5 })),
    s("rect", { class: "tip", x: left, y: top, width, height, rx: 4 }),
    s(
      "text",
      { class: "tip-text", x: left + 8, y: top + 1 },
      reading.lines.map((line, i) =>
        s("tspan", { x: left + 8, dy: LINE_PX, class: i === 0 ? "tip-head" : null }, line),
      ),
    ),
  ];
}
