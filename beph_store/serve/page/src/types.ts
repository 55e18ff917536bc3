/** The JSON of the API. Positions are level-0 px, x then y; `slide` is the handle that URLs use, `slide_id` its name. */

export interface StoreInfo {
  readonly store: string;
  readonly recipes: readonly RecipeInfo[];
  /** Started with --allow-write. Absent from servers that never write. */
  readonly writable?: boolean;
}

export interface RecipeInfo {
  readonly key: string;
  readonly encoder: string;
  readonly mpp: number;
  readonly slides: number;
  readonly tiles: number;
  readonly created_at: string;
  readonly recipe: {
    readonly tile: { readonly tile_px: number; readonly mpp: number; readonly stride_px: number };
    readonly encoder: { readonly name: string; readonly dim: number; readonly [more: string]: unknown };
    readonly [more: string]: unknown;
  };
}

export type SlideStatus = "done" | "empty" | "failed";
export type LabelValue = string | number | boolean | null;

export interface SlideItem {
  readonly slide: string;
  readonly slide_id: string;
  readonly case_id: string;
  readonly status: SlideStatus;
  readonly error: string | null;
  readonly tiles: number | null;
  readonly width_l0: number | null;
  readonly height_l0: number | null;
  readonly mpp_x: number | null;
  readonly mpp_y: number | null;
  readonly mpp_source: string | null;
  readonly footprint_l0: number | null;
  readonly seconds: number | null;
  readonly run: string | null;
  readonly created_at: string | null;
  readonly labels: Readonly<Record<string, LabelValue>>;
}

export interface SlideList {
  readonly slides: readonly SlideItem[];
  readonly total: number;
  readonly offset: number;
  readonly statuses: Readonly<Record<SlideStatus, number>>;
}

export interface LabelColumn {
  readonly name: string;
  readonly slides: number;
  readonly distinct: number;
  readonly low?: number;
  readonly high?: number;
  readonly values?: readonly { readonly value: string; readonly slides: number }[];
}

export interface SlideInfo extends Omit<SlideItem, "labels"> {
  /** Whether the slide's own file is there; if not, `note` says why. */
  readonly file: boolean;
  readonly note: string;
  readonly image: {
    readonly width: number;
    readonly height: number;
    readonly tile_px: number;
    readonly overlap: number;
    readonly max_level: number;
    readonly version: string;
  } | null;
}

export interface Hit {
  readonly slide: string;
  readonly slide_id: string;
  readonly case_id: string;
  readonly tile: number;
  readonly x: number;
  readonly y: number;
  readonly footprint_l0: number;
  readonly score: number;
}

export interface Found {
  readonly query: { readonly name: string; readonly vectors: number; readonly tile: Hit | null };
  readonly tiles: number;
  readonly seconds: number;
  readonly hits: readonly Hit[];
}

export interface Progress {
  readonly done: number;
  readonly total: number;
  readonly unit: string;
  readonly per_second: number | null;
  readonly eta_seconds: number | null;
  readonly bottleneck: string | null;
}

export interface Run {
  readonly run: string;
  readonly state: string;
  readonly command?: string;
  readonly recipe?: string;
  readonly started_at?: string;
  readonly ended_at?: string | null;
  readonly statuses?: Readonly<Record<string, number>>;
  readonly progress?: Progress | null;
  readonly slides?: readonly { readonly slide: string; readonly slide_id: string; readonly status: string; readonly error?: string | null }[];
  readonly [more: string]: unknown;
}

export type JobKind = "train" | "apply" | "ingest" | "index" | "finetune";
export type JobState = "queued" | "running" | "done" | "failed" | "cancelled";

export interface Job {
  readonly job: string;
  readonly kind: JobKind;
  readonly state: JobState;
  readonly title: string;
  readonly created_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly progress: Progress | null;
  readonly error: string | null;
  readonly result: Readonly<Record<string, unknown>> | null;
  readonly options: Readonly<Record<string, unknown>>;
}

export interface JobEvent {
  readonly n: number;
  readonly kind: "epoch" | "progress" | "note" | "state";
  readonly [more: string]: unknown;
}

export interface EpochEvent extends JobEvent {
  readonly kind: "epoch";
  readonly fold: number;
  readonly folds: number;
  readonly epoch: number;
  readonly train_loss: number;
  readonly val_loss: number | null;
  readonly lr: number;
}

export interface CohortColumn {
  readonly name: string;
  readonly distinct: number;
  readonly values?: readonly string[];
}

export interface Cohort {
  readonly cohort: string;
  readonly name: string;
  readonly columns: readonly CohortColumn[];
  readonly rows: number;
}

export interface CohortCheck {
  readonly ok: boolean;
  readonly problems: readonly string[];
  readonly cases: number;
  readonly slides: number;
  readonly classes: readonly { readonly label: string; readonly cases: number; readonly slides: number }[] | null;
  readonly events?: number;
  readonly dropped: readonly { readonly reason: string; readonly rows: number; readonly examples: readonly string[] }[];
  readonly columns_used: Readonly<Record<string, string>>;
}

export interface Metric {
  readonly value: number | null;
  readonly ci_low: number | null;
  readonly ci_high: number | null;
}

export interface HeadItem {
  readonly head: string;
  readonly title?: string;
  readonly task: "classify" | "survive";
  readonly classes: readonly string[] | null;
  readonly recipe: string;
  readonly cohort: string | null;
  readonly options: Readonly<Record<string, unknown>>;
  readonly metrics: Readonly<Record<string, Metric>>;
  readonly created_at?: string | null;
}

export interface HeadInfo extends HeadItem {
  readonly folds: readonly {
    readonly name: string;
    readonly metrics: Readonly<Record<string, number | null>>;
    readonly curve: readonly { readonly epoch: number; readonly train_loss: number; readonly val_loss: number | null }[];
  }[];
  readonly roc: readonly { readonly class: string; readonly fpr: readonly number[]; readonly tpr: readonly number[]; readonly auroc: number }[] | null;
  readonly km: readonly {
    readonly group: string;
    readonly time_days: readonly number[];
    readonly survival: readonly number[];
    readonly at_risk: readonly number[];
  }[] | null;
  readonly logrank_p?: number | null;
  readonly confusion: { readonly labels: readonly string[]; readonly counts: readonly (readonly number[])[] } | null;
  readonly warnings: readonly string[];
}

export interface HeadCase {
  readonly case_id: string;
  readonly slides: readonly string[];
  readonly label?: string | null;
  readonly predicted?: string | null;
  readonly probabilities: Readonly<Record<string, number>> | null;
  readonly risk?: number;
  readonly event?: boolean;
  readonly time_days?: number;
  readonly loss: number | null;
  readonly fold: string | number;
}

export interface TileLabel {
  readonly id: string;
  readonly slide: string;
  readonly slide_id: string;
  readonly case_id: string;
  readonly tile: number;
  readonly x: number;
  readonly y: number;
  readonly label: string;
  readonly who: string;
  readonly at: string;
}

export interface TileLabels {
  readonly classes: readonly { readonly label: string; readonly tiles: number; readonly slides: number; readonly cases: number }[];
  readonly labels: readonly TileLabel[];
  readonly can_undo: boolean;
  readonly can_redo: boolean;
}

export interface Refit {
  readonly version: number;
  readonly classes: readonly string[];
  readonly tiles: number;
  readonly seconds: number;
  readonly held_out: { readonly accuracy: number | null; readonly by: "case" | "slide" | "none"; readonly note: string };
}

export interface Proposal {
  readonly slide: string;
  readonly slide_id: string;
  readonly tile: number;
  readonly x: number;
  readonly y: number;
  readonly footprint_l0: number;
  readonly uncertainty: number | null;
  readonly probabilities: Readonly<Record<string, number>> | null;
}

export interface Clusters {
  readonly k?: number;
  readonly clusters?: readonly { readonly cluster: number; readonly tiles: number; readonly exemplar: Hit | null }[];
  readonly [more: string]: unknown;
}
