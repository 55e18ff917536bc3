/** SVG by DOM calls: text is text, nothing is parsed, and colours come from classes so that themes switch at once. */

const NAMESPACE = "http://www.w3.org/2000/svg";

export type Attributes = Readonly<Record<string, string | number | boolean | null | undefined>>;
export type Child = Node | string | null | undefined | false;

/** One SVG element. Attributes that are null, undefined or false are left out. */
export function s<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Child | readonly Child[])[]
): SVGElementTagNameMap[K] {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    made.setAttribute(name, typeof value === "number" ? String(round(value)) : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) made.append(child);
  }
  return made;
}

/** The whole picture: scales with its column, says in words what it shows. */
export function picture(
  width: number,
  height: number,
  title: string,
  description: string,
  ...children: (Child | readonly Child[])[]
): SVGSVGElement {
  const made = s("svg", {
    viewBox: `0 0 ${width} ${height}`,
    class: "chart",
    role: "img",
    "aria-label": description === "" ? title : `${title}. ${description}`,
  });
  made.style.maxWidth = `${width}px`;
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) made.append(child);
  }
  return made;
}

/** Tenths of a pixel: enough for eyes, short in the document. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}

export type Point = readonly [number, number];

/** Straight lines through points, px; a gap where a point is not finite. */
export function polyline(points: readonly Point[]): string {
  let path = "";
  let pen = false;
  for (const [x, y] of points) {
    if (!Number.isFinite(x) || !Number.isFinite(y)) {
      pen = false;
      continue;
    }
    path += `${pen ? "L" : "M"}${round(x)} ${round(y)}`;
    pen = true;
  }
  return path;
}

/** A staircase that holds each value until the next: Kaplan–Meier's. */
export function staircase(points: readonly Point[], end: number): string {
  let path = "";
  points.forEach(([x, y], i) => {
    path += i === 0 ? `M${round(x)} ${round(y)}` : `H${round(x)}V${round(y)}`;
  });
  return points.length === 0 ? "" : `${path}H${round(end)}`;
}
