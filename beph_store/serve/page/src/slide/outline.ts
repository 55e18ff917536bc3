/** The line around a mask, along the edges of its px. */

interface Mask {
  readonly width: number;
  readonly height: number;
  /** RGBA; what is not transparent is in the mask. */
  readonly data: Uint8ClampedArray | Uint8Array;
}

/** Lines as x0, y0, x1, y1 in px of the mask, each as long as the edge is straight. The mask's own border is one too. */
export function outlineOf(mask: Mask): Int32Array {
  const { width, height, data } = mask;
  const lines: number[] = [];
  const inside = (x: number, y: number): boolean => x >= 0 && y >= 0 && x < width && y < height && data[(y * width + x) * 4 + 3] > 127;
  // Edges between a row and the one above it, then between a column and the one left of it.
  runs(height + 1, width, (y, x) => inside(x, y) !== inside(x, y - 1), (y, from, to) => lines.push(from, y, to, y));
  runs(width + 1, height, (x, y) => inside(x, y) !== inside(x - 1, y), (x, from, to) => lines.push(x, from, x, to));
  return Int32Array.from(lines);
}

function runs(many: number, long: number, edge: (line: number, at: number) => boolean, found: (line: number, from: number, to: number) => void): void {
  for (let line = 0; line < many; line++) {
    let from = -1;
    for (let at = 0; at <= long; at++) {
      const here = at < long && edge(line, at);
      if (here && from < 0) from = at;
      if (!here && from >= 0) {
        found(line, from, at);
        from = -1;
      }
    }
  }
}
