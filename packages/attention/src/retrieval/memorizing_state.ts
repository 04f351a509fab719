import {
  concat,
  expectRecord,
  expectShape,
  noGrad,
  slice,
  stopGradient,
  transpose,
  type Gpu,
  type State,
  type Tensor,
} from "@x/kernels";
import { attentionOutputs } from "../engine/attention.js";
import { KVCache } from "../cache/kv_cache.js";
import type { AttentionPart } from "../engine/merge.js";

/** The sizes of the layer that a state needs. */
export interface MemorizingSizes {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly segmentLen: number;
  /** Entries that are kept; 0: all. */
  readonly memorySize: number;
}

/** Past keys and values, [batch, numKvHeads, entries, headDim]; constants for the gradient. */
export interface KnnMemory {
  readonly keys: Tensor;
  readonly values: Tensor;
}

/** The newest `size` (0: all) of the entries before and the fresh ones. */
export function newestEntries(before: Tensor | undefined, fresh: Tensor, size: number): Tensor {
  const all = before && before.shape[2]! > 0 ? concat([stopGradient(before), fresh], 2) : fresh;
  const surplus = size > 0 ? all.shape[2]! - size : 0;
  return surplus > 0 ? slice(all, { axis: 2, start: surplus }) : all;
}

/** Functions of the layer that the state calls; heads are [batch, heads, seq, headDim]. */
export interface MemorizingSteps {
  readonly heads: (x: Tensor) => { q: Tensor; k: Tensor; v: Tensor };
  readonly combine: (q: Tensor, local: AttentionPart, memory: KnnMemory | undefined) => Tensor;
  readonly project: (o: Tensor, residual: Tensor | undefined) => Tensor;
}

/**
 * A memorizing layer inside a segment: keys and values of the segment so far, and the memory of the segments before, to
 * which those of the segment are added when it is full.
 */
export class MemorizingState implements State {
  readonly #gpu: Gpu;
  readonly #segmentLen: number;
  readonly #memorySize: number;
  readonly #batch: number;
  readonly #local: KVCache;
  readonly #steps: MemorizingSteps;
  #memory: KnnMemory | undefined;
  #filled = 0;

  /** A step depends on how full the segment is, so that a recorded one cannot be run again. */
  readonly countsOnHost = true;

  constructor(
    gpu: Gpu,
    sizes: MemorizingSizes,
    options: { readonly batch: number; readonly memory?: KnnMemory | undefined },
    steps: MemorizingSteps,
  ) {
    expectRecord("MemorizingState", "config", sizes);
    expectRecord("MemorizingState", "options", options);
    const { batch, memory } = options;
    const { headDim, numKvHeads, segmentLen, memorySize } = sizes;
    this.#gpu = gpu;
    this.#segmentLen = segmentLen;
    this.#memorySize = memorySize;
    this.#batch = batch;
    this.#steps = steps;
    this.#local = new KVCache(gpu, { batch, numKvHeads, headDim, maxLength: segmentLen });
    if (memory) this.#remember(stopGradient(memory.keys), stopGradient(memory.values));
  }

  /** Whether a layer with these functions made the state. */
  isOf(steps: MemorizingSteps): boolean {
    return steps === this.#steps;
  }

  /** The memory as the last full segment left it. */
  get memory(): KnnMemory | undefined {
    return this.#memory;
  }

  /** Bytes on the GPU: the segment so far and the memory. */
  get bytes(): number {
    const { keys, values } = this.#memory ?? {};
    return this.#local.bytes + (keys?.byteLength ?? 0) + (values?.byteLength ?? 0);
  }

  /** Bytes of memory that one token takes: 2 numKvHeads headDim values of four bytes. */
  get bytesPerToken(): number {
    return this.#local.bytesPerToken;
  }

  /**
   * Returns the rows of the next tokens, x [batch, seq, dim], of any number; `forward` with the state calls it.
   *
   * @throws ShapeError
   */
  step(x: Tensor, residual?: Tensor): Tensor {
    const { seq } = expectShape("MemorizingState.step", "x", x, [this.#batch, "seq", null]) as {
      seq: number;
    };
    return this.#gpu.scope(() =>
      noGrad(() => {
        const outs: Tensor[] = [];
        for (let start = 0; start < seq;) {
          const end = start + Math.min(this.#segmentLen - this.#filled, seq - start);
          outs.push(this.#piece(slice(x, { axis: 1, start, end })));
          this.#filled += end - start;
          start = end;
          if (this.#filled === this.#segmentLen) this.finishSegment();
        }
        return this.#steps.project(outs.length === 1 ? outs[0]! : concat(outs, 2), residual);
      }),
    );
  }

  #piece(x: Tensor): Tensor {
    const { q, k, v } = this.#steps.heads(x);
    const bshd = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);
    const positions = this.#local.append(bshd(k), bshd(v));
    const { out, lse } = attentionOutputs(bshd(q), this.#local.keys, this.#local.values, {
      causal: true,
      layout: "bshd",
      scale: 1,
      positions,
    });
    return this.#steps.combine(q, { out: bshd(out), lse }, this.#memory);
  }

  /** Ends the segment here, full or not: its keys and values are added to the memory. */
  finishSegment(): void {
    if (this.#filled === 0) return;
    const filled = this.#filled;
    const [keys, values] = this.#gpu.scope(() =>
      noGrad(() => {
        const entries = (t: Tensor, before: Tensor | undefined): Tensor =>
          newestEntries(
            before,
            transpose(slice(t, { axis: 1, end: filled }), [0, 2, 1, 3]),
            this.#memorySize,
          );
        return [
          entries(this.#local.keys, this.#memory?.keys),
          entries(this.#local.values, this.#memory?.values),
        ] as const;
      }),
    );
    this.#remember(keys, values);
    this.#local.clear();
    this.#filled = 0;
  }

  #remember(keys: Tensor, values: Tensor): void {
    this.#memory?.keys.dispose();
    this.#memory?.values.dispose();
    this.#memory = { keys: this.#gpu.keep(keys), values: this.#gpu.keep(values) };
  }

  /** Forgets all tokens and the memory. */
  clear(): void {
    this.#memory?.keys.dispose();
    this.#memory?.values.dispose();
    this.#memory = undefined;
    this.#local.clear();
    this.#filled = 0;
  }

  dispose(): void {
    this.clear();
    this.#local.dispose();
  }
}
