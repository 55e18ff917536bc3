/** Addresses of a slide: where to look, and what lies over it. Other views link here too. */

import { link } from "../router.ts";

export type OverlayAddress =
  | { readonly kind: "none" }
  | { readonly kind: "similarity"; readonly of: string; readonly tile: number }
  | { readonly kind: "head"; readonly head: string; readonly class: string; readonly values: "" | "attention" | "score" }
  | { readonly kind: "classes"; readonly class: string }
  | { readonly kind: "clusters"; readonly k: number };

export interface Place {
  /** Middle of the view, level-0 px. */
  readonly x?: number;
  readonly y?: number;
  /** Screen px per level-0 px: 1 shows the slide's own pixels. */
  readonly z?: number;
  /** A tile to frame. */
  readonly tile?: number;
  readonly overlay?: OverlayAddress;
}

/** `#/slides/RECIPE/SLIDE?…` */
export function slideLink(recipe: string, slide: string, place: Place = {}): string {
  return link("/slides/:recipe/:slide", { recipe, slide }, {
    x: place.x === undefined ? undefined : Math.round(place.x),
    y: place.y === undefined ? undefined : Math.round(place.y),
    z: place.z === undefined ? undefined : Number(place.z.toPrecision(4)),
    tile: place.tile,
    overlay: place.overlay && place.overlay.kind !== "none" ? overlayText(place.overlay) : undefined,
  });
}

/** `head:ID:CLASS:attention`, `similarity:SLIDE:12`, `classes:tumour`, `clusters:8`; parts are percent-encoded. */
export function overlayText(overlay: OverlayAddress): string {
  const parts =
    overlay.kind === "similarity" ? [overlay.of, String(overlay.tile)]
    : overlay.kind === "head" ? [overlay.head, overlay.class, overlay.values]
    : overlay.kind === "classes" ? [overlay.class]
    : overlay.kind === "clusters" ? [String(overlay.k)]
    : [];
  return [overlay.kind, ...parts.map(encodeURIComponent)].join(":").replace(/:+$/, "");
}

/** The overlay that a text names; none where it names nothing known. */
export function overlayOf(text: string | null): OverlayAddress {
  const [kind, ...rest] = (text ?? "").split(":");
  const parts = rest.map(decoded);
  const number = (text: string | undefined): number => (/^\d{1,9}$/.test(text ?? "") ? Number(text) : -1);
  switch (kind) {
    case "similarity":
      return parts[0] && number(parts[1]) >= 0 ? { kind, of: parts[0], tile: number(parts[1]) } : { kind: "none" };
    case "head": {
      const values = parts[2] === "attention" || parts[2] === "score" ? parts[2] : "";
      return parts[0] ? { kind, head: parts[0], class: parts[1] ?? "", values } : { kind: "none" };
    }
    case "classes":
      return { kind, class: parts[0] ?? "" };
    case "clusters":
      return { kind, k: number(parts[0]) > 1 ? number(parts[0]) : 8 };
    default:
      return { kind: "none" };
  }
}

/** The place that a query names. */
export function placeOf(query: URLSearchParams): Place {
  const number = (name: string): number | undefined => {
    const value = Number(query.get(name) ?? "");
    return query.get(name) && Number.isFinite(value) ? value : undefined;
  };
  return { x: number("x"), y: number("y"), z: number("z"), tile: number("tile"), overlay: overlayOf(query.get("overlay")) };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
