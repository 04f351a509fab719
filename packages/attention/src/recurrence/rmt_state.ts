import {
  checkConfig,
  concat,
  expectInteger,
  expectShape,
  noGrad,
  slice,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { attention } from "../engine/attention.js";
import { KVCache } from "../cache/kv_cache.js";
import type { RmtConfig } from "./rmt.js";

/** Functions of the model that the state calls. */
export interface RmtSteps {
  readonly initial: (batch: number) => Tensor;
  readonly write: (memory: Tensor) => Tensor;
  readonly run: (z: Tensor, attend: (q: Tensor, k: Tensor, v: Tensor, layer: number) => Tensor) => Tensor;
}

/**
 * RMT inside a segment: per layer the keys and values of the read slots and the segment's tokens; the write slots run
 * once, when the segment is full, and their rows become the memory of the next. Nothing here grows with the text.
 */
export class RmtState {
  readonly #gpu: Gpu;
  readonly #config: RmtConfig;
  readonly #steps: RmtSteps;
  readonly #caches: readonly KVCache[];
  readonly #batch: number;
  #memory: Tensor;
  /** Tokens of the segment so far; -1: the read slots have not run. */
  #filled = -1;

  constructor(
    gpu: Gpu,
    config: RmtConfig,
    options: { readonly batch: number; readonly dtype?: "f32" | "f16" },
    steps: RmtSteps,
  ) {
    checkConfig("RmtState", options, ["batch", "dtype"]);
    expectInteger("RmtState", "batch", options.batch, 1);
    const { numHeads, headDim, memTokens, segmentLen, layers } = config;
    this.#gpu = gpu;
    this.#config = config;
    this.#steps = steps;
    this.#batch = options.batch;
    this.#caches = Array.from(
      { length: layers },
      () =>
        new KVCache(gpu, {
          ...options,
          numKvHeads: numHeads,
          headDim,
          maxLength: 2 * memTokens + segmentLen,
        }),
    );
    this.#memory = gpu.keep(gpu.scope(() => noGrad(() => steps.initial(options.batch))));
  }

  /** The memory as the last full segment left it, [batch, memTokens, dim]. */
  get memory(): Tensor {
    return this.#memory;
  }

  /** Bytes of all layers' caches; they do not depend on the text's length. */
  get bytes(): number {
    return this.#caches.reduce(
      (sum, c) => sum + c.keys.byteLength + c.values.byteLength,
      this.#memory.byteLength,
    );
  }

  /** Rows of the next tokens [batch, seq, dim], any number of them. */
  step(x: Tensor): Tensor {
    const { dim, segmentLen } = this.#config;
    const { seq } = expectShape("RmtState.step", "x", x, [this.#batch, "seq", dim]) as { seq: number };
    return this.#gpu.scope(() =>
      noGrad(() => {
        const outs: Tensor[] = [];
        for (let start = 0; start < seq;) {
          if (this.#filled < 0) {
            this.#append(this.#memory, 0, this.#config.memoryCausal ?? false);
            this.#filled = 0;
          }
          const take = Math.min(segmentLen - this.#filled, seq - start);
          const tokens = slice(x, { axis: 1, start, end: start + take });
          outs.push(this.#append(tokens, this.#config.memTokens + this.#filled, true));
          start += take;
          this.#filled += take;
          if (this.#filled === segmentLen) this.finishSegment();
        }
        return outs.length === 1 ? outs[0]! : concat(outs, 1);
      }),
    );
  }

  /** End the segment here, full or not: run the write slots and start anew from what they hold. */
  finishSegment(): Tensor {
    const { memTokens, memoryCausal = false } = this.#config;
    if (this.#filled > 0) {
      const next = this.#gpu.scope(() =>
        noGrad(() => this.#append(this.#steps.write(this.#memory), memTokens + this.#filled, memoryCausal)),
      );
      this.#memory.dispose();
      this.#memory = this.#gpu.keep(next);
      for (const cache of this.#caches) cache.clear();
      this.#filled = -1;
    }
    return this.#memory;
  }

  /** Rows at keys first, first + 1, ...: each sees the keys up to itself, or (not `causal`) up to the last of them. */
  #append(z: Tensor, first: number, causal: boolean): Tensor {
    const [batch, rows] = z.shape as [number, number];
    const ids = (of: (i: number) => number): Tensor =>
      this.#gpu.tensor(
        Int32Array.from({ length: batch * rows }, (_, i) => first + of(i % rows)),
        [batch, rows],
        "i32",
      );
    const key = ids((i) => i);
    const query = causal ? key : ids(() => rows - 1);
    return this.#steps.run(z, (q, k, v, layer) => {
      const cache = this.#caches[layer]!;
      cache.append(k, v, key);
      return attention(q, cache.keys, cache.values, {
        causal: true,
        layout: "bshd",
        positions: cache.positions(query),
      });
    });
  }

  /** Forget the text. */
  clear(): void {
    for (const cache of this.#caches) cache.clear();
    this.#memory.dispose();
    this.#memory = this.#gpu.keep(this.#gpu.scope(() => noGrad(() => this.#steps.initial(this.#batch))));
    this.#filled = -1;
  }

  dispose(): void {
    for (const cache of this.#caches) cache.dispose();
    this.#memory.dispose();
  }
}
