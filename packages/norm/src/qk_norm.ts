import {
  add,
  boolean,
  Component,
  ConfigError,
  expectShape,
  expectTensor,
  integer,
  mul,
  number,
  oneOf,
  schema,
  ShapeError,
  showShape,
  tensor,
  transpose,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { gemmaRmsNorm } from "./gemma_rmsnorm.js";
import { layerNorm } from "./layernorm.js";
import { rmsNorm } from "./rmsnorm.js";
import { l2Normalize } from "./scalenorm.js";

const FIELDS = {
  kind: oneOf("The norm.", ["rms", "layer", "gemma", "l2"]),
  scope: oneOf(
    '"head": each head by itself, weight [headDim]; "each": the same, weight [heads, headDim]; "all": one statistic ' +
      "over all heads of a token, weight [heads headDim].",
    ["head", "each", "all"],
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
  numHeads: integer("Heads of x.", { min: 1 }),
  bias: boolean('A learned shift; kinds "layer" and "rms".', { defaultDoc: 'true for "layer"' }),
  g: oneOf(
    'Kind "l2": a learned factor of all heads ("one"), or of each head; the queries\' norm has it.',
    ["none", "one", "head"],
    { default: "none" },
  ),
  length: integer("Typical length of a text, from which g = log2(length^2 - length) starts.", {
    min: 2,
    default: 1024,
  }),
});
export type QKNormOptions = Config<typeof OPTIONS>;
export type QKNormConfig = Config<typeof QK_NORM>;

/**
 * Normalises queries or keys before their dot product (and before RoPE), which bounds the logits.
 *
 * x [batch, heads, seq, headDim] or, as `headLayout` says, [batch, seq, heads, headDim]; f32 or f16. With "l2" the
 * scores are g (q^ . k^) with a learned g, without 1 / sqrt(headDim).
 * Henry et al. 2020, arXiv:2010.04245 (l2); Dehghani et al. 2023, arXiv:2302.05442; Qwen 3, arXiv:2505.09388; OLMo 2,
 * arXiv:2501.00656 ("all").
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
  const normalize = (t: Tensor, affine: Pick<QKNormOptions, "weight" | "bias">): Tensor => {
    switch (kind) {
      case "rms":
        return rmsNorm(t, { ...affine, eps });
      case "gemma":
        return gemmaRmsNorm(t, { weight: affine.weight, eps });
      case "layer":
        return layerNorm(t, { ...affine, eps });
      case "l2":
        return l2Normalize(t, { eps });
    }
  };
  if (scope === "head") return normalize(x, { weight, bias });
  const [batch, second, third, headDim] = x.shape as [number, number, number, number];
  const heads = headLayout === "bshd" ? third : second;
  if (scope === "each") {
    // A row of weights for each head: [heads, 1, headDim] beside [heads, seq, headDim].
    const rows = (name: string, t: Tensor): Tensor => {
      expectShape(who, name, t, [heads, headDim]);
      return headLayout === "bshd" ? t : t.reshape([heads, 1, headDim]);
    };
    const factor = weight && rows("weight", kind === "gemma" ? add(weight, 1) : weight);
    const shift = bias && rows("bias", bias);
    return x.gpu.scope(() => {
      const scaled = factor ? mul(normalize(x, {}), factor) : normalize(x, {});
      return shift ? add(scaled, shift) : scaled;
    });
  }
  // A token's heads side by side; "bshd" has them so.
  return x.gpu.scope(() => {
    const width = heads * headDim;
    if (headLayout === "bshd")
      return normalize(x.reshape([batch, second, width]), { weight, bias }).reshape(x.shape);
    const tokens = transpose(x, [0, 2, 1, 3]).reshape([batch, third, width]);
    const normed = normalize(tokens, { weight, bias });
    return transpose(normed.reshape([batch, third, second, headDim]), [0, 2, 1, 3]);
  });
}

/**
 * `qkNorm` of queries or of keys with its parameters: `weight`, initially ones (zeros for "gemma"), with `bias` also
 * `bias`, initially zeros; for "l2" with `g` the factor `g` [1] or [numHeads], which multiplies x, so that attention
 * runs with scale 1. MultiHeadAttention of @x/attention takes two as its parts `q_norm` and `k_norm`.
 */
export class QKNorm extends Component<typeof QK_NORM> {
  static readonly schema = QK_NORM;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: QKNormConfig): ParameterPlan {
    const { kind, scope, headDim, numHeads, length, g, ...rest } = QK_NORM.read(config);
    const { bias = kind === "layer" } = rest;
    if (g !== "none" && kind !== "l2")
      throw new ConfigError(QK_NORM.name, `g is "${g}"; only kind "l2" has a g`);
    if (bias && kind !== "layer" && kind !== "rms")
      throw new ConfigError(QK_NORM.name, `bias is true; only kinds "layer" and "rms" have one`);
    if (kind === "l2")
      return g === "none"
        ? {}
        : { g: { shape: [g === "head" ? numHeads : 1], init: Math.log2(length ** 2 - length) } };
    const shape = { head: [headDim], each: [numHeads, headDim], all: [numHeads * headDim] }[scope];
    return {
      weight: { shape, init: kind === "gemma" ? 0 : 1 },
      ...(bias ? { bias: { shape, init: 0 } } : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: QKNormConfig, parameters: Parameters) {
    super(QK_NORM, config, QKNorm.plan(config), parameters);
  }

  /** The factor of q.k that attention must use: 1 for "l2", undefined for attention's default. */
  get scale(): number | undefined {
    return this.config.kind === "l2" ? 1 : undefined;
  }

  /**
   * Queries or keys [batch, seq, numHeads, headDim], f32 or f16; returns the same shape.
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  forward(x: Tensor): Tensor {
    const { kind, scope, eps, numHeads, headDim } = this.config;
    const { weight, bias, g } = this.weights;
    expectShape("QKNorm.forward", "x", x, [null, null, numHeads, headDim]);
    return x.gpu.scope(() => {
      const normed = qkNorm(x, { kind, scope, eps, headLayout: "bshd", weight, bias });
      return g ? mul(normed, g.reshape([g.size, 1])) : normed;
    });
  }
}
