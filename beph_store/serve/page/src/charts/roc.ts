/** Receiver operating characteristic of cases held out, one curve a class. */

import { fixed } from "../format.ts";
import { frame, readable, type Reading } from "./axes.ts";
import { polyline, s } from "./svg.ts";

export interface RocCurve {
  readonly name: string;
  readonly fpr: readonly number[];
  readonly tpr: readonly number[];
  readonly auroc: number | null;
}

const TICKS = [0, 0.25, 0.5, 0.75, 1];
const READ_AT = Array.from({ length: 41 }, (_, i) => i / 40);

/** The highest sensitivity reached at or before a false positive rate. */
export function sensitivityAt(curve: RocCurve, rate: number): number {
  let best = 0;
  curve.fpr.forEach((fpr, i) => {
    if (fpr <= rate + 1e-9) best = Math.max(best, curve.tpr[i] ?? 0);
  });
  return best;
}

export function rocChart(curves: readonly RocCurve[], size = 380): SVGSVGElement {
  const figure = frame(
    { width: size, height: size - 8, top: 30, right: 14, bottom: 44, left: 44 },
    { domain: [0, 1], ticks: TICKS, label: "1 − specificity", format: (v) => String(v) },
    { domain: [0, 1], ticks: TICKS, label: "sensitivity", format: (v) => String(v) },
  );
  const { x, y } = figure;
  const readings: Reading[] = READ_AT.map((rate) => ({
    x: x(rate),
    points: curves.map((curve, series) => ({ y: y(sensitivityAt(curve, rate)), series })),
    lines: [
      `specificity ${fixed(1 - rate, 2)}`,
      ...curves.slice(0, 8).map((curve) => `${short(curve.name)} ${fixed(sensitivityAt(curve, rate), 2)}`),
    ],
  }));
  return readable(
    figure,
    "ROC curve on cases held out",
    curves.map((curve) => `${curve.name}: area ${fixed(curve.auroc)}`).join("; "),
    [
      s("line", { class: "chance", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
      curves.map((curve, i) =>
        s("path", {
          class: `line series-${i % 8}`,
          d: polyline(curve.fpr.map((fpr, at) => [x(fpr), y(curve.tpr[at] ?? NaN)])),
        }),
      ),
    ],
    readings,
  );
}

export function short(name: string, most = 18): string {
  return name.length <= most ? name : `${name.slice(0, most - 1)}…`;
}
