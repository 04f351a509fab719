import {
  boolean,
  Component,
  ConfigError,
  expectTensor,
  expectTensors,
  integer,
  mul,
  number,
  oneOf,
  prefixed,
  schema,
  ShapeError,
  showShape,
  tensor,
  transpose,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { affinePlan } from "./affine.js";
import { gemmaRmsNorm } from "./gemma_rmsnorm.js";
import { layerNorm } from "./layernorm.js";
import { rmsNorm } from "./rmsnorm.js";
import { l2Normalize } from "./scalenorm.js";

const FIELDS = {
  kind: oneOf("The norm.", ["rms", "layer", "gemma", "l2"]),
  scope: oneOf(
    '"head": each head by itself, weight [headDim]; "all": one statistic over all heads of a token, weight ' +
      "[heads headDim].",
    ["head", "all"],
    { default: "head" },
  ),
  eps: number("As in that norm.", { min: 0, defaultDoc: "1e-12 for l2, 1e-6 otherwise" }),
};
const OPTIONS = schema("qkNorm", {
  ...FIELDS,
  weight: tensor("Factor (for gemma the factor - 1); not with l2.", { optional: true }),
  bias: tensor('Shift; kinds "layer" and "rms".', { optional: true }),
  headLayout: oneOf(
    'Order of the axes of x: "bhsd" is [batch, heads, seq, headDim], "bshd" [batch, seq, heads, headDim].',
    ["bhsd", "bshd"],
    { default: "bhsd" },
  ),
});
const QK_NORM = schema("QKNorm", {
  ...FIELDS,
  headDim: integer("Width of a head.", { min: 1 }),
  numHeads: integer("Heads of the queries.", { min: 1 }),
  numKvHeads: integer("Heads of the keys.", { min: 1, defaultDoc: "numHeads" }),
  bias: boolean('A learned shift; kinds "layer" and "rms".', { defaultDoc: 'true for "layer"' }),
  gPerHead: boolean('Kind "l2": a g for each head of the queries in place of one.', { default: false }),
  length: integer("Typical length of a text, from which l2 takes its initial g = log2(length^2 - length).", {
    min: 2,
    default: 1024,
  }),
});
export type QKNormOptions = Config<typeof OPTIONS>;
export type QKNormConfig = Config<typeof QK_NORM>;

/**
 * Normalise queries or keys before their dot product (and before RoPE), which bounds the logits.
 *
 * x [batch, heads, seq, headDim] or, as `headLayout` says, [batch, seq, heads, headDim]; f32 or f16. With "l2" the scores are g (q^ . k^) with a learned g, without 1 / sqrt(headDim).
 * Henry et al. 2020, arXiv:2010.04245 (l2); Dehghani et al. 2023, arXiv:2302.05442; Qwen 3, arXiv:2505.09388.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function qkNorm(x: Tensor, options: QKNormOptions): Tensor {
  const who = OPTIONS.name;
  expectTensor(who, "x", x);
  const { kind, scope, weight, bias, headLayout, eps = kind === "l2" ? 1e-12 : 1e-6 } = OPTIONS.read(options);
  if (bias && kind !== "layer" && kind !== "rms")
    throw new ConfigError(who, `bias is given; only kinds "layer" and "rms" have one`);
  if (weight && kind === "l2") throw new ConfigError(who, `weight is given; "l2" has none`);
  if (x.rank !== 4)
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)}; it must be ${headLayout === "bhsd" ? "[batch, heads, seq, headDim]" : "[batch, seq, heads, headDim]"}`,
    );
  const normalize = (t: Tensor): Tensor => {
    switch (kind) {
      case "rms":
        return rmsNorm(t, { weight, bias, eps });
      case "gemma":
        return gemmaRmsNorm(t, { weight, eps });
      case "layer":
        return layerNorm(t, { weight, bias, eps });
      case "l2":
        return l2Normalize(t, { eps });
    }
  };
  if (scope === "head") return normalize(x);
  const [batch, second, third, headDim] = x.shape as [number, number, number, number];
  // A token's heads side by side; "bshd" has them so.
  return x.gpu.scope(() => {
    if (headLayout === "bshd") return normalize(x.reshape([batch, second, third * headDim])).reshape(x.shape);
    const tokens = normalize(transpose(x, [0, 2, 1, 3]).reshape([batch, third, second * headDim]));
    return transpose(tokens.reshape([batch, third, second, headDim]), [0, 2, 1, 3]);
  });
}

/**
 * `qkNorm` of queries and keys with its parameters: `q_norm.weight` and `k_norm.weight`, initially ones (zeros for
 * "gemma"), with `bias` also `q_norm.bias` and `k_norm.bias`, initially zeros; for "l2" `g` [1] or [numHeads],
 * which multiplies the query, so that attention runs with scale 1.
 */
export class QKNorm extends Component<typeof QK_NORM> {
  static readonly schema = QK_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: QKNormConfig): ParameterPlan {
    const { kind, scope, headDim, numHeads, numKvHeads = numHeads, length, ...rest } = QK_NORM.read(config);
    const { bias = kind === "layer", gPerHead } = rest;
    if (gPerHead && kind !== "l2")
      throw new ConfigError(QK_NORM.name, `gPerHead is true; only kind "l2" has a g`);
    if (bias && kind !== "layer" && kind !== "rms")
      throw new ConfigError(QK_NORM.name, `bias is true; only kinds "layer" and "rms" have one`);
    if (kind === "l2")
      return { g: { shape: [gPerHead ? numHeads : 1], init: Math.log2(length ** 2 - length) } };
    const side = (heads: number): ParameterPlan => {
      const width = scope === "all" ? heads * headDim : headDim;
      return kind === "gemma" ? { weight: zeros(width) } : affinePlan(width, bias);
    };
    return { ...prefixed("q_norm", side(numHeads)), ...prefixed("k_norm", side(numKvHeads)) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: QKNormConfig, parameters: Parameters) {
    super(QK_NORM, config, QKNorm.plan(config), parameters);
  }

  /** The factor of q.k that attention must use: 1 where g multiplies the query, undefined for attention's default. */
  get scale(): number | undefined {
    return this.config.kind === "l2" ? 1 : undefined;
  }

  /**
   * Queries [batch, seq, numHeads, headDim] and keys [batch, seq, numKvHeads, headDim], f32 or f16.
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  forward(q: Tensor, k: Tensor): { q: Tensor; k: Tensor } {
    const { kind, scope, eps } = this.config;
    const of = (name: string, x: Tensor): Tensor =>
      qkNorm(x, {
        kind,
        scope,
        eps,
        headLayout: "bshd",
        weight: this.weights[`${name}.weight`],
        bias: this.weights[`${name}.bias`],
      });
    expectTensors("QKNorm.forward", { q, k });
    return q.gpu.scope(() => {
      const [query, key] = [of("q_norm", q), of("k_norm", k)];
      const { g } = this.weights;
      return { q: g ? mul(query, g.reshape([g.size, 1])) : query, k: key };
    });
  }
}
