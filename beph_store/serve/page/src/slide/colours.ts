/** Colours that people who confuse red and green can tell apart. */

export type Rgb = readonly [number, number, number];
export type MapName = "viridis" | "cividis" | "greys";

export const MAPS: readonly { readonly name: MapName; readonly label: string }[] = [
  { name: "viridis", label: "Viridis" },
  { name: "cividis", label: "Cividis" },
  { name: "greys", label: "Greys" },
];

/** Seventeen colours of each map at equal steps, viridis and cividis as matplotlib has them; lines between. */
const KNOTS: Readonly<Record<MapName, string>> = {
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1f9f88 27ad81 3dbc74 5cc863 81d34d aadc32 d5e21a fde725",
  cividis: "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8b8778 9a9376 aaa073 bbad6d ccba64 ddc858 efd748 fee838",
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
