import {
  checkConfig,
  concat,
  ConfigError,
  div,
  e,
  elementwise,
  exp,
  expectBoolean,
  expectInteger,
  expectOneOf,
  expectShape,
  mul,
  slice,
  sqrt,
  stopGradient,
  sum,
  transpose,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { attentionOutputs } from "../engine/attention.js";
import { gatheredAttention } from "./gathered_attention.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { MemorizingState, newestEntries, type KnnMemory, type MemorizingConfig } from "./memorizing_state.js";
import { mergeAttention, type AttentionPart } from "../engine/merge.js";
import {
  checkParameters,
  initParameters,
  matrix,
  zeros,
  type InitOptions,
  type Plan,
} from "../parameters.js";
import { topkSearch } from "./topk_search.js";

export interface MemorizingOptions {
  readonly memory?: KnnMemory | undefined;
  /**
   * i32 [batch, numHeads, seq, k]: entries of the memory that an index of your own found for `queries`, -1 for none;
   * for a call of one segment. Default: exact search.
   */
  readonly retrieved?: Tensor | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

/** g counts as 0 in a row that retrieved nothing. */
const mixGate = elementwise("memoryGate", ["far", "local", "gate", "lse"], (far, local, gate, lse) => {
  const g = e.select(e.lt(lse, -1e38), 0, e.sigmoid(gate));
  return e.add(e.mul(g, far), e.mul(e.sub(1, g), local));
});
const floor = elementwise("max(x, 1e-24)", ["x"], (x) => e.max(x, 1e-24));

/**
 * Memorizing Transformer's attention: local causal attention, and attention to the topK entries of a memory of past
 * keys and values with the largest q . k. Gate: o = g far + (1 - g) local, g = sigmoid(gate_h), which counts as 0
 * while the memory is empty; joint: one softmax over both. No gradient flows into the memory; after a segment its keys
 * and values are appended.
 *
 * x [batch, seq, dim]. Parameters q_proj, k_proj, v_proj, o_proj (`.weight`), gate [numHeads] ("gate"), log_scale
 * [numHeads] (qkNorm). Wu et al. 2022, arXiv:2203.08913, section 3.
 */
export class MemorizingAttention implements Module {
  readonly config: MemorizingConfig;
  readonly numKvHeads: number;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: MemorizingConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("MemorizingAttention", MemorizingAttention.plan(config), parameters);
    this.config = config;
    this.numKvHeads = config.numKvHeads ?? config.numHeads;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: MemorizingConfig): Plan {
    const who = "MemorizingAttention";
    checkConfig(who, config, [
      "dim",
      "numHeads",
      "numKvHeads",
      "headDim",
      "topK",
      "combine",
      "segmentLen",
      "memorySize",
      "qkNorm",
    ]);
    const {
      dim,
      numHeads,
      numKvHeads = numHeads,
      headDim,
      topK,
      combine,
      segmentLen,
      memorySize = 0,
      qkNorm = false,
    } = config;
    for (const [name, n] of Object.entries({ dim, numHeads, numKvHeads, headDim, topK }))
      expectInteger(who, name, n, 1);
    if (numHeads % numKvHeads !== 0)
      throw new ConfigError(
        who,
        `numHeads is ${numHeads}; it must be a multiple of numKvHeads, ${numKvHeads}`,
      );
    expectOneOf(who, "combine", combine, ["gate", "joint"]);
    if (segmentLen !== undefined) expectInteger(who, "segmentLen", segmentLen, 1);
    expectInteger(who, "memorySize", memorySize, 0);
    expectBoolean(who, "qkNorm", qkNorm);
    return {
      "q_proj.weight": matrix(numHeads * headDim, dim),
      "k_proj.weight": matrix(numKvHeads * headDim, dim),
      "v_proj.weight": matrix(numKvHeads * headDim, dim),
      "o_proj.weight": matrix(dim, numHeads * headDim),
      ...(combine === "gate" ? { gate: zeros(numHeads) } : {}),
      ...(qkNorm ? { log_scale: { shape: [numHeads], init: Math.log(10) } } : {}),
    };
  }

  /** Normal matrices, gates of one half. */
  static init(gpu: Gpu, config: MemorizingConfig, options: InitOptions): MemorizingAttention {
    const plan = MemorizingAttention.plan(config);
    return new MemorizingAttention(config, initParameters("MemorizingAttention", gpu, plan, options));
  }

  /** Bytes of memory that one token takes: 2 numKvHeads headDim numbers, in this layer only. */
  get bytesPerToken(): number {
    return 2 * this.numKvHeads * this.config.headDim * 4;
  }

  /** The queries of x, [batch, numHeads, seq, headDim], to look up in an index of your own. */
  queries(x: Tensor): Tensor {
    return x.gpu.scope(() => this.#heads(x).q);
  }

  /** The rows, and the memory after them. */
  forward(x: Tensor, options: MemorizingOptions = {}): { out: Tensor; memory: KnnMemory } {
    const who = "MemorizingAttention";
    checkConfig(who, options, ["memory", "retrieved", "residual"]);
    const { dim, headDim, numHeads, segmentLen, memorySize = 0 } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    if (seq === 0) throw new ConfigError(who, "x has no tokens; it must have at least one");
    const { memory, retrieved, residual } = options;
    if (memory) {
      const names = { batch, heads: this.numKvHeads };
      expectShape(who, "memory.keys", memory.keys, ["batch", "heads", "entries", headDim], names);
      expectShape(who, "memory.values", memory.values, ["batch", "heads", "entries", headDim], names);
    }
    const length = segmentLen ?? seq;
    if (retrieved) {
      expectShape(who, "retrieved", retrieved, [batch, numHeads, seq, null]);
      if (seq > length)
        throw new ConfigError(who, `retrieved is given for ${seq} tokens; a segment has ${length}`);
    }
    return x.gpu.scope(() => {
      const { q, k, v } = this.#heads(x);
      let [keys, values] = [memory?.keys, memory?.values];
      const outs: Tensor[] = [];
      for (let start = 0; start < seq; start += length) {
        const cut = (t: Tensor): Tensor =>
          length >= seq ? t : slice(t, { axis: 2, start, end: Math.min(seq, start + length) });
        const [qs, ks, vs] = [cut(q), cut(k), cut(v)];
        const local = attentionOutputs(qs, ks, vs, { causal: true, scale: 1 });
        outs.push(this.#combine(qs, local, keys && values ? { keys, values } : undefined, retrieved));
        keys = newestEntries(keys, stopGradient(ks), memorySize);
        values = newestEntries(values, stopGradient(vs), memorySize);
      }
      return {
        out: this.#project(outs.length === 1 ? outs[0]! : concat(outs, 2), residual),
        memory: { keys: keys!, values: values! },
      };
    });
  }

  #project(o: Tensor, residual: Tensor | undefined): Tensor {
    return mergeHeads(transpose(o, [0, 2, 1, 3]), this.#p["o_proj.weight"]!, undefined, residual);
  }

  /** State for decoding token by token, segments of segmentLen. @throws ConfigError without segmentLen */
  createState(
    gpu: Gpu,
    options: { readonly batch: number; readonly memory?: KnnMemory | undefined },
  ): MemorizingState {
    const { segmentLen } = this.config;
    if (segmentLen === undefined)
      throw new ConfigError("MemorizingAttention", "segmentLen is missing; decoding needs it");
    return new MemorizingState(gpu, { ...this.config, segmentLen }, options, {
      heads: (x) => this.#heads(x),
      combine: (q, local, memory) => this.#combine(q, local, memory),
      project: (o, residual) => this.#project(o, residual),
    });
  }

  /** Queries (already scaled), keys and values, [batch, heads, seq, headDim]. */
  #heads(x: Tensor): { q: Tensor; k: Tensor; v: Tensor } {
    const { numHeads, headDim, qkNorm = false } = this.config;
    const cut = (name: string, heads: number): Tensor =>
      transpose(splitHeads(x, heads, this.#p[`${name}.weight`]!), [0, 2, 1, 3]);
    const [q, k, v] = [
      cut("q_proj", numHeads),
      cut("k_proj", this.numKvHeads),
      cut("v_proj", this.numKvHeads),
    ];
    if (!qkNorm) return { q: mul(q, headDim ** -0.5), k, v };
    const scale = exp(this.#p["log_scale"]!).reshape([numHeads, 1, 1]);
    return { q: mul(unit(q), scale), k: unit(k), v };
  }

  /** Heads' outputs [batch, numHeads, n, headDim] of one segment: the local ones, and what the memory adds. */
  #combine(q: Tensor, local: AttentionPart, memory: KnnMemory | undefined, retrieved?: Tensor): Tensor {
    const { combine, numHeads } = this.config;
    if (!memory || memory.keys.shape[2] === 0) return local.out;
    const [keys, values] = [stopGradient(memory.keys), stopGradient(memory.values)];
    const indices = retrieved ?? this.#search(q, keys);
    const far = gatheredAttention(q, keys, values, indices, { scale: 1 });
    if (combine === "joint") return mergeAttention(far, local).out;
    const lse = far.lse.reshape([...far.lse.shape, 1]);
    return mixGate(far.out, local.out, this.#p["gate"]!.reshape([numHeads, 1, 1]), stopGradient(lse));
  }

  /** Query heads of one key head are rows of one search. */
  #search(q: Tensor, keys: Tensor): Tensor {
    const [batch, heads, seq, dim] = q.shape as [number, number, number, number];
    const entries = keys.shape[2]!;
    const groups = batch * this.numKvHeads;
    const queries = stopGradient(q).reshape([groups, (heads / this.numKvHeads) * seq, dim]);
    const { indices } = topkSearch(queries, keys.reshape([groups, entries, dim]), this.config.topK);
    return indices.reshape([batch, heads, seq, indices.shape[2]!]);
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}

/** x / max(|x|, 1e-12) over the last axis. */
function unit(x: Tensor): Tensor {
  return div(x, sqrt(floor(sum(mul(x, x), { axes: -1, keepDims: true }))));
}
