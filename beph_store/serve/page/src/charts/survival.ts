/** Kaplan–Meier curves of the groups that a head tells apart, with the numbers at risk below. */

import { frame, readable, type Reading } from "./axes.ts";
import { number, percent, step, ticks } from "./scale.ts";
import { round, s, staircase } from "./svg.ts";
import { short } from "./roc.ts";

export interface KmGroup {
  readonly group: string;
  /** Days of the steps, the first 0. */
  readonly time_days: readonly number[];
  readonly survival: readonly number[];
  /** Cases still followed just before each of `time_days`. */
  readonly at_risk: readonly number[];
  /** Days on which a case left without the event. */
  readonly censored: readonly number[];
}

export interface TimeUnit {
  readonly name: "days" | "months" | "years";
  readonly days: number;
}

/** Days up to three months, months up to four years, then years. */
export function unitFor(days: number): TimeUnit {
  if (days <= 92) return { name: "days", days: 1 };
  if (days <= 4 * 365.25) return { name: "months", days: 30.4375 };
  return { name: "years", days: 365.25 };
}

/** The last value of `values` whose time is not after `day`; `before` where there is none. */
export function valueAt(times: readonly number[], values: readonly number[], day: number, before: number): number {
  let found = before;
  for (let i = 0; i < times.length; i++) {
    if ((times[i] ?? Infinity) > day) break;
    found = values[i] ?? found;
  }
  return found;
}

/** How many are still followed just before `day`: those at risk at the next step, and who was censored on the way. */
export function atRisk(group: KmGroup, day: number): number {
  const next = group.time_days.findIndex((time) => time >= day);
  const until = next < 0 ? Infinity : (group.time_days[next] ?? Infinity);
  const left = group.censored.filter((time) => time >= day && time < until).length;
  return (next < 0 ? 0 : (group.at_risk[next] ?? 0)) + left;
}

/** The first day on which at most half are alive; null where it is not reached. */
export function median(group: KmGroup): number | null {
  const at = group.survival.findIndex((alive) => alive <= 0.5);
  return at < 0 ? null : (group.time_days[at] ?? null);
}

const ROW_PX = 17;

export function survivalChart(groups: readonly KmGroup[], width = 620): SVGSVGElement {
  const end = Math.max(1, ...groups.flatMap((group) => [...group.time_days, ...group.censored]));
  const unit = unitFor(end);
  const last = end / unit.days;
  const marks = ticks(0, last, Math.min(6, Math.ceil(last / step(last, 6))));
  const bottom = 62 + groups.length * ROW_PX;
  const figure = frame(
    { width, height: 330 + groups.length * ROW_PX, top: 30, right: 16, bottom, left: 92 },
    { domain: [0, last], ticks: marks, label: `time, ${unit.name}` },
    { domain: [0, 1], ticks: [0, 0.25, 0.5, 0.75, 1], label: "event-free", format: percent },
  );
  const { x, y, box } = figure;
  const drawn = groups.flatMap((group, i) => {
    const points = group.time_days.map((day, at): [number, number] => [x(day / unit.days), y(group.survival[at] ?? NaN)]);
    const stop = Math.max(0, ...group.time_days, ...group.censored) / unit.days;
    return [
      s("path", { class: `line series-${i % 8}`, d: staircase(points, x(stop)) }),
      s("path", { class: `censored series-${i % 8}`, d: censorMarks(group, unit, x, y) }),
    ];
  });
  const made = readable(
    figure,
    "Kaplan–Meier curves by predicted risk on cases held out",
    groups.map((group) => words(group, unit)).join("; "),
    [drawn, riskTable(groups, marks, unit, x, box.height - groups.length * ROW_PX)],
    readingsOf(groups, unit, last, x, y),
  );
  made.style.maxWidth = `${width * 1.3}px`;
  return made;
}

/** A small stroke where a case left without the event. */
function censorMarks(group: KmGroup, unit: TimeUnit, x: (value: number) => number, y: (value: number) => number): string {
  return group.censored
    .map((day) => {
      const [left, top] = [x(day / unit.days), y(valueAt(group.time_days, group.survival, day, 1))];
      return `M${round(left)} ${round(top - 4)}V${round(top + 4)}`;
    })
    .join("");
}

function readingsOf(
  groups: readonly KmGroup[],
  unit: TimeUnit,
  last: number,
  x: (value: number) => number,
  y: (value: number) => number,
): Reading[] {
  return Array.from({ length: 81 }, (_, i) => (last * i) / 80).map((time) => {
    const alive = groups.map((group) => valueAt(group.time_days, group.survival, time * unit.days, 1));
    return {
      x: x(time),
      points: alive.map((share, series) => ({ y: y(share), series })),
      lines: [
        `${number(time, 1)} ${unit.name}`,
        ...groups.map((group, i) => `${short(group.group)} ${percent(alive[i] ?? NaN)}`),
      ],
    };
  });
}

/** Numbers at risk under the ticks. */
function riskTable(
  groups: readonly KmGroup[],
  marks: readonly number[],
  unit: TimeUnit,
  x: (value: number) => number,
  top: number,
): SVGElement {
  return s(
    "g",
    { class: "risk" },
    s("text", { class: "axis-label", x: 2, y: top - 8 }, "at risk"),
    groups.map((group, i) => {
      const line = top + i * ROW_PX + 8;
      return s(
        "g",
        {},
        s("text", { class: `risk-name ink-${i % 8}`, x: 2, y: line }, short(group.group, 13)),
        marks.map((mark) =>
          s("text", { x: x(mark), y: line, "text-anchor": "middle" }, String(atRisk(group, mark * unit.days))),
        ),
      );
    }),
  );
}

function words(group: KmGroup, unit: TimeUnit): string {
  const half = median(group);
  return half === null
    ? `${group.group}: the median is not reached`
    : `${group.group}: median ${number(half / unit.days, 1)} ${unit.name}`;
}
