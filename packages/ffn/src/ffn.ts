import {
  boolean,
  Component,
  ConfigError,
  integer,
  linear,
  matrix,
  oneOf,
  ones,
  schema,
  tensor,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import {
  activation,
  ACTIVATION_EXPRESSIONS,
  ACTIVATION_KINDS,
  checkBeta,
  type ActivationKind,
} from "./activation.js";
import { NORM_OPTIONS, PARTS, type FeedForwardParts, type InnerNorm } from "./inner_norm.js";
import { BETA, expectOperands, widthOf } from "./operands.js";

const ACTIVATION = oneOf("The activation between the two products.", ACTIVATION_KINDS, { default: "relu" });
const RESIDUAL = { residual: tensor("Added to the result, in its shape.", { optional: true }) };
const WEIGHTS = schema("ffn", {
  w1: tensor("First matrix, [hidden, dim]."),
  w2: tensor("Second matrix, [dim, hidden]."),
  b1: tensor("Bias of the first product, [hidden].", { optional: true }),
  b2: tensor("Bias of the second product, [dim].", { optional: true }),
  beta: BETA,
});
const OPTIONS = schema("ffn", { activation: ACTIVATION, ...RESIDUAL });
const FEED_FORWARD = schema("FeedForward", {
  dim: integer("Width of x.", { min: 1 }),
  hiddenDim: integer("Number of hidden features.", { min: 1, defaultDoc: "4 dim" }),
  activation: ACTIVATION,
  bias: boolean("Biases of both products.", { default: true }),
  beta: oneOf(
    'beta of "swish": "fixed" at 1, or learned from 1, as one number ("scalar") or one for each hidden feature ("channel").',
    ["fixed", "scalar", "channel"],
    { default: "fixed" },
  ),
});
const CALL = schema("FeedForward.forward", { ...RESIDUAL, ...NORM_OPTIONS });
const COEFFICIENTS = schema("FeedForward.coefficients", NORM_OPTIONS);
export type FfnWeights = Config<typeof WEIGHTS>;
export type FfnOptions = Config<typeof OPTIONS>;
export type FeedForwardConfig = Config<typeof FEED_FORWARD>;
export type FeedForwardOptions = Config<typeof CALL>;

/** Fields of the weights of a plain block, for what else reads it. */
export const FFN_WEIGHTS: typeof WEIGHTS.fields = WEIGHTS.fields;

/** Checks the keys of a plain block: x [..., dim], w1, b1 and beta. Returns the number of hidden features. */
export function checkKeys(
  caller: string,
  x: Tensor,
  { w1, b1, beta }: Pick<FfnWeights, "w1" | "b1" | "beta">,
  kind: ActivationKind,
): number {
  const dim = widthOf(caller, x, "w1", w1);
  const { hidden = 0 } = expectOperands(caller, { w1: [w1, ["hidden", dim]], b1: [b1, ["hidden"]] });
  checkBeta(caller, kind, beta, hidden);
  return hidden;
}

/** Checks the operands of a plain block. Returns the number of hidden features and of those of the result. */
export function checkBlock(
  caller: string,
  x: Tensor,
  weights: FfnWeights,
  kind: ActivationKind,
  residual?: Tensor,
): { hidden: number; out: number } {
  const hidden = checkKeys(caller, x, weights, kind);
  const { out = 0 } = expectOperands(caller, {
    w2: [weights.w2, ["out", hidden]],
    b2: [weights.b2, ["out"]],
    residual: [residual, [...x.shape.slice(0, -1), "out"]],
  });
  return { hidden, out };
}

/** act(x w1^T + b1) with the activation in the product's epilogue where it has no beta. */
function hiddenOf(x: Tensor, { w1, b1, beta }: FfnWeights, kind: ActivationKind): Tensor {
  if (kind === "swish") return activation(linear(x, w1, b1), kind, { beta });
  return linear(x, w1, b1, { activation: kind === "identity" ? undefined : ACTIVATION_EXPRESSIONS[kind] });
}

/**
 * The position-wise feed-forward block: out = act(x w1^T + b1) w2^T + b2 (+ residual).
 *
 * x [..., dim], w1 [hidden, dim], w2 [dim, hidden], b1 [hidden], b2 [dim], residual [..., dim]; f32 or f16, the result
 * f16 only where all are. Vaswani et al. 2017, arXiv:1706.03762, equation 2; without biases arXiv:2002.05202,
 * equation 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function ffn(x: Tensor, weights: FfnWeights, options: FfnOptions = {}): Tensor {
  const who = OPTIONS.name;
  const given = WEIGHTS.read(weights);
  const { activation: kind, residual } = OPTIONS.read(options);
  checkBlock(who, x, given, kind, residual);
  return x.gpu.scope(() => linear(hiddenOf(x, given, kind), given.w2, given.b2, { residual }));
}

/**
 * `ffn` with its weights, under GPT-2's names (c_fc, c_proj), stored [out, in]: normal of standard deviation 0.02,
 * biases zero, beta 1. With the part `ffn_layernorm` the hidden features are normalised before the second product:
 * out = norm(act(x W1 + b1)) W2 + b2 (Sub-LN, arXiv:2210.06423; NormFormer, arXiv:2110.09456).
 */
export class FeedForward extends Component<typeof FEED_FORWARD> {
  static readonly schema = FEED_FORWARD;
  readonly #norm: InnerNorm | undefined;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: FeedForwardConfig): ParameterPlan {
    const { dim, hiddenDim = 4 * dim, activation: kind, bias, beta } = FEED_FORWARD.read(config);
    if (beta !== "fixed" && kind !== "swish")
      throw new ConfigError(FEED_FORWARD.name, `beta is "${beta}"; only swish has one, not ${kind}`);
    return {
      "c_fc.weight": matrix(hiddenDim, dim, "value"),
      "c_proj.weight": matrix(dim, hiddenDim, "output"),
      ...(bias ? { "c_fc.bias": zeros(hiddenDim), "c_proj.bias": zeros(dim) } : {}),
      ...(beta === "fixed" ? {} : { beta: ones(beta === "scalar" ? 1 : hiddenDim) }),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: FeedForwardConfig, parameters: Parameters, parts: FeedForwardParts = {}) {
    const { ffn_layernorm } = PARTS.read(parts, FEED_FORWARD.name);
    super(FEED_FORWARD, config, FeedForward.plan(config), parameters, { ffn_layernorm });
    this.#norm = ffn_layernorm;
  }

  get #named(): FfnWeights {
    const { weights } = this;
    return {
      w1: weights["c_fc.weight"]!,
      w2: weights["c_proj.weight"]!,
      b1: weights["c_fc.bias"],
      b2: weights["c_proj.bias"],
      beta: weights["beta"],
    };
  }

  /** x [..., dim], f32 or f16; returns the same shape. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor, options: FeedForwardOptions = {}): Tensor {
    const { residual, normOptions } = CALL.read(options);
    const { w2, b2 } = this.#named;
    checkBlock(CALL.name, x, this.#named, this.config.activation, residual);
    return x.gpu.scope(() => linear(this.#hidden(x, normOptions), w2, b2, { residual }));
  }

  /**
   * What enters the second product, [..., hidden]: the coefficients of its columns, the block being read as a memory.
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  coefficients(x: Tensor, options: Config<typeof COEFFICIENTS> = {}): Tensor {
    const { normOptions } = COEFFICIENTS.read(options);
    checkBlock(COEFFICIENTS.name, x, this.#named, this.config.activation);
    return x.gpu.scope(() => this.#hidden(x, normOptions));
  }

  #hidden(x: Tensor, normOptions?: object): Tensor {
    const hidden = hiddenOf(x, this.#named, this.config.activation);
    return this.#norm ? this.#norm.forward(hidden, normOptions) : hidden;
  }
}
