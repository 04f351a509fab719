import type { Kind } from "./cases.js";
import type { Inputs } from "../measure/data.js";

/** What the parent asks of a process that holds one implementation; one answer each, in order. */
export type Request =
  | { readonly op: "open"; readonly options: Readonly<Record<string, unknown>> }
  | { readonly op: "limits" }
  /** Make a case ready and run it once. */
  | {
      readonly op: "prepare";
      readonly kind: Kind;
      readonly options: Readonly<Record<string, number>>;
      readonly inputs: Inputs;
    }
  /** Run the case `count` times, then wait. */
  | { readonly op: "sample"; readonly count: number }
  /** Times of the kernels of one run. */
  | { readonly op: "profile" }
  | { readonly op: "release" };

export interface Opened {
  readonly version: string;
  readonly adapter: string;
  /** The adapter is a software implementation. */
  readonly software?: boolean;
}

export interface Prepared {
  /** Outputs of the first run. */
  readonly outputs: readonly Float32Array[];
  /** Milliseconds of the first run, compilation included. */
  readonly first: number;
}

export interface Sampled {
  /** Milliseconds of all runs together. */
  readonly milliseconds: number;
}

export type Answer = { readonly value: unknown } | { readonly error: string };
