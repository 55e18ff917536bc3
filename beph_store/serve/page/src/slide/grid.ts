/** A slide's tiles: where each lies, which one is under a point, and pictures of one colour a tile. */

export interface TileGrid {
  readonly count: number;
  /** Stored numbers, in the order of all vectors of values. */
  readonly tile: Int32Array;
  /** Top left corners, level-0 px. */
  readonly x: Int32Array;
  readonly y: Int32Array;
  /** Side of a tile, level-0 px. */
  readonly side: number;
  /** Step of the grid, level-0 px, seldom a whole number: origins are rounded each on its own. */
  readonly stride: number;
  /** Side of what is painted: a tile's own share of the grid where tiles overlap, else the tile. Level-0 px. */
  readonly cell: number;
  readonly buckets: ReadonlyMap<number, readonly number[]>;
}

const COLUMNS = 1 << 20;

/** From `grid.bin`: (N, 3) of tile, x, y. `stride` is the step of the recipe's grid in level-0 px. */
export function tileGrid(rows: Int32Array, side: number, stride: number): TileGrid {
  const count = Math.floor(rows.length / 3);
  const tile = new Int32Array(count);
  const x = new Int32Array(count);
  const y = new Int32Array(count);
  const buckets = new Map<number, number[]>();
  for (let i = 0; i < count; i++) {
    tile[i] = rows[i * 3];
    x[i] = rows[i * 3 + 1];
    y[i] = rows[i * 3 + 2];
    const key = Math.floor(y[i] / side) * COLUMNS + Math.floor(x[i] / side);
    const there = buckets.get(key);
    if (there) there.push(i);
    else buckets.set(key, [i]);
  }
  const step = stride > 0 ? stride : side;
  // Tiles that touch are painted without the hairline that rounding would leave.
  return { count, tile, x, y, side, stride: step, cell: step > side * 1.01 ? side : step, buckets };
}

/** Row of the tile under a level-0 point, of several the one whose middle is nearest; -1 where there is none. */
export function rowAt(grid: TileGrid, px: number, py: number): number {
  const column = Math.floor(px / grid.side);
  const line = Math.floor(py / grid.side);
  let found = -1;
  let nearest = Number.POSITIVE_INFINITY;
  for (let v = line - 1; v <= line; v++) {
    for (let u = column - 1; u <= column; u++) {
      for (const i of grid.buckets.get(v * COLUMNS + u) ?? []) {
        const dx = px - grid.x[i];
        const dy = py - grid.y[i];
        if (dx < 0 || dy < 0 || dx >= grid.side || dy >= grid.side) continue;
        const far = Math.hypot(dx - grid.side / 2, dy - grid.side / 2);
        if (far < nearest) {
          nearest = far;
          found = i;
        }
      }
    }
  }
  return found;
}

/** Row of a stored number; -1 where it is not there. Numbers rise. */
export function rowOf(grid: TileGrid, tile: number): number {
  let low = 0;
  let high = grid.count - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (grid.tile[middle] === tile) return middle;
    if (grid.tile[middle] < tile) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

/** Rows of the tiles whose middle lies in a level-0 box. */
export function rowsIn(grid: TileGrid, box: readonly [number, number, number, number]): number[] {
  const found: number[] = [];
  const half = grid.side / 2;
  for (let i = 0; i < grid.count; i++) {
    const x = grid.x[i] + half;
    const y = grid.y[i] + half;
    if (x >= box[0] && x < box[2] && y >= box[1] && y < box[3]) found.push(i);
  }
  return found;
}

/** One picture px a cell, drawn without smoothing: a picture of a whole slide that costs nothing to move. */
export interface Raster {
  readonly picture: HTMLCanvasElement;
  /** Where its top left corner lies and how large one px is, level-0 px. */
  readonly x: number;
  readonly y: number;
  readonly step: number;
}

/** Largest picture, px. */
const MOST = 16_000_000;

/** The colours (N × 4 RGBA) as a picture. Grids that are not regular get finer px, so that no tile is far off its place. */
export function raster(grid: TileGrid, colours: Uint8ClampedArray): Raster | null {
  if (grid.count === 0) return null;
  const inset = (grid.side - grid.cell) / 2;
  let [x0, y0, x1, y1] = [grid.x[0], grid.y[0], grid.x[0], grid.y[0]];
  for (let i = 1; i < grid.count; i++) {
    x0 = Math.min(x0, grid.x[i]);
    y0 = Math.min(y0, grid.y[i]);
    x1 = Math.max(x1, grid.x[i]);
    y1 = Math.max(y1, grid.y[i]);
  }
  const fine = grid.cell === grid.stride && isRegular(grid, x0, y0) ? 1 : 8;
  let step = grid.cell / fine;
  let [width, height] = [Math.round((x1 - x0) / step) + fine, Math.round((y1 - y0) / step) + fine];
  while (width * height > MOST) {
    step *= 2;
    [width, height] = [Math.ceil(width / 2) + 1, Math.ceil(height / 2) + 1];
  }
  const span = Math.max(1, Math.round(grid.cell / step));
  const image = new ImageData(width, height);
  const into = new Uint32Array(image.data.buffer);
  const from = new Uint32Array(colours.buffer, colours.byteOffset, grid.count);
  for (let i = 0; i < grid.count; i++) {
    const left = Math.round((grid.x[i] - x0) / step);
    const top = Math.round((grid.y[i] - y0) / step);
    for (let v = top; v < Math.min(height, top + span); v++) into.fill(from[i], v * width + left, Math.min(v * width + left + span, (v + 1) * width));
  }
  const picture = document.createElement("canvas");
  picture.width = width;
  picture.height = height;
  picture.getContext("2d")?.putImageData(image, 0, 0);
  return { picture, x: x0 + inset, y: y0 + inset, step };
}

/** Whether every tile lies within 2 % of a place of one lattice. */
function isRegular(grid: TileGrid, x0: number, y0: number): boolean {
  const allowed = Math.max(1, grid.stride * 0.02);
  const off = (value: number): number => Math.abs(value - Math.round(value / grid.stride) * grid.stride);
  for (let i = 0; i < grid.count; i++) {
    if (off(grid.x[i] - x0) > allowed || off(grid.y[i] - y0) > allowed) return false;
  }
  return true;
}
