import assert from "node:assert/strict";
import test from "node:test";

import { bestEpoch, shared } from "../src/charts/lines.ts";
import { shares } from "../src/charts/matrix.ts";
import { sensitivityAt } from "../src/charts/roc.ts";
import { extent, linear, number, padded, percent, pValue, step, ticks, wholeTicks } from "../src/charts/scale.ts";
import { atRisk, median, unitFor, valueAt } from "../src/charts/survival.ts";
import { polyline, staircase } from "../src/charts/svg.ts";

test("a scale goes there and back; without width everything is in the middle", () => {
  const x = linear([0, 10], [100, 300]);
  assert.equal(x(2.5), 150);
  assert.equal(x.invert(150), 2.5);
  assert.equal(linear([3, 3], [0, 80])(3), 40);
});

test("ticks are round, inside, and free of the dust of binary fractions", () => {
  assert.deepEqual(ticks(0, 1, 4), [0, 0.5, 1]);
  assert.deepEqual(ticks(0.02, 0.31, 6), [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]);
  assert.deepEqual(ticks(0, 0.3, 3), [0, 0.1, 0.2, 0.3]);
  assert.deepEqual(ticks(-2, 2, 4), [-2, -1, 0, 1, 2]);
  assert.deepEqual(ticks(5, 5), [5]);
  assert.deepEqual(ticks(2, 1), []);
  assert.deepEqual(wholeTicks(1, 3, 10), [1, 2, 3]);
  assert.equal(step(1000, 5), 200);
});

test("an extent passes over what is no number, and a domain is never empty", () => {
  assert.deepEqual(extent([3, null, NaN, 1, undefined]), [1, 3]);
  assert.equal(extent([null, NaN]), null);
  assert.deepEqual(padded([]), [0, 1]);
  const [low, high] = padded([0.5]);
  assert.ok(low < 0.5 && high > 0.5);
  assert.equal(padded([0.01, 1])[0], 0); // losses are not drawn below zero
});

test("numbers are said without claiming more than is known", () => {
  assert.equal(number(-1234.5), "−1,234.5");
  assert.equal(number(0.00001), "1.0e−5");
  assert.equal(number(null), "–");
  assert.equal(percent(0.999), "> 99 %");
  assert.equal(percent(0.001), "< 1 %");
  assert.equal(percent(1), "100 %");
  assert.equal(pValue(0), "< 0.001");
  assert.equal(pValue(0.0312), "0.031");
  assert.equal(pValue(0.5), "0.50");
});

test("lines break where a value is missing; stairs hold a value until the next", () => {
  assert.equal(polyline([[0, 1], [1, NaN], [2, 3], [3, 4]]), "M0 1M2 3L3 4");
  assert.equal(staircase([[0, 0], [10, 5]], 20), "M0 0H10V5H20");
  assert.equal(staircase([], 9), "");
});

test("the best epoch is that of the least validation loss", () => {
  const point = (epoch: number, val_loss: number | null) => ({ epoch, train_loss: 1, val_loss });
  assert.equal(bestEpoch([point(1, 0.7), point(2, 0.5), point(3, 0.6)]), 2);
  assert.equal(bestEpoch([point(1, null)]), null);
  const { x, y } = shared([{ name: "a", curve: [point(1, 0.7), point(2, 0.5)] }], 20);
  assert.deepEqual(x, [1, 20]);
  assert.ok(y[0] < 0.5 && y[1] > 1);
});

test("rows of a confusion matrix become shares; an empty row stays empty", () => {
  assert.deepEqual(shares([3, 1]), [0.75, 0.25]);
  assert.deepEqual(shares([0, 0]), [0, 0]);
});

test("ROC is read off at a false positive rate", () => {
  const curve = { name: "a", fpr: [0, 0, 0.5, 1], tpr: [0, 0.6, 0.8, 1], auroc: 0.8 };
  assert.equal(sensitivityAt(curve, 0), 0.6);
  assert.equal(sensitivityAt(curve, 0.49), 0.6);
  assert.equal(sensitivityAt(curve, 0.5), 0.8);
});

test("Kaplan–Meier: values hold, numbers at risk count those censored on the way, the median may not be reached", () => {
  // Five cases: events at 10 and 30, censored at 15, 30 and 40.
  const group = {
    group: "all", time_days: [0, 10, 30], survival: [1, 0.8, 0.5333], at_risk: [5, 5, 3], censored: [15, 30, 40],
  };
  const followed = [10, 15, 30, 30, 40];
  for (const day of [0, 5, 10, 12, 15, 16, 29, 30, 31, 40, 41]) {
    assert.equal(atRisk(group, day), followed.filter((time) => time >= day).length);
  }
  assert.equal(valueAt(group.time_days, group.survival, 29, 1), 0.8);
  assert.equal(valueAt(group.time_days, group.survival, 30, 1), 0.5333);
  assert.equal(median(group), null);
  assert.equal(median({ ...group, survival: [1, 0.8, 0.5] }), 30);
  assert.equal(unitFor(60).name, "days");
  assert.equal(unitFor(1000).name, "months");
  assert.equal(unitFor(4000).name, "years");
});
