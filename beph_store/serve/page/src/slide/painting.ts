/** What is painted over a slide: values of tiles, outlines, tissue, frames. All in level-0 px through one `Sight`. */

import type { Hit } from "../types.ts";
import { raster, type Raster, type TileGrid } from "./grid.ts";
import { outlineOf } from "./outline.ts";
import type { Sight } from "./viewer.ts";

/** Fewer tiles than this in view are painted one by one, each exactly in its place. */
const FEW = 3000;
/** From this width on, a tile is only tinted, with its colour in a border: what it shows must be seen. CSS px. */
const TINT_FROM_PX = 72;
const TINT_AT_PX = 180;
/** Narrower than this on the screen, outlines would only be a grey veil. CSS px. */
const OUTLINE_PX = 7;

/** The veil over what is no tissue, and the line around what is, in px of the mask; the slide's size in level-0 px. */
interface Tissue {
  readonly picture: HTMLCanvasElement;
  readonly outline: Path2D;
  readonly width: number;
  readonly height: number;
}

export interface Mark {
  /** Row of the grid. */
  readonly row: number;
  readonly colour: string;
}

/** Everything that lies over the slide. Change a field, then ask for a repaint. */
export class Layers {
  grid: TileGrid | null = null;
  opacity = 0.6;
  /** Values may be hidden for a look at the slide. */
  hidden = false;
  showGrid = false;
  showTissue = false;
  /** Row of the framed tile; -1 for none. */
  selected = -1;
  hits: readonly Hit[] = [];
  marks: readonly Mark[] = [];
  region: readonly [number, number, number, number] | null = null;
  private colours: Uint8ClampedArray | null = null;
  private picture: Raster | null = null;
  private tissue: Tissue | null = null;

  /** RGBA of every tile, (N × 4); null for none. */
  paintTiles(colours: Uint8ClampedArray | null): void {
    this.colours = colours;
    this.picture = colours && this.grid ? raster(this.grid, colours) : null;
  }

  /** The mask: white where tissue is. What is not tissue is veiled, over the whole slide of that size. */
  setTissue(mask: HTMLImageElement, width: number, height: number): void {
    const picture = document.createElement("canvas");
    picture.width = mask.naturalWidth;
    picture.height = mask.naturalHeight;
    const context = picture.getContext("2d");
    if (!context) return;
    context.drawImage(mask, 0, 0);
    const outline = pathOf(outlineOf(context.getImageData(0, 0, picture.width, picture.height)));
    context.globalCompositeOperation = "source-out";
    context.fillStyle = "#1b2a4a";
    context.fillRect(0, 0, picture.width, picture.height);
    this.tissue = { picture, width, height, outline };
  }

  paint(context: CanvasRenderingContext2D, sight: Sight): void {
    if (this.showTissue && this.tissue) this.paintTissue(context, sight, this.tissue);
    if (!this.grid) return;
    const rows = visible(this.grid, sight);
    if (this.colours && this.picture && !this.hidden) this.paintValues(context, sight, this.grid, rows);
    if (this.showTissue && this.tissue) strokeTissue(context, sight, this.tissue);
    if (this.showGrid) outlines(context, sight, this.grid, rows);
    this.paintMarks(context, sight, this.grid);
    for (const hit of this.hits) frame(context, sight, hit.x, hit.y, hit.footprint_l0, "#ffffff", 2);
    if (this.region) this.paintRegion(context, sight, this.region);
    if (this.selected >= 0) {
      frame(context, sight, this.grid.x[this.selected], this.grid.y[this.selected], this.grid.side, "#ffe14d", 3);
    }
  }

  private paintTissue(context: CanvasRenderingContext2D, sight: Sight, tissue: Tissue): void {
    context.save();
    context.globalAlpha = 0.55;
    context.drawImage(tissue.picture, sight.left, sight.top, tissue.width * sight.scale, tissue.height * sight.scale);
    context.restore();
  }

  private paintValues(context: CanvasRenderingContext2D, sight: Sight, grid: TileGrid, rows: readonly number[] | null): void {
    context.save();
    context.globalAlpha = this.opacity;
    if (rows && this.colours) {
      const inset = (grid.side - grid.cell) / 2;
      const tint = Math.min(1, Math.max(0, (grid.cell * sight.scale - TINT_FROM_PX) / (TINT_AT_PX - TINT_FROM_PX)));
      const border = 4 * tint;
      for (const i of rows) {
        // The framed tile is looked at: nothing lies over it once it can be seen.
        if (this.colours[i * 4 + 3] === 0 || (i === this.selected && tint > 0)) continue;
        const colour = `rgb(${this.colours[i * 4]} ${this.colours[i * 4 + 1]} ${this.colours[i * 4 + 2]})`;
        const [x0, y0] = [edge(sight.left, grid.x[i] + inset, sight), edge(sight.top, grid.y[i] + inset, sight)];
        const [x1, y1] = [edge(sight.left, grid.x[i] + inset + grid.cell, sight), edge(sight.top, grid.y[i] + inset + grid.cell, sight)];
        context.fillStyle = colour;
        context.globalAlpha = this.opacity * (1 - 0.65 * tint);
        context.fillRect(x0, y0, x1 - x0, y1 - y0);
        if (tint === 0) continue;
        context.strokeStyle = colour;
        context.globalAlpha = this.opacity * tint;
        context.lineWidth = border;
        context.strokeRect(x0 + border / 2 + 1, y0 + border / 2 + 1, x1 - x0 - border - 2, y1 - y0 - border - 2);
      }
    } else if (this.picture) {
      const { picture, x, y, step } = this.picture;
      context.drawImage(picture, sight.left + x * sight.scale, sight.top + y * sight.scale, picture.width * step * sight.scale, picture.height * step * sight.scale);
    }
    context.restore();
  }

  private paintMarks(context: CanvasRenderingContext2D, sight: Sight, grid: TileGrid): void {
    for (const mark of this.marks) {
      const side = grid.side * sight.scale;
      const [x, y] = [sight.left + grid.x[mark.row] * sight.scale, sight.top + grid.y[mark.row] * sight.scale];
      if (x > sight.width || y > sight.height || x + side < 0 || y + side < 0) continue;
      if (side >= 14) frame(context, sight, grid.x[mark.row], grid.y[mark.row], grid.side, mark.colour, Math.min(5, side / 8));
      const dot = Math.max(3.5, Math.min(7, side / 6));
      context.beginPath();
      context.arc(x + side / 2, y + side / 2, dot, 0, Math.PI * 2);
      context.fillStyle = mark.colour;
      context.fill();
      context.lineWidth = 1.5;
      context.strokeStyle = "#fff";
      context.stroke();
    }
  }

  private paintRegion(context: CanvasRenderingContext2D, sight: Sight, box: readonly [number, number, number, number]): void {
    context.save();
    context.lineWidth = 2;
    context.strokeStyle = "#ffe14d";
    context.setLineDash([8, 5]);
    context.strokeRect(sight.left + box[0] * sight.scale, sight.top + box[1] * sight.scale, (box[2] - box[0]) * sight.scale, (box[3] - box[1]) * sight.scale);
    context.restore();
  }
}

function pathOf(lines: Int32Array): Path2D {
  const path = new Path2D();
  for (let i = 0; i < lines.length; i += 4) {
    path.moveTo(lines[i], lines[i + 1]);
    path.lineTo(lines[i + 2], lines[i + 3]);
  }
  return path;
}

/** Over the values too: whether a head's map ends where the tissue does is what one wants to see. */
function strokeTissue(context: CanvasRenderingContext2D, sight: Sight, tissue: Tissue): void {
  const across = (tissue.width * sight.scale) / tissue.picture.width;
  context.save();
  context.translate(sight.left, sight.top);
  context.scale(across, (tissue.height * sight.scale) / tissue.picture.height);
  context.lineCap = "square";
  for (const [width, colour] of [[4, "rgb(255 255 255 / 85%)"], [2, "#00794b"]] as const) {
    context.lineWidth = width / across;
    context.strokeStyle = colour;
    context.stroke(tissue.outline);
  }
  context.restore();
}

/** On whole px, so that neighbours share an edge without a seam. */
function edge(from: number, at: number, sight: Sight): number {
  return Math.round(from + at * sight.scale);
}

/** Rows in view, null where they are more than a few. */
function visible(grid: TileGrid, sight: Sight): number[] | null {
  const x0 = -sight.left / sight.scale - grid.side;
  const y0 = -sight.top / sight.scale - grid.side;
  const x1 = (sight.width - sight.left) / sight.scale;
  const y1 = (sight.height - sight.top) / sight.scale;
  const rows: number[] = [];
  for (let i = 0; i < grid.count; i++) {
    if (grid.x[i] > x0 && grid.x[i] < x1 && grid.y[i] > y0 && grid.y[i] < y1) {
      rows.push(i);
      if (rows.length > FEW) return null;
    }
  }
  return rows;
}

function outlines(context: CanvasRenderingContext2D, sight: Sight, grid: TileGrid, rows: readonly number[] | null): void {
  const side = grid.side * sight.scale;
  if (!rows || side < OUTLINE_PX) return;
  context.save();
  context.lineWidth = 1;
  context.strokeStyle = "rgb(20 40 90 / 55%)";
  context.beginPath();
  for (const i of rows) {
    const [x, y] = [edge(sight.left, grid.x[i], sight), edge(sight.top, grid.y[i], sight)];
    context.rect(x + 0.5, y + 0.5, edge(sight.left, grid.x[i] + grid.side, sight) - x, edge(sight.top, grid.y[i] + grid.side, sight) - y);
  }
  context.stroke();
  context.restore();
}

/** A frame that shows on light and on dark: a dark line under a coloured one. */
function frame(context: CanvasRenderingContext2D, sight: Sight, x: number, y: number, side: number, colour: string, width: number): void {
  const [left, top, size] = [sight.left + x * sight.scale, sight.top + y * sight.scale, side * sight.scale];
  // Too small to see as a frame: a ring around it.
  const grow = size < 12 ? (12 - size) / 2 : 0;
  context.lineJoin = "round";
  context.lineWidth = width + 2;
  context.strokeStyle = "rgb(0 0 0 / 75%)";
  context.strokeRect(left - grow, top - grow, size + grow * 2, size + grow * 2);
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.strokeRect(left - grow, top - grow, size + grow * 2, size + grow * 2);
}
