/** The slides in the order in which they were shown last: one can go from one to the next. */

let recipe = "";
let slides: readonly string[] = [];

export function keepOrder(of: string, shown: readonly string[]): void {
  recipe = of;
  slides = shown;
}

/** The slide so many places further; null where there is none. */
export function neighbour(of: string, slide: string, by: number): string | null {
  const at = of === recipe ? slides.indexOf(slide) : -1;
  return at < 0 ? null : (slides[at + by] ?? null);
}

/** "3 of 7"; "" for a slide that was reached in another way. */
export function placeInOrder(of: string, slide: string): string {
  const at = of === recipe ? slides.indexOf(slide) : -1;
  return at < 0 ? "" : `${at + 1} of ${slides.length}`;
}
