/** Numbers to places: scales, ticks and how numbers are written. Pure. */

export interface Scale {
  /** The place, px, of a value. */
  (value: number): number;
  /** The value at a place, px. */
  invert(place: number): number;
  readonly domain: readonly [number, number];
  readonly range: readonly [number, number];
}

/** A straight scale. A domain without width puts every value in the middle. */
export function linear(domain: readonly [number, number], range: readonly [number, number]): Scale {
  const [low, high] = domain;
  const [from, to] = range;
  const width = high - low;
  const scale = (value: number): number =>
    width === 0 ? (from + to) / 2 : from + ((value - low) / width) * (to - from);
  const invert = (place: number): number =>
    to === from ? low : low + ((place - from) / (to - from)) * width;
  return Object.assign(scale, { invert, domain, range });
}

/** The round step (1, 2 or 5 times a power of ten) that makes about `count` parts of `width`. */
export function step(width: number, count: number): number {
  if (!(width > 0) || !(count > 0)) return 1;
  const raw = width / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const lead = raw / power;
  const round = lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10;
  return round * power;
}

/** Round values inside [low, high], about `count` of them. */
export function ticks(low: number, high: number, count = 5): number[] {
  if (!Number.isFinite(low) || !Number.isFinite(high) || high < low) return [];
  if (high === low) return [low];
  const size = step(high - low, count);
  const first = Math.ceil(low / size - 1e-9);
  const last = Math.floor(high / size + 1e-9);
  const found: number[] = [];
  for (let i = first; i <= last; i++) found.push(tidy(i * size));
  return found;
}

/** Round whole numbers inside [low, high]: for epochs and cases. */
export function wholeTicks(low: number, high: number, count = 5): number[] {
  return [...new Set(ticks(low, high, count).filter(Number.isInteger))];
}

/** The least and greatest finite value; null where there is none. */
export function extent(values: Iterable<number | null | undefined>): [number, number] | null {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || value === undefined || !Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? [low, high] : null;
}

/** A domain a little wider than the values, ending on ticks where that costs little; never without width. */
export function padded(values: Iterable<number | null | undefined>, share = 0.06): [number, number] {
  const found = extent(values);
  if (found === null) return [0, 1];
  const [low, high] = found;
  const pad = high > low ? (high - low) * share : Math.max(Math.abs(high) * share, 1e-6);
  return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
}

/** Without the dust of binary fractions: 0.30000000000000004 is 0.3. */
export function tidy(value: number): number {
  return Number(value.toPrecision(12));
}

/** A number for people: at most `digits` after the point, no trailing noise, thousands apart. */
export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 10 ** -digits) return value.toExponential(1).replace("-", "−");
  const text = Math.abs(value).toLocaleString("en-GB", { maximumFractionDigits: digits });
  return value < 0 ? `−${text}` : text;
}

/** A p-value: never 0, never more than three digits. */
export function pValue(p: number | null | undefined): string {
  if (p === null || p === undefined || !Number.isFinite(p)) return "–";
  if (p < 0.001) return "< 0.001";
  return p < 0.1 ? p.toPrecision(2) : p.toFixed(2);
}

/** 0.874 as 87 %; a share that is not quite all or nothing does not say so. */
export function percent(share: number | null | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  const shown = Math.round(share * 100);
  if (shown === 100 && share < 1) return "> 99 %";
  if (shown === 0 && share > 0) return "< 1 %";
  return `${shown} %`;
}
