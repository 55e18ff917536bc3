/** Loss by epoch: one small chart a fold, all on one scale, so that a fold that goes wrong stands out. */

import { fixed } from "../format.ts";
import { frame, readable, type Reading } from "./axes.ts";
import { padded, ticks, wholeTicks } from "./scale.ts";
import { polyline, s } from "./svg.ts";

export interface CurvePoint {
  readonly epoch: number;
  readonly train_loss: number | null;
  readonly val_loss: number | null;
}

export interface FoldCurve {
  readonly name: string;
  readonly curve: readonly CurvePoint[];
  /** The epoch that was kept, where one is known. */
  readonly best?: number | null;
}

const BOX = { top: 34, right: 12, bottom: 40, left: 44 };

/** The domain that all folds share: epochs from the first to `epochs` or the last seen, losses of all. */
export function shared(
  folds: readonly FoldCurve[],
  epochs: number | null,
): { x: [number, number]; y: [number, number] } {
  const points = folds.flatMap((fold) => fold.curve);
  const last = Math.max(2, epochs ?? 0, ...points.map((point) => point.epoch));
  const first = Math.min(1, ...points.map((point) => point.epoch));
  return { x: [first, last], y: padded(points.flatMap((point) => [point.train_loss, point.val_loss])) };
}

/** The epoch of the least validation loss; null without one. */
export function bestEpoch(curve: readonly CurvePoint[]): number | null {
  let best: CurvePoint | null = null;
  for (const point of curve) {
    if (point.val_loss === null || !Number.isFinite(point.val_loss)) continue;
    if (best === null || best.val_loss === null || point.val_loss < best.val_loss) best = point;
  }
  return best === null ? null : best.epoch;
}

/** One fold's chart. `domain` is that of `shared`. */
export function curveChart(
  fold: FoldCurve,
  domain: { x: [number, number]; y: [number, number] },
  width = 270,
  height = 185,
): SVGSVGElement {
  const figure = frame(
    { width, height, ...BOX },
    { domain: domain.x, ticks: wholeTicks(...domain.x, Math.max(2, Math.floor(width / 75))), label: "epoch" },
    { domain: domain.y, ticks: ticks(...domain.y, 4), label: "" },
  );
  const { x, y } = figure;
  const place = (of: (point: CurvePoint) => number | null): [number, number][] =>
    fold.curve.map((point) => [x(point.epoch), y(of(point) ?? NaN)]);
  const train = place((point) => point.train_loss);
  const val = place((point) => point.val_loss);
  const best = fold.best ?? bestEpoch(fold.curve);
  const kept = best === null ? undefined : fold.curve.find((point) => point.epoch === best);
  const readings: Reading[] = fold.curve.map((point) => ({
    x: x(point.epoch),
    points: [
      { y: y(point.train_loss ?? NaN), series: 0 },
      { y: y(point.val_loss ?? NaN), series: 1 },
    ],
    lines: [
      `epoch ${point.epoch}`,
      `train ${fixed(point.train_loss)}`,
      ...(point.val_loss === null ? [] : [`val   ${fixed(point.val_loss)}`]),
    ],
  }));
  return readable(
    figure,
    `${fold.name}: loss by epoch`,
    inWords(fold, best),
    [
      s("text", { class: "chart-title", x: 2, y: 15 }, fold.name),
      s("path", { class: "line series-0", d: polyline(train) }),
      s("path", { class: "line series-1", d: polyline(val) }),
      single(train, 0),
      single(val, 1),
      kept !== undefined &&
        kept.val_loss !== null &&
        s("circle", { class: "ring series-1", cx: x(kept.epoch), cy: y(kept.val_loss), r: 5 }),
    ],
    readings,
  );
}

/** A line of one point cannot be seen: a dot is. */
function single(points: readonly [number, number][], series: number): SVGElement | null {
  const [first] = points;
  if (points.length !== 1 || first === undefined || !Number.isFinite(first[1])) return null;
  return s("circle", { class: `dot series-${series}`, cx: first[0], cy: first[1], r: 3 });
}

function inWords(fold: FoldCurve, best: number | null): string {
  const last = fold.curve[fold.curve.length - 1];
  if (last === undefined) return "No epoch has ended.";
  const val = last.val_loss === null ? "" : `, validation ${fixed(last.val_loss)}`;
  const kept = best === null ? "" : `; the least validation loss was in epoch ${best}`;
  return `After epoch ${last.epoch}: training loss ${fixed(last.train_loss)}${val}${kept}.`;
}
