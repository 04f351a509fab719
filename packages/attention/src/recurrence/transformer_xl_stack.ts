import {
  Component,
  concat,
  ConfigError,
  expectShape,
  expectTensor,
  integer,
  linear,
  matrix,
  ones,
  relu,
  schema,
  slice,
  stack,
  stopGradient,
  subParameters,
  tensor,
  value,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type State,
  type Stateful,
  type Tensor,
} from "@x/kernels";
import { expectTokens, layersOf, layersPlan } from "../block/block.js";
import { plainLayerNorm } from "../block/parts.js";
import type { KVCache } from "../cache/kv_cache.js";
import {
  lastRows,
  TRANSFORMER_XL_FIELDS,
  TRANSFORMER_XL_STATE_FIELDS,
  TransformerXlAttention,
} from "./transformer_xl.js";

const STACK = schema("TransformerXl", {
  ...TRANSFORMER_XL_FIELDS,
  ffnDim: integer("Width inside the feed-forward block.", { min: 1 }),
  layers: integer("Number of layers.", { min: 1 }),
  segmentLen: integer("Tokens of a segment.", { min: 1 }),
  memLen: integer("Hidden states that each layer remembers.", { min: 0 }),
});
export type TransformerXlConfig = Config<typeof STACK>;

/** The rings of all layers: projected keys and values of the memory and the segment so far. */
export class TransformerXlState implements State {
  readonly layers: readonly KVCache[];

  constructor(layers: readonly KVCache[]) {
    this.layers = layers;
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    return this.layers.reduce((sum, cache) => sum + cache.bytes, 0);
  }

  /** 0: rings have a fixed size. */
  get bytesPerToken(): number {
    return 0;
  }

  /** Forgets all tokens. */
  clear(): void {
    for (const cache of this.layers) cache.clear();
  }

  dispose(): void {
    for (const cache of this.layers) cache.dispose();
  }
}

const MEMORY = tensor("[layers, batch, M, dim]: hidden states before x, which an earlier call returned.", {
  optional: true,
});
const OUTPUTS = schema("TransformerXl.outputs", { memory: MEMORY });
export type TransformerXlOutputOptions = Config<typeof OUTPUTS>;
const OPTIONS = schema("TransformerXl.forward", {
  memory: MEMORY,
  state: value(
    "Keys and values of the tokens so far, which the call adds to; for decoding token by token.",
    "a TransformerXlState",
    (given: unknown): given is TransformerXlState => given instanceof TransformerXlState,
    { optional: true },
  ),
});
export type TransformerXlOptions = Config<typeof OPTIONS>;
const STATE = schema("TransformerXl.createState", TRANSFORMER_XL_STATE_FIELDS);

const ATTENTION = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "r_proj.weight", "o_proj.weight"];

/**
 * The stack of Transformer-XL: a segment after the other, each layer remembering the last memLen rows of its own
 * inputs, without gradient. Layer: y = LN1(a + attention(a, memory)), a' = LN2(y + relu(y W1^T + b1) W2^T + b2).
 *
 * x [batch, seq, dim], f32 or f16. Parameters u, v (shared by the layers), layers.<l>.attn.*, attn_norm, ffn.w1, ffn.w2,
 * ffn_norm; matrices, u and v initially normal, biases zeros, norms ones. Dai et al. 2019, arXiv:1901.02860, section 3.
 */
export class TransformerXl extends Component<typeof STACK> implements Stateful<TransformerXlState> {
  static readonly schema = STACK;
  readonly #layers: readonly Layer[];

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: TransformerXlConfig, parameters: Parameters) {
    super(STACK, config, TransformerXl.plan(config), parameters);
    const { dim, numHeads, headDim, clampLen, segmentLen, memLen, layers } = this.config;
    const inner = { dim, numHeads, headDim, clampLen, segmentLen, memLen };
    const { u, v } = this.weights as { u: Tensor; v: Tensor };
    this.#layers = layersOf(this.weights, "layers", layers).map((p) => {
      const own = { ...subParameters(p, "attn"), u, v };
      return { p, attention: this.own(new TransformerXlAttention(inner, own)) };
    });
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: TransformerXlConfig): ParameterPlan {
    const { dim, numHeads, headDim, ffnDim, layers } = STACK.read(config);
    const attention = TransformerXlAttention.plan({ dim, numHeads, headDim });
    return {
      u: attention["u"]!,
      v: attention["v"]!,
      ...layersPlan("layers", layers, {
        ...Object.fromEntries(ATTENTION.map((name) => [`attn.${name}`, attention[name]!])),
        "attn_norm.weight": ones(dim),
        "attn_norm.bias": zeros(dim),
        "ffn.w1.weight": matrix(ffnDim, dim, "value"),
        "ffn.w1.bias": zeros(ffnDim),
        "ffn.w2.weight": matrix(dim, ffnDim, "output"),
        "ffn.w2.bias": zeros(dim),
        "ffn_norm.weight": ones(dim),
        "ffn_norm.bias": zeros(dim),
      }),
    };
  }

  /** An empty state for decoding: a ring of segmentLen + memLen keys and values for each layer. @throws ConfigError */
  createState(options: Config<typeof STATE>): TransformerXlState {
    const sizes = STATE.read(options);
    return new TransformerXlState(this.#layers.map(({ attention }) => attention.createState(sizes)));
  }

  /** x [batch, seq, dim]; returns the same shape and dtype. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: TransformerXlOptions = {}): Tensor {
    const { name: who } = STACK;
    expectTensor(who, "x", x);
    const { memory, state } = OPTIONS.read(options, who);
    if (!state) return x.gpu.scope(() => this.outputs(x, { memory }).out);
    if (memory) throw new ConfigError(who, "memory and state are given; a state holds the memory");
    if (state.layers.length !== this.#layers.length)
      throw new ConfigError(
        who,
        `the state has ${state.layers.length} layers; it must have ${this.#layers.length}`,
      );
    const { seq } = expectShape(who, "x", x, ["batch", "seq", this.config.dim]) as { seq: number };
    expectTokens(who, seq);
    return x.gpu.scope(() =>
      this.#layers.reduce((a, layer, l) => this.#layer(a, layer, { state: state.layers[l] }), x),
    );
  }

  /**
   * Runs x [batch, seq, dim], cut into segments, after the `memory` that an earlier call returned: the rows, and the memory
   * [layers, batch, M, dim] after them, M at most memLen. The call begins a segment, whatever the earlier one ended with.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  outputs(
    x: Tensor,
    options: TransformerXlOutputOptions = {},
  ): { readonly out: Tensor; readonly memory: Tensor } {
    const { name: who } = STACK;
    const { memory } = OUTPUTS.read(options, who);
    const { dim, layers, segmentLen, memLen } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    expectTokens(who, seq);
    if (memory) expectShape(who, "memory", memory, [layers, batch, null, dim]);
    return x.gpu.scope(() => {
      let memories = this.#layers.map((_, l) =>
        memory
          ? slice(memory, { axis: 0, start: l, end: l + 1 }).reshape([batch, memory.shape[2]!, dim])
          : x.gpu.empty([batch, 0, dim]),
      );
      const outs: Tensor[] = [];
      for (let start = 0; start < seq; start += segmentLen) {
        let a = slice(x, { axis: 1, start, end: Math.min(seq, start + segmentLen) });
        memories = this.#layers.map((layer, l) => {
          const before = memories[l]!;
          const input = a;
          a = this.#layer(input, layer, { memory: before });
          return lastRows(before, stopGradient(input), memLen);
        });
        outs.push(a);
      }
      return { out: outs.length === 1 ? outs[0]! : concat(outs, 1), memory: stack(memories) };
    });
  }

  #layer(
    a: Tensor,
    { p, attention }: Layer,
    before: { memory: Tensor } | { state: KVCache | undefined },
  ): Tensor {
    const norm = (z: Tensor, name: string): Tensor =>
      plainLayerNorm(z, p[`${name}.weight`]!, p[`${name}.bias`]!);
    return a.gpu.scope(() => {
      const y = norm(attention.forward(a, { ...before, residual: a }), "attn_norm");
      const inner = relu(linear(y, p["ffn.w1.weight"]!, p["ffn.w1.bias"]));
      return norm(linear(inner, p["ffn.w2.weight"]!, p["ffn.w2.bias"], { residual: y }), "ffn_norm");
    });
  }
}

interface Layer {
  readonly p: Parameters;
  readonly attention: TransformerXlAttention;
}
