import {
  boolean,
  Component,
  concat,
  ConfigError,
  div,
  e,
  elementwise,
  exp,
  expectShape,
  expectTensor,
  integer,
  matrix,
  mul,
  oneOf,
  schema,
  slice,
  sqrt,
  stopGradient,
  sum,
  Tensor,
  tensor,
  transpose,
  value,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Stateful,
} from "@x/kernels";
import { expectTokens } from "../block/block.js";
import { expectGroups, HEADS_FIELDS, headDimOf, mergeHeads, splitHeads } from "../block/heads.js";
import { STATE_FIELDS } from "../cache/fields.js";
import { attentionOutputs } from "../engine/attention.js";
import { mergeAttention, type AttentionPart } from "../engine/merge.js";
import { gatheredAttention } from "./gathered_attention.js";
import { MemorizingState, newestEntries, type KnnMemory, type MemorizingSteps } from "./memorizing_state.js";
import { topkSearch } from "./topk_search.js";

const MEMORIZING = schema("MemorizingAttention", {
  ...HEADS_FIELDS,
  numKvHeads: integer("Heads of keys and values.", { min: 1, defaultDoc: "numHeads" }),
  topK: integer("Entries retrieved for each query and head.", { min: 1 }),
  combine: oneOf(
    '"gate": sigmoid(gate_h) mixes memory and local context; "joint": one softmax over both.',
    ["gate", "joint"],
    { default: "gate" },
  ),
  segmentLen: integer("Tokens of a segment: entries are retrieved from the segments before.", {
    min: 1,
    defaultDoc: "the whole call",
  }),
  memorySize: integer("Entries that are kept, the newest; 0: all.", { min: 0, default: 0 }),
  qkNorm: boolean("Queries and keys of unit length, with a trained scale exp(log_scale_h).", {
    default: false,
  }),
});
export type MemorizingConfig = Config<typeof MEMORIZING>;

const MEMORY = value(
  "Keys and values [batch, numKvHeads, entries, headDim] of the segments before; no gradient flows into them.",
  "an object with the tensors keys and values",
  (given: unknown): given is KnnMemory =>
    typeof given === "object" &&
    given !== null &&
    Tensor.isInstance(Reflect.get(given, "keys")) &&
    Tensor.isInstance(Reflect.get(given, "values")),
  { optional: true },
);
const OUTPUT_FIELDS = {
  memory: MEMORY,
  retrieved: tensor(
    "i32 [batch, numHeads, seq, k]: entries of the memory that an index of the caller found for `queries`, -1 for none; " +
      "for a call of one segment. Default: exact search.",
    { optional: true },
  ),
  residual: tensor("Added to the output.", { optional: true }),
};
const OUTPUTS = schema("MemorizingAttention.outputs", OUTPUT_FIELDS);
export type MemorizingOutputOptions = Config<typeof OUTPUTS>;

const OPTIONS = schema("MemorizingAttention.forward", {
  ...OUTPUT_FIELDS,
  state: value(
    "Segment and memory so far, to which the call adds; such a call has no gradient.",
    "a MemorizingState",
    (given: unknown): given is MemorizingState => given instanceof MemorizingState,
    { optional: true },
  ),
});
export type MemorizingOptions = Config<typeof OPTIONS>;

const STATE = schema("MemorizingAttention.createState", { batch: STATE_FIELDS.batch, memory: MEMORY });

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
 * x [batch, seq, dim], f32. Parameters q_proj, k_proj, v_proj, o_proj (`.weight`), initially normal; gate [numHeads]
 * ("gate"), initially zeros; log_scale [numHeads] (qkNorm), initially log 10. Wu et al. 2022, arXiv:2203.08913, section 3.
 */
export class MemorizingAttention extends Component<typeof MEMORIZING> implements Stateful<MemorizingState> {
  static readonly schema = MEMORIZING;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly #steps: MemorizingSteps;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: MemorizingConfig, parameters: Parameters) {
    super(MEMORIZING, config, MemorizingAttention.plan(config), parameters);
    this.numKvHeads = this.config.numKvHeads ?? this.config.numHeads;
    this.headDim = headDimOf(MEMORIZING.name, this.config);
    this.#steps = {
      heads: (x) => this.#heads(x),
      combine: (q, local, memory) => this.#combine(q, local, memory),
      project: (o, residual) => this.#project(o, residual),
    };
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: MemorizingConfig): ParameterPlan {
    const { name: who } = MEMORIZING;
    const read = MEMORIZING.read(config);
    const { dim, numHeads, numKvHeads = numHeads, combine, qkNorm } = read;
    const headDim = headDimOf(who, read);
    expectGroups(who, numHeads, numKvHeads);
    return {
      "q_proj.weight": matrix(numHeads * headDim, dim),
      "k_proj.weight": matrix(numKvHeads * headDim, dim),
      "v_proj.weight": matrix(numKvHeads * headDim, dim, "value"),
      "o_proj.weight": matrix(dim, numHeads * headDim, "output"),
      ...(combine === "gate" ? { gate: zeros(numHeads) } : {}),
      ...(qkNorm ? { log_scale: { shape: [numHeads], init: Math.log(10) } } : {}),
    };
  }

  /** The queries of x [batch, seq, dim], [batch, numHeads, seq, headDim], to look up in an index of the caller. @throws ShapeError */
  queries(x: Tensor): Tensor {
    expectShape(MEMORIZING.name, "x", x, ["batch", "seq", this.config.dim]);
    return x.gpu.scope(() => this.#heads(x).q);
  }

  /** x [batch, seq, dim]; returns the same shape. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: MemorizingOptions = {}): Tensor {
    const { name: who } = MEMORIZING;
    expectTensor(who, "x", x);
    const { state, ...given } = OPTIONS.read(options, who);
    if (!state) return x.gpu.scope(() => this.outputs(x, given).out);
    for (const name of ["memory", "retrieved"] as const)
      if (given[name])
        throw new ConfigError(who, `${name} is given; the state holds the memory and searches it`);
    if (!state.isOf(this.#steps))
      throw new ConfigError(who, "the state is of another layer; it must be one that createState made");
    const { seq } = expectShape(who, "x", x, ["batch", "seq", this.config.dim]) as { seq: number };
    expectTokens(who, seq);
    if (given.residual) expectShape(who, "residual", given.residual, x.shape);
    return state.step(x, given.residual);
  }

  /** The output of x [batch, seq, dim], and the memory after it. @throws ConfigError, ShapeError, DTypeError */
  outputs(
    x: Tensor,
    options: MemorizingOutputOptions = {},
  ): { readonly out: Tensor; readonly memory: KnnMemory } {
    const { name: who } = MEMORIZING;
    const { memory, retrieved, residual } = OUTPUTS.read(options, who);
    const { dim, numHeads, segmentLen, memorySize } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    expectTokens(who, seq);
    if (memory) this.#expectMemory(memory, batch);
    if (residual) expectShape(who, "residual", residual, x.shape);
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
    return mergeHeads(transpose(o, [0, 2, 1, 3]), this.weights["o_proj.weight"]!, undefined, residual);
  }

  /** A state for decoding in segments of segmentLen, empty or with a memory. @throws ConfigError without segmentLen, ShapeError */
  createState(options: Config<typeof STATE>): MemorizingState {
    const { batch, memory } = STATE.read(options);
    const { numKvHeads, headDim } = this;
    const { segmentLen, memorySize } = this.config;
    if (segmentLen === undefined)
      throw new ConfigError(MEMORIZING.name, "segmentLen is missing; decoding needs it");
    if (memory) this.#expectMemory(memory, batch);
    const sizes = { numKvHeads, headDim, segmentLen, memorySize };
    return new MemorizingState(this.weights["o_proj.weight"]!.gpu, sizes, { batch, memory }, this.#steps);
  }

  #expectMemory({ keys, values }: KnnMemory, batch: number): void {
    const { name: who } = MEMORIZING;
    const shape = [batch, this.numKvHeads, "entries", this.headDim] as const;
    const names = expectShape(who, "memory.keys", keys, shape);
    expectShape(who, "memory.values", values, shape, names);
  }

  /** Queries (already scaled), keys and values, [batch, heads, seq, headDim]. */
  #heads(x: Tensor): { q: Tensor; k: Tensor; v: Tensor } {
    const { headDim } = this;
    const { numHeads, qkNorm } = this.config;
    const cut = (name: string, heads: number): Tensor =>
      transpose(splitHeads(x, heads, this.weights[`${name}.weight`]!), [0, 2, 1, 3]);
    const [q, k, v] = [
      cut("q_proj", numHeads),
      cut("k_proj", this.numKvHeads),
      cut("v_proj", this.numKvHeads),
    ];
    if (!qkNorm) return { q: mul(q, headDim ** -0.5), k, v };
    const scale = exp(this.weights["log_scale"]!).reshape([numHeads, 1, 1]);
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
    return mixGate(far.out, local.out, this.weights["gate"]!.reshape([numHeads, 1, 1]), stopGradient(lse));
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
}

/** x / max(|x|, 1e-12) over the last axis. */
function unit(x: Tensor): Tensor {
  return div(x, sqrt(floor(sum(mul(x, x), { axes: -1, keepDims: true }))));
}
