import assert from "node:assert/strict";
import test from "node:test";

import { parseCsv } from "../src/heads/csv.ts";
import { hasGap, NOTHING, told } from "../src/jobs/story.ts";
import { metricTitle, splitTitle } from "../src/studies.ts";
import { eventWords, inOrder, progressWords, seconds } from "../src/jobs/words.ts";
import { classesOf, FIRST, likelyTarget, likelyTask, mediaType, options, question } from "../src/train/choices.ts";

const epoch = (n: number, fold: number, number: number, loss = 1) => ({
  n, kind: "epoch", fold, folds: 3, epoch: number, epochs: 20, train_loss: loss, val_loss: null,
});

test("a story takes events in any order, each once, and tells folds apart", () => {
  const first = told(NOTHING, [epoch(3, 1, 1), epoch(2, 0, 2), epoch(1, 0, 1), { n: 4, kind: "note", text: "reading" }]);
  assert.equal(first.last, 4);
  assert.equal(first.folds, 3);
  assert.deepEqual(first.curves.map((curve) => [curve.name, curve.curve.length]), [["fold 1", 2], ["fold 2", 1]]);
  assert.deepEqual(told(first, [epoch(2, 0, 2), epoch(3, 1, 1)]), first);
  assert.equal(told(first, [epoch(5, 1, 2)]).curves[1].curve.length, 2);
  assert.equal(hasGap(first, 5), false);
  assert.equal(hasGap(first, 6), true);
});

const job = (name: string, state: string, created: string, ended: string | null = null) => ({
  job: name, kind: "train" as const, state: state as "done", title: name, created_at: created, started_at: created, ended_at: ended,
  progress: null, error: null, result: null, options: {},
});

test("jobs are listed as they will be done, then as they ended, the newest first", () => {
  const jobs = [job("old", "done", "1", "2"), job("new", "failed", "1", "3"), job("waits", "queued", "2"), job("first", "queued", "1"), job("runs", "running", "0")];
  assert.deepEqual(inOrder(jobs).map((one) => one.job), ["runs", "first", "waits", "new", "old"]);
  assert.equal(seconds(job("a", "done", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z")), 90);
});

test("progress is said with what is known of it", () => {
  const progress = { done: 12, total: 100, unit: "epochs", per_second: 3.21, eta_seconds: 28, bottleneck: null };
  assert.equal(progressWords(progress), "12 of 100 epochs · 3.2 epochs/s · 28 s left");
  assert.equal(progressWords({ ...progress, per_second: null, eta_seconds: null, bottleneck: "read" }), "12 of 100 epochs · held up by reading slides");
  assert.equal(eventWords({ n: 1, kind: "state", state: "failed", error: "no" }), "failed: no");
});

const table = {
  cohort: "c", name: "t", rows: 6, uploaded_at: "",
  columns: [
    { name: "slide_id", distinct: 6, values: [] },
    { name: "grade", distinct: 3, values: [{ value: "low", rows: 3 }, { value: "high", rows: 2 }, { value: "none", rows: 1 }] },
  ],
  suggested: { slide: ["slide_id"], case: [], class: [], event: [], time: [] },
};

test("the question begins with what the table says, and the rest is left to the server", () => {
  assert.equal(likelyTarget(table), "grade");
  assert.equal(likelyTask(table), "classify");
  assert.equal(likelyTask({ ...table, suggested: { ...table.suggested, event: ["dead"], time: ["days"] } }), "survive");
  assert.deepEqual(question(FIRST, table), { task: "classify", folds: 5 });
  const chosen = { ...FIRST, target: "grade", without: ["none"], case: "patient", title: "  two ", epochs: 9 };
  assert.deepEqual(classesOf(chosen, table), ["high", "low"]);
  assert.deepEqual(classesOf({ ...chosen, positive: "high" }, table), ["low", "high"]);
  assert.equal(classesOf({ ...FIRST, target: "grade", positive: "high" }, table), null); // of three none is positive
  assert.deepEqual(options(chosen, table), {
    cohort: "c", task: "classify", folds: 5, target: "grade", classes: ["high", "low"], case_column: "patient", head: "linear", seed: 0, title: "two",
  });
  const survive = { ...FIRST, task: "survive" as const, time: "t", timeUnit: "months", head: "abmil", loss: "nll", epochs: 9 };
  assert.deepEqual(options(survive, table), {
    cohort: "c", task: "survive", folds: 5, time_column: "t", time_unit: "months", head: "abmil", seed: 0, loss: "nll", epochs: 9,
  });
});

test("a table with a tab in its first line is TSV", () => {
  assert.equal(mediaType("a\tb\n1,2\n"), "text/tab-separated-values");
  assert.equal(mediaType("a,b\n1\t2\n"), "text/csv");
});

test("CSV with quotes, line ends and empty cells", () => {
  assert.deepEqual(parseCsv('a,b\r\n"x, ""y""",\n"two\nlines",3'), [["a", "b"], ['x, "y"', ""], ["two\nlines", "3"]]);
  assert.deepEqual(parseCsv(""), []);
});

test("metrics and splits are called as people call them", () => {
  assert.equal(metricTitle("recall[high <b>]", "recall[high <b>]"), "recall of high <b>");
  assert.equal(metricTitle("brier", "brier"), "Brier score");
  assert.equal(metricTitle("auroc", "AUROC"), "AUROC");
  assert.equal(splitTitle("fold-0"), "fold 1");
  assert.equal(splitTitle("repeat-1-fold-4"), "repeat 2, fold 5");
  assert.equal(splitTitle("splits_0 a2"), "splits_0 a2"); // handed over: somebody else's names
});
