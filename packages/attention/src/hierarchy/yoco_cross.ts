import {
  Component,
  expectShape,
  expectTensor,
  integer,
  matrix,
  number,
  ones,
  schema,
  Tensor,
  tensor,
  value,
  type Config,
  type ParameterPlan,
  type Parameters,
} from "@x/kernels";
import { expectGroups, HEADS_FIELDS, headDimOf, mergeHeads, splitHeads } from "../block/heads.js";
import { checkParts, plainRmsNorm, type Parts, type RmsNorm } from "../block/parts.js";
import { attention } from "../engine/attention.js";
import type { AttentionPositions } from "../engine/options.js";

const isTurn = (given: unknown): given is (rows: Tensor) => Tensor => typeof given === "function";
const TURN = value(
  "Rotation by position of queries or keys [batch, seq, heads, headDim]; default: none.",
  "a function",
  isTurn,
  { optional: true },
);

const KEY_VALUES = schema("YocoKeyValues", {
  dim: integer("Width of x.", { min: 1 }),
  numKvHeads: integer("Heads of keys and values.", { min: 1 }),
  headDim: integer("Features of a head.", { min: 1 }),
  normEps: number("Added to the mean square in the norm.", { min: 0, default: 1e-6 }),
});
export type YocoKeyValuesConfig = Config<typeof KEY_VALUES>;

const KEY_VALUES_OPTIONS = schema("YocoKeyValues.outputs", { turn: TURN });
export type YocoKeyValuesOptions = Config<typeof KEY_VALUES_OPTIONS>;

/**
 * The keys and values that all upper layers of YOCO share: g = RMSNorm(h), K = turn(split(g Wk^T)), V = split(g Wv^T).
 *
 * h [batch, seq, dim], f32 or f16. Parameters kv_layer_norm [dim], initially ones; k_proj and v_proj
 * [numKvHeads headDim, dim], initially normal (each `.weight`). Sun et al. 2024, arXiv:2405.05254, section 2.2.
 */
export class YocoKeyValues extends Component<typeof KEY_VALUES> {
  static readonly schema = KEY_VALUES;
  readonly #rmsNorm: RmsNorm;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: YocoKeyValuesConfig, parameters: Parameters, parts: Pick<Parts, "rmsNorm"> = {}) {
    super(KEY_VALUES, config, YocoKeyValues.plan(config), parameters);
    checkParts(KEY_VALUES.name, parts);
    this.#rmsNorm = parts.rmsNorm ?? plainRmsNorm;
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: YocoKeyValuesConfig): ParameterPlan {
    const { dim, numKvHeads, headDim } = KEY_VALUES.read(config);
    return {
      "kv_layer_norm.weight": ones(dim),
      "k_proj.weight": matrix(numKvHeads * headDim, dim),
      "v_proj.weight": matrix(numKvHeads * headDim, dim, "value"),
    };
  }

  /**
   * Returns keys and values [batch, seq, numKvHeads, headDim] of h [batch, seq, dim].
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  outputs(h: Tensor, options: YocoKeyValuesOptions = {}): { readonly keys: Tensor; readonly values: Tensor } {
    const { name: who } = KEY_VALUES;
    const { turn } = KEY_VALUES_OPTIONS.read(options, who);
    const { dim, numKvHeads, normEps: eps } = this.config;
    expectShape(who, "h", h, ["batch", "seq", dim]);
    const p = this.weights;
    return h.gpu.scope(() => {
      const g = this.#rmsNorm(h, { weight: p["kv_layer_norm.weight"]!, eps });
      const keys = splitHeads(g, numKvHeads, p["k_proj.weight"]!);
      return { keys: turn?.(keys) ?? keys, values: splitHeads(g, numKvHeads, p["v_proj.weight"]!) };
    });
  }
}

const CROSS = schema("YocoCrossAttention", {
  ...HEADS_FIELDS,
  numKvHeads: integer("Heads of the shared keys and values.", { min: 1, defaultDoc: "numHeads" }),
});
export type YocoCrossAttentionConfig = Config<typeof CROSS>;

const CROSS_OPTIONS = schema("YocoCrossAttention.forward", {
  keys: tensor("[batch, keys, numKvHeads, headDim], which `YocoKeyValues` made."),
  values: tensor("[batch, keys, numKvHeads, headDim]."),
  positions: value(
    "Positions of queries and keys, where the keys lie in a cache; default: the queries are the last tokens of the keys'.",
    "positions of queries and keys, as KVCache.append returns them",
    (given: unknown): given is AttentionPositions =>
      typeof given === "object" && given !== null && Tensor.isInstance(Reflect.get(given, "query")),
    { optional: true },
  ),
  turn: TURN,
  residual: tensor("Added to the output.", { optional: true }),
});
export type YocoCrossAttentionOptions = Config<typeof CROSS_OPTIONS>;

/**
 * An upper layer's attention in YOCO, which has queries only: out = merge(softmax_causal(turn(q) K^T / sqrt(headDim)) V)
 * Wo^T, q = split(x Wq^T), with the keys K and values V that `YocoKeyValues` made once for all layers.
 *
 * x [batch, seq, dim], f32 or f16. Parameters q_proj [numHeads headDim, dim] and o_proj [dim, numHeads headDim] (`.weight`),
 * initially normal. Sun et al. 2024, arXiv:2405.05254, section 2.2.
 */
export class YocoCrossAttention extends Component<typeof CROSS> {
  static readonly schema = CROSS;
  readonly numKvHeads: number;
  readonly headDim: number;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: YocoCrossAttentionConfig, parameters: Parameters) {
    super(CROSS, config, YocoCrossAttention.plan(config), parameters);
    this.numKvHeads = this.config.numKvHeads ?? this.config.numHeads;
    this.headDim = headDimOf(CROSS.name, this.config);
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: YocoCrossAttentionConfig): ParameterPlan {
    const read = CROSS.read(config);
    const { dim, numHeads, numKvHeads = numHeads } = read;
    expectGroups(CROSS.name, numHeads, numKvHeads);
    const inner = numHeads * headDimOf(CROSS.name, read);
    return { "q_proj.weight": matrix(inner, dim), "o_proj.weight": matrix(dim, inner, "output") };
  }

  /** x [batch, seq, dim]; returns the same shape and dtype. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: YocoCrossAttentionOptions): Tensor {
    const { name: who } = CROSS;
    expectTensor(who, "x", x);
    const { keys, values, positions, turn, residual } = CROSS_OPTIONS.read(options, who);
    const { dim, numHeads } = this.config;
    const names = expectShape(who, "x", x, ["batch", "seq", dim]);
    const shape = ["batch", "keys", this.numKvHeads, this.headDim] as const;
    expectShape(who, "keys", keys, shape, names);
    expectShape(who, "values", values, shape, names);
    if (residual) expectShape(who, "residual", residual, x.shape);
    const p = this.weights;
    return x.gpu.scope(() => {
      const q = splitHeads(x, numHeads, p["q_proj.weight"]!);
      const o = attention(turn?.(q) ?? q, keys, values, {
        causal: true,
        layout: "bshd",
        ...(positions ? { positions } : {}),
      });
      return mergeHeads(o, p["o_proj.weight"]!, undefined, residual);
    });
  }
}
