/** What needs no browser: `npm test`. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { overlayOf, overlayText, placeOf, slideLink } from "../src/slide/address.ts";
import { CLASS_COLOURS, classColour, table } from "../src/slide/colours.ts";
import { outlineOf } from "../src/slide/outline.ts";
import { rowAt, rowOf, rowsIn, tileGrid } from "../src/slide/grid.ts";
import { colours, ends, histogram, type Style, type Values } from "../src/slide/values.ts";
import { queryOf, noFilters } from "../src/store/filters.ts";
import { magnification, nice, scaleAt } from "../src/slide/scale.ts";
import { matched } from "../src/router.ts";

test("an overlay's address comes back, whatever a class is called", () => {
  for (const overlay of [
    { kind: "none" }, { kind: "similarity", of: "0123456789abcdef", tile: 12 }, { kind: "clusters", k: 12 },
    { kind: "head", head: "j1", class: "a:b/ü%", values: "score" }, { kind: "head", head: "j1", class: "", values: "" }, { kind: "classes", class: "" },
  ] as const) assert.deepEqual(overlayOf(overlayText(overlay)), overlay);
  assert.deepEqual(overlayOf("similarity:x"), { kind: "none" });
  assert.deepEqual(overlayOf("<script>"), { kind: "none" });
});

test("a place in the address", () => {
  const address = slideLink("r", "s/1", { x: 10.4, y: 20, z: 0.123456, tile: 3 });
  assert.equal(address, "#/slides/r/s%2F1?x=10&y=20&z=0.1235&tile=3");
  assert.deepEqual(placeOf(new URLSearchParams("x=10&y=bad")), { x: 10, y: undefined, z: undefined, tile: undefined, overlay: { kind: "none" } });
  assert.deepEqual(matched("/slides/:recipe/:slide", "/slides/r/s%2F1"), { recipe: "r", slide: "s/1" });
  assert.equal(matched("/slides/:recipe/:slide", "/slides/r/%"), null);
});

test("the tile under a point, with a stride that is no whole number", () => {
  const stride = 443.2;
  const rows = new Int32Array(100 * 3);
  for (let i = 0; i < 100; i++) rows.set([i * 2, Math.round((i % 10) * stride), Math.round(Math.floor(i / 10) * stride)], i * 3);
  const grid = tileGrid(rows, 443, stride);
  for (let i = 0; i < 100; i++) assert.equal(rowAt(grid, grid.x[i] + 5, grid.y[i] + 440), i);
  assert.equal(rowAt(grid, -1, 5), -1);
  assert.equal(rowOf(grid, 198), 99);
  assert.equal(rowOf(grid, 3), -1);
  assert.deepEqual(rowsIn(grid, [0, 0, 500, 300]), [0]);
});

test("of overlapping tiles the one whose middle is nearest", () => {
  const grid = tileGrid(Int32Array.from([0, 0, 0, 1, 50, 0]), 100, 50);
  assert.equal(rowAt(grid, 60, 50), 0);
  assert.equal(rowAt(grid, 90, 50), 1);
  assert.equal(grid.cell, 50);
});

const STYLE: Style = { map: "viridis", opacity: 1, range: null, from: 0, without: new Set() };
const scale = (values: number[], range: Values["range"] = "full"): Values =>
  ({ kind: "scale", values: Float32Array.from(values), title: "", meaning: "", range, classes: [], note: "" });

test("colours are the map's ends at the scale's ends, and nothing where there is no value", () => {
  const painted = colours(scale([0, 2, Number.NaN]), STYLE);
  assert.deepEqual([...painted.slice(0, 4)], [...table("viridis").slice(0, 3), 255]);
  assert.deepEqual([...painted.slice(4, 8)], [...table("viridis").slice(-3), 255]);
  assert.equal(painted[11], 0);
  assert.equal(colours(scale([0, 1, 2]), { ...STYLE, from: 0.4 })[3], 0);
});

test("the ends of a scale", () => {
  assert.deepEqual(ends(scale([3, 3, 3]), "full"), [2.5, 3.5]);
  assert.deepEqual(ends(scale([0.2, 0.4]), "unit"), [0, 1]);
  const most = Array.from({ length: 1001 }, (_, i) => i);
  assert.deepEqual(ends(scale([...most, 1e9]), "spread"), [10, 991]);
  assert.deepEqual(histogram(scale([0, 0.1, 0.9, 1]), "full", 2), [2, 2]);
});

test("sixteen classes have sixteen colours", () => {
  assert.equal(new Set(Array.from({ length: 16 }, (_, i) => classColour(i))).size, 16);
  assert.equal(classColour(0), CLASS_COLOURS[0]);
});

test("filters as a query: numbers only in conditions", () => {
  const filters = noFilters();
  filters.labels.set("grade", "high & low");
  filters.ranges.set("age", ["40", "1 OR 1=1"]);
  filters.where = "tiles > 5";
  const asked = queryOf(filters);
  assert.equal(asked.get("label[grade]"), "high & low");
  assert.equal(asked.get("where"), '"age" >= 40 AND (tiles > 5)');
});

test("scale bars and magnifications", () => {
  assert.equal(nice(160), 100);
  assert.equal(nice(0.7), 0.5);
  assert.equal(magnification(0.25), "40");
  assert.equal(magnification(0.5), "20");
  assert.equal(scaleAt(20, 0.25), 0.5);
});

test("the outline of a mask goes along its px, in straight lines, and around holes", () => {
  const rows = ["....", ".###", ".#.#", ".###"];
  const data = new Uint8Array(4 * 4 * 4);
  rows.forEach((row, y) => [...row].forEach((px, x) => { data[(y * 4 + x) * 4 + 3] = px === "#" ? 255 : 0; }));
  const lines: number[][] = [];
  const found = outlineOf({ width: 4, height: 4, data });
  for (let i = 0; i < found.length; i += 4) lines.push([...found.slice(i, i + 4)]);
  assert.deepEqual(lines, [[1, 1, 4, 1], [2, 2, 3, 2], [2, 3, 3, 3], [1, 4, 4, 4], [1, 1, 1, 4], [2, 2, 2, 3], [3, 2, 3, 3], [4, 1, 4, 4]]);
});
