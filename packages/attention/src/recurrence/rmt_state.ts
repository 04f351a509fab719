import {
  concat,
  expectRecord,
  expectShape,
  noGrad,
  slice,
  type Gpu,
  type State,
  type StateOptions,
  type Tensor,
} from "@x/kernels";
import { attention } from "../engine/attention.js";
import { KVCache } from "../cache/kv_cache.js";

/** The sizes of the model that a state needs. */
export interface RmtSizes {
  readonly dim: number;
  readonly numHeads: number;
  readonly headDim: number;
  readonly layers: number;
  readonly segmentLen: number;
  readonly memTokens: number;
  readonly memoryCausal: boolean;
}

/** Attention over [batch, rows, heads, headDim] in a layer. */
export type AttendLayer = (q: Tensor, k: Tensor, v: Tensor, layer: number) => Tensor;

/** Functions of the model that the state calls. */
export interface RmtSteps {
  readonly initial: (batch: number) => Tensor;
  readonly write: (memory: Tensor) => Tensor;
  readonly run: (z: Tensor, attend: AttendLayer) => Tensor;
}

/**
 * RMT inside a segment: for each layer the keys and values of the read slots and of the segment's tokens. The write slots
 * run once, when the segment is full, and their rows become the memory of the next. Its size does not depend on the text.
 */
export class RmtState implements State {
  readonly #gpu: Gpu;
  readonly #config: RmtSizes;
  readonly #steps: RmtSteps;
  readonly #caches: readonly KVCache[];
  readonly #batch: number;
  #memory: Tensor;
  /** Tokens of the segment so far; -1: the read slots have not run. */
  #filled = -1;
  /** A step depends on how full the segment is, so that a recorded one cannot be run again. */
  readonly countsOnHost = true;

  constructor(gpu: Gpu, config: RmtSizes, options: Pick<StateOptions, "batch" | "dtype">, steps: RmtSteps) {
    expectRecord("RmtState", "config", config);
    expectRecord("RmtState", "options", options);
    const { batch, dtype = "f32" } = options;
    const { numHeads, headDim, memTokens, segmentLen, layers } = config;
    const maxLength = 2 * memTokens + segmentLen;
    this.#gpu = gpu;
    this.#config = config;
    this.#steps = steps;
    this.#batch = batch;
    this.#caches = Array.from(
      { length: layers },
      () => new KVCache(gpu, { batch, dtype, numKvHeads: numHeads, headDim, maxLength }),
    );
    this.#memory = gpu.keep(gpu.scope(() => noGrad(() => steps.initial(batch))));
  }

  /** Whether a model with these functions made the state. */
  isOf(steps: RmtSteps): boolean {
    return steps === this.#steps;
  }

  /** The memory as the last full segment left it, [batch, memTokens, dim]. */
  get memory(): Tensor {
    return this.#memory;
  }

  /** Bytes on the GPU; they do not depend on the text's length. */
  get bytes(): number {
    return this.#caches.reduce((sum, cache) => sum + cache.bytes, this.#memory.byteLength);
  }

  /** 0: the size does not depend on the text's length. */
  get bytesPerToken(): number {
    return 0;
  }

  /** Returns the rows of the next tokens, x [batch, seq, dim], of any number; `forward` with the state calls it. @throws ShapeError */
  step(x: Tensor): Tensor {
    const { dim, segmentLen } = this.#config;
    const { seq } = expectShape("RmtState.step", "x", x, [this.#batch, "seq", dim]) as { seq: number };
    return this.#gpu.scope(() =>
      noGrad(() => {
        const outs: Tensor[] = [];
        for (let start = 0; start < seq;) {
          if (this.#filled < 0) {
            this.#append(this.#memory, 0, this.#config.memoryCausal);
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

  /** Ends the segment here, full or not: runs the write slots, and returns their rows, the memory [batch, memTokens, dim]. */
  finishSegment(): Tensor {
    const { memTokens, memoryCausal } = this.#config;
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

  /** Forgets all tokens. */
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
