/** A job's events put together: the curves, the notes, the last number seen. Pure. */

import type { FoldCurve } from "../charts/lines.ts";
import type { JobEvent } from "../studies.ts";

export interface Fold extends FoldCurve {
  readonly fold: number;
  readonly epochs: number | null;
}

export interface Story {
  /** Number of the last event taken in. */
  readonly last: number;
  readonly folds: number;
  readonly curves: readonly Fold[];
  readonly notes: readonly JobEvent[];
}

export const NOTHING: Story = { last: 0, folds: 0, curves: [], notes: [] };

/** The story with events added. What is known already changes nothing, so that streams may overlap with questions. */
export function told(story: Story, events: readonly JobEvent[]): Story {
  let { last, folds } = story;
  const curves = new Map(story.curves.map((curve) => [curve.fold, curve]));
  const notes = [...story.notes];
  for (const event of [...events].sort((a, b) => a.n - b.n)) {
    if (event.n <= last) continue;
    last = event.n;
    if (event.kind === "epoch" && typeof event.fold === "number" && typeof event.epoch === "number") {
      folds = Math.max(folds, event.folds ?? 0, event.fold + 1);
      curves.set(event.fold, longer(curves.get(event.fold), event, event.fold, event.epoch));
    } else if (event.kind !== "progress" && event.kind !== "epoch") {
      notes.push(event);
    }
  }
  return { last, folds, curves: [...curves.values()].sort((a, b) => a.fold - b.fold), notes };
}

/** Whether events are missing between what is known and `n`. */
export function hasGap(story: Story, n: number): boolean {
  return n > story.last + 1;
}

function longer(before: Fold | undefined, event: JobEvent, fold: number, epoch: number): Fold {
  const point = { epoch, train_loss: event.train_loss ?? null, val_loss: event.val_loss ?? null };
  const others = (before?.curve ?? []).filter((one) => one.epoch !== epoch);
  const curve = [...others, point].sort((a, b) => a.epoch - b.epoch);
  return { fold, name: `fold ${fold + 1}`, curve, epochs: event.epochs ?? before?.epochs ?? null };
}
