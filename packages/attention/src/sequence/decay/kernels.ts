import { defineKernel, grid1d, type Gpu, type Kernel, type ParamValue, type Tensor } from "@x/kernels";
import type { AttentionLayout } from "../../engine/options.js";
import { runHeadDecayGradient, type TokenRows } from "./decay_gradient.js";
import { ROWS, tileColumns, tileLanes, type TileLanes } from "../../engine/wgsl/tile.wgsl.js";
import {
  decayedScan,
  decayedStates,
  scanBindings,
  scanParams,
  stateBindings,
  stateParams,
  type DecayedStateVariant,
  type ScanVariant,
} from "./chunk_states.wgsl.js";
import { decayedSteps, stepBindings, stepParams, type StepVariant } from "./recurrent.wgsl.js";
import { MAX_PIECES } from "./rows.wgsl.js";
import { decayedTile, tileBindings, tileParams, type DecayedTileVariant } from "./tile.wgsl.js";

const tileKernel: Kernel<DecayedTileVariant> = defineKernel({
  name: "decayedAttention",
  bindings: tileBindings,
  params: tileParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: decayedTile,
});
const stateKernel: Kernel<DecayedStateVariant> = defineKernel({
  name: "decayedAttentionStates",
  bindings: stateBindings,
  params: stateParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: decayedStates,
});
const scanKernel: Kernel<ScanVariant> = defineKernel({
  name: "decayedAttentionScan",
  bindings: scanBindings,
  params: scanParams,
  wgsl: decayedScan,
});
const stepKernel: Kernel<StepVariant> = defineKernel({
  name: "decayedAttentionSteps",
  bindings: stepBindings,
  params: stepParams,
  wgsl: decayedSteps,
});

/** Heads' features in memory. */
export interface Rows {
  readonly tensor: Tensor;
  readonly dim: number;
  /** Its features are the values', not the keys'. */
  readonly ofValues: boolean;
  /** Steps of batch, head and token, and how many heads share one. */
  readonly stride: readonly number[];
}

export interface DecayedSizes {
  readonly gpu: Gpu;
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  readonly dim: number;
  readonly valueDim: number;
  readonly layout: AttentionLayout;
  /** [batch, heads, tokens] or by layout [batch, tokens, heads]; [heads] for all tokens. */
  readonly logDecay: Tensor;
  /** The state is [batch, heads, valueDim, dim]; else [batch, heads, dim, valueDim]. */
  readonly valuesFirst: boolean;
}

/** The kernels of attention with decay over tensors of given sizes. */
export class DecayedKernels {
  readonly #s: DecayedSizes;
  readonly #lanes: TileLanes;
  readonly #decay: readonly number[];

  constructor(sizes: DecayedSizes) {
    const { gpu, heads, tokens, layout, logDecay } = sizes;
    this.#s = sizes;
    this.#lanes = tileLanes(gpu);
    const [head, token] = layout === "bhsd" ? [tokens, 1] : [1, heads];
    this.#decay = logDecay.rank === 1 ? [0, 1, 0, 1] : [heads * tokens, head, token, 1];
  }

  rows(tensor: Tensor, ofValues: boolean): Rows {
    const { heads, tokens, layout } = this.#s;
    const dim = tensor.shape[3]!;
    const own = tensor.shape[layout === "bhsd" ? 1 : 2]!;
    const [head, token] = layout === "bhsd" ? [tokens * dim, dim] : [dim, own * dim];
    return { tensor, dim, ofValues, stride: [own * tokens * dim, head, token, heads / own] };
  }

  /** A tensor for the features of every head. */
  perHead(width: number): number[] {
    const { batch, heads, tokens, layout } = this.#s;
    return layout === "bhsd" ? [batch, heads, tokens, width] : [batch, tokens, heads, width];
  }

  /** Sums over the tokens of a chunk up to (in reverse: from) each token, and the state's part: see `decayedTile`. */
  tiles(
    x: Rows,
    y: Rows,
    z: Rows,
    chunk: number,
    options: {
      readonly scale: number;
      readonly states?: Tensor | undefined;
      readonly stateScale?: number;
      readonly reverse?: boolean;
      readonly absolute?: boolean;
    },
  ): Tensor {
    const { gpu, batch, heads, tokens, valuesFirst } = this.#s;
    const { scale, states, stateScale = 1, reverse = false, absolute = false } = options;
    const out = gpu.empty(this.perHead(z.dim));
    const { pieces, blocks } = this.#cut(z.dim);
    const contiguous = x.ofValues === valuesFirst;
    gpu.run(tileKernel, {
      variant: {
        ...this.#lanes,
        vecX: x.dim % 4 === 0,
        vecZ: z.dim % 4 === 0,
        pieces,
        reverse,
        absolute,
        state: states ? (contiguous ? "contiguous" : "strided") : "none",
      },
      bindings: { xs: x.tensor, ys: y.tensor, zs: z.tensor, decay: this.#s.logDecay, states, out },
      params: {
        ...this.#walk(chunk),
        x_stride: x.stride,
        y_stride: y.stride,
        z_stride: z.stride,
        out_stride: this.rows(out, z.ofValues).stride,
        dim: x.dim,
        value_dim: z.dim,
        blocks,
        state_row: contiguous ? z.dim : 1,
        state_column: contiguous ? 1 : x.dim,
        scale,
        state_scale: stateScale,
      },
      workgroups: [Math.ceil(tokens / chunk) * Math.ceil(chunk / ROWS) * blocks, heads, batch],
    });
    return out;
  }

  /** The state before each chunk and after all; in reverse after each and before all. */
  states(
    keys: Rows,
    values: Rows,
    chunk: number,
    options: {
      readonly scale: number;
      readonly initial: Tensor | undefined;
      readonly reverse?: boolean;
    },
  ): { each: Tensor; last: Tensor } {
    const { gpu, batch, heads, tokens, valuesFirst } = this.#s;
    const { scale, initial, reverse = false } = options;
    const [x, z] = valuesFirst ? [values, keys] : [keys, values];
    const chunks = Math.ceil(tokens / chunk);
    const { pieces, blocks } = this.#cut(z.dim);
    const each = gpu.empty([batch, heads, chunks, x.dim, z.dim]);
    const gains = gpu.empty([batch, heads, chunks]);
    const last = gpu.empty([batch, heads, x.dim, z.dim]);
    gpu.run(stateKernel, {
      variant: { ...this.#lanes, vecZ: z.dim % 4 === 0, pieces, reverse },
      bindings: { xs: x.tensor, zs: z.tensor, decay: this.#s.logDecay, states: each, gains },
      params: {
        ...this.#walk(chunk),
        x_stride: x.stride,
        z_stride: z.stride,
        dim: x.dim,
        value_dim: z.dim,
        blocks,
        state_row: z.dim,
        scale,
      },
      workgroups: [chunks * Math.ceil(x.dim / ROWS) * blocks, heads, batch],
    });
    gpu.run(scanKernel, {
      variant: { state: initial !== undefined, reverse },
      bindings: { state: initial, gains, states: each, last },
      params: { size: x.dim * z.dim, chunks, count: last.size },
      workgroups: grid1d(Math.ceil(last.size / 64)),
    });
    return { each, last };
  }

  /** Token after token. */
  steps(q: Rows, k: Rows, v: Rows, state: Tensor | undefined, scale: number): { out: Tensor; last: Tensor } {
    const { gpu, batch, heads, dim, valueDim, valuesFirst } = this.#s;
    const out = gpu.empty(this.perHead(valueDim));
    const last = gpu.empty([batch, heads, ...(valuesFirst ? [valueDim, dim] : [dim, valueDim])]);
    const count = batch * heads * valueDim;
    gpu.run(stepKernel, {
      variant: { state: state !== undefined },
      bindings: { q: q.tensor, k: k.tensor, v: v.tensor, decay: this.#s.logDecay, state, out, next: last },
      params: {
        ...this.#walk(1),
        q_stride: q.stride,
        k_stride: k.stride,
        v_stride: v.stride,
        out_stride: this.rows(out, true).stride,
        dim,
        value_dim: valueDim,
        count,
        state_row: valuesFirst ? 1 : valueDim,
        state_column: valuesFirst ? dim : 1,
        scale,
      },
      workgroups: grid1d(Math.ceil(count / 64)),
    });
    return { out, last };
  }

  /**
   * Gradient of the log decays from q, k, v, the output's gradient g and, where they are there, the state before each chunk
   * and the gradient of that after it.
   */
  decayGradient(
    { q, k, v, g }: Readonly<Record<"q" | "k" | "v" | "g", Rows>>,
    chunk: number,
    scale: number,
    states: Tensor | undefined,
    dstates: Tensor | undefined,
  ): Tensor {
    const { gpu, batch, heads, tokens, dim, valueDim, valuesFirst, logDecay } = this.#s;
    const out = gpu.empty(logDecay.shape);
    const decays = (tensor: Tensor): TokenRows => ({ tensor, stride: this.#decay });
    runHeadDecayGradient({
      ...{ x: q, y: g, k, v, decay: decays(logDecay), out: decays(out), states, dstates },
      ...{ batch, heads, tokens, chunk, dim, valueDim, valuesFirst, xScale: 1, kScale: scale },
    });
    return out;
  }

  #walk(chunk: number): Record<string, ParamValue> {
    const { heads, tokens } = this.#s;
    return { decay_stride: this.#decay, heads, tokens, chunk, chunks: Math.ceil(tokens / chunk) };
  }

  /** Pieces of a tile's columns that a workgroup takes, and the workgroups that share a row. */
  #cut(width: number): { pieces: number; blocks: number } {
    const columns = tileColumns(this.#lanes);
    const pieces = Math.min(MAX_PIECES, Math.ceil(width / columns));
    return { pieces, blocks: Math.ceil(width / (pieces * columns)) };
  }
}
