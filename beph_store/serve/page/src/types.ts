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
  readonly total: number | null;
  readonly unit: string;
  readonly per_second: number | null;
  readonly eta_seconds: number | null;
  readonly bottleneck: string | null;
}

/** A command that was run on the store. */
export interface Run {
  readonly run: string;
  /** running, ended; stopped: it ended without saying so; unreadable. */
  readonly state: string;
  readonly recipe?: string;
  readonly encoder?: string;
  readonly tiles?: number;
  readonly seconds?: number;
  readonly tiles_per_second?: number;
  readonly bottleneck?: string | null;
  readonly written_at?: string;
  readonly statuses?: Readonly<Record<string, number>>;
  readonly progress?: (Progress & { readonly slides?: number; readonly ended?: Readonly<Record<string, number>> }) | null;
}

export type JobKind = "train" | "apply" | "ingest" | "index" | "finetune";
export type JobState = "queued" | "running" | "done" | "failed" | "cancelled";

export interface Job {
  readonly job: string;
  readonly kind: JobKind;
  readonly state: JobState;
  readonly title: string;
  readonly recipe?: string | null;
  readonly created_at: string;
  readonly started_at: string | null;
  readonly ended_at: string | null;
  readonly progress: Progress | null;
  readonly error: string | null;
  readonly result: Readonly<Record<string, unknown>> | null;
  readonly options: Readonly<Record<string, unknown>>;
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
  readonly version: number;
  readonly classes: readonly TileClass[];
  readonly labels: readonly TileLabel[];
  readonly can_undo: boolean;
  readonly can_redo: boolean;
}

/** `place` among all classes ever used: its colour. */
export interface TileClass {
  readonly label: string;
  readonly place: number;
  readonly tiles: number;
  readonly slides: number;
  readonly cases: number;
}

/** What a change of labels did; a label of null was taken away. */
export interface TileLabelsChanged extends Omit<TileLabels, "labels"> {
  readonly changed: readonly (Omit<TileLabel, "label"> & { readonly label: string | null })[];
}

export interface SlideLabels {
  readonly version: number;
  readonly can_undo: boolean;
  readonly can_redo: boolean;
  readonly columns: readonly { readonly name: string; readonly values: readonly { readonly value: string; readonly slides: number; readonly cases: number }[] }[];
  readonly labels: readonly { readonly slide: string; readonly slide_id: string; readonly column: string; readonly value: string; readonly who: string; readonly at: string }[];
}

export interface Refit {
  readonly version: number;
  readonly classes: readonly string[];
  readonly tiles: number;
  readonly used: number;
  readonly slides: number;
  readonly cases: number;
  readonly seconds: number;
  readonly held_out: {
    readonly accuracy: number | null;
    readonly balanced_accuracy: number | null;
    readonly majority: number | null;
    readonly by: "case" | "slide" | "none";
    readonly note: string;
    readonly tiles: number;
  };
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

export interface Proposals {
  readonly version: number;
  readonly method: string;
  readonly why: string;
  readonly pool: number;
  readonly proposals: readonly (Proposal & { readonly case_id: string })[];
}

export interface Clusters {
  readonly k: number;
  readonly of_tiles: number;
  /** Of each tile, in the order of the grid. */
  readonly cluster: readonly number[];
  readonly clusters: readonly { readonly cluster: number; readonly share: number; readonly tiles: number; readonly here: number; readonly exemplar: Omit<Hit, "score"> }[];
}
