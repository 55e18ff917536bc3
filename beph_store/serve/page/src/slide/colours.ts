/** Colours that people who confuse red and green can tell apart. */

export type Rgb = readonly [number, number, number];
export type MapName = "viridis" | "cividis" | "greys";

export const MAPS: readonly { readonly name: MapName; readonly label: string }[] = [
  { name: "viridis", label: "Viridis" },
  { name: "cividis", label: "Cividis" },
  { name: "greys", label: "Greys" },
];

/** Every 16th colour of the maps as matplotlib has them; between two of them a straight line is off by less than 2 of 255. */
const KNOTS: Readonly<Record<MapName, string>> = {
  viridis: "440154 48196b 472f7d 424186 3a548c 32658e 2b758e 26848e 218f8d 1fa187 2eb37c 50c46a 7ad151 a8db34 d8e219 f4e61e fde725",
  cividis: "00224e 002d6d 16396d 32456b 46506c 565c6d 646770 717372 7f7f76 8d8a78 9b9677 aaa274 baaf6e cabc66 dbca59 edd748 fee838",
  greys: "16181d 2b2d32 3f4146 53555a 66686d 787a7f 898b90 9a9ca0 a9abaf b7b9bc c4c6c9 d0d2d4 dbdcde e5e6e7 edeeef f4f4f5 fafafa",
};

/** Okabe and Ito's eight, black last: it says least on a slide. */
export const CLASS_COLOURS: readonly string[] = [
  "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#f0e442", "#000000",
];

const tables = new Map<MapName, Uint8ClampedArray>();

/** 256 colours, RGB one after the other. */
export function table(name: MapName): Uint8ClampedArray {
  const held = tables.get(name);
  if (held) return held;
  const knots = KNOTS[name].split(" ").map(rgb);
  const made = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (knots.length - 1);
    const low = Math.min(knots.length - 2, Math.floor(at));
    for (let c = 0; c < 3; c++) made[i * 3 + c] = Math.round(knots[low][c] + (knots[low + 1][c] - knots[low][c]) * (at - low));
  }
  tables.set(name, made);
  return made;
}

/** "#rrggbb" or "rrggbb" as numbers. */
export function rgb(text: string): Rgb {
  const value = Number.parseInt(text.replace("#", ""), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

/** Colour of the class of that number. Beyond eight classes the eight return, darkened: never two alike among sixteen. */
export function classColour(index: number): string {
  const base = CLASS_COLOURS[index % CLASS_COLOURS.length];
  if (index < CLASS_COLOURS.length) return base;
  const dark = rgb(base).map((v) => Math.round(v * 0.6 + (index % CLASS_COLOURS.length === 7 ? 90 : 0)));
  return `#${dark.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
}

/** A CSS gradient of a map, left to right. */
export function gradient(name: MapName): string {
  return `linear-gradient(to right, ${KNOTS[name].split(" ").map((knot) => `#${knot}`).join(", ")})`;
}
