import {
  boolean,
  Component,
  GATED_UNIT_FIELDS,
  gatedUnit,
  integer,
  linear,
  matrix,
  oneOf,
  schema,
  tensor,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkGlu, GATE_FIELDS, GLU_FIELDS, GLU_KINDS, gluUnit } from "./glu.js";
import { gluHiddenDim } from "./glu_hidden_dim.js";
import { NORM_OPTIONS, PARTS, type FeedForwardParts, type InnerNorm } from "./inner_norm.js";
import { expectOperands } from "./operands.js";

const KIND = oneOf("The gate's activation.", GLU_KINDS, { default: "swiglu" });
const RESIDUAL = { residual: tensor("Added to the result, in its shape.", { optional: true }) };
const WEIGHTS = schema("gluFfn", {
  ...GLU_FIELDS,
  wDown: tensor("Matrix of the way back, [dim, hidden]."),
  bDown: tensor("Its bias, [dim].", { optional: true }),
});
const OPTIONS = schema("gluFfn", { kind: KIND, ...GATE_FIELDS, ...RESIDUAL });
const GATED_FEED_FORWARD = schema("GatedFeedForward", {
  dim: integer("Width of x.", { min: 1 }),
  hiddenDim: integer("Number of hidden features.", { min: 1, defaultDoc: "gluHiddenDim(dim)" }),
  kind: KIND,
  ...GATED_UNIT_FIELDS,
  bias: boolean("Biases of all three products.", { default: false }),
});
const CALL = schema("GatedFeedForward.forward", { ...RESIDUAL, ...NORM_OPTIONS });
const COEFFICIENTS = schema("GatedFeedForward.coefficients", NORM_OPTIONS);
export type GluFfnWeights = Config<typeof WEIGHTS>;
export type GluFfnOptions = Config<typeof OPTIONS>;
export type GatedFeedForwardConfig = Config<typeof GATED_FEED_FORWARD>;
export type GatedFeedForwardOptions = Config<typeof CALL>;

/** Checks the operands of a gated block. */
function checkBlock(
  caller: string,
  x: Tensor,
  { wDown, bDown, ...unit }: GluFfnWeights,
  kind: (typeof GLU_KINDS)[number],
  residual?: Tensor,
): void {
  const hidden = checkGlu(caller, x, unit, kind);
  expectOperands(caller, {
    wDown: [wDown, ["out", hidden]],
    bDown: [bDown, ["out"]],
    residual: [residual, [...x.shape.slice(0, -1), "out"]],
  });
}

/**
 * The gated feed-forward block: out = glu(x) wDown^T + bDown (+ residual). SwiGLU without biases is that of Llama,
 * Mistral and Qwen; with biases, beta 1.702, limit 7 and upOffset 1 it is an expert of gpt-oss (clamped SwiGLU).
 *
 * x [..., dim], wGate and wUp [hidden, dim], wDown [dim, hidden], bGate and bUp [hidden], bDown [dim], residual
 * [..., dim]; f32 or f16. Shazeer 2020, arXiv:2002.05202, equation 6.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function gluFfn(x: Tensor, weights: GluFfnWeights, options: GluFfnOptions = {}): Tensor {
  const who = OPTIONS.name;
  const given = WEIGHTS.read(weights);
  const { kind, residual, ...numbers } = OPTIONS.read(options);
  checkBlock(who, x, given, kind, residual);
  return x.gpu.scope(() => linear(gluUnit(x, given, kind, numbers), given.wDown, given.bDown, { residual }));
}

/**
 * `gluFfn` with its weights under Llama's names: gate_proj, up_proj, down_proj, normal of standard deviation 0.02, with
 * `bias` their biases, zero. With the part `ffn_layernorm` the hidden features are normalised before the last product
 * (Sub-LN, arXiv:2210.06423).
 */
export class GatedFeedForward extends Component<typeof GATED_FEED_FORWARD> {
  static readonly schema = GATED_FEED_FORWARD;
  readonly #norm: InnerNorm | undefined;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: GatedFeedForwardConfig): ParameterPlan {
    const { dim, hiddenDim = gluHiddenDim(dim), bias, kind, ...numbers } = GATED_FEED_FORWARD.read(config);
    gatedUnit(GATED_FEED_FORWARD.name, kind, numbers);
    return {
      "gate_proj.weight": matrix(hiddenDim, dim, "value"),
      "up_proj.weight": matrix(hiddenDim, dim, "value"),
      "down_proj.weight": matrix(dim, hiddenDim, "output"),
      ...(bias
        ? {
            "gate_proj.bias": zeros(hiddenDim),
            "up_proj.bias": zeros(hiddenDim),
            "down_proj.bias": zeros(dim),
          }
        : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GatedFeedForwardConfig, parameters: Parameters, parts: FeedForwardParts = {}) {
    const { ffn_layernorm } = PARTS.read(parts, GATED_FEED_FORWARD.name);
    super(GATED_FEED_FORWARD, config, GatedFeedForward.plan(config), parameters, { ffn_layernorm });
    this.#norm = ffn_layernorm;
  }

  get #named(): GluFfnWeights {
    const { weights } = this;
    return {
      wGate: weights["gate_proj.weight"]!,
      wUp: weights["up_proj.weight"]!,
      wDown: weights["down_proj.weight"]!,
      bGate: weights["gate_proj.bias"],
      bUp: weights["up_proj.bias"],
      bDown: weights["down_proj.bias"],
      beta: this.config.beta === 1 ? undefined : this.config.beta,
    };
  }

  /** x [..., dim], f32 or f16; returns the same shape. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor, options: GatedFeedForwardOptions = {}): Tensor {
    const { residual, normOptions } = CALL.read(options);
    const { wDown, bDown } = this.#named;
    checkBlock(CALL.name, x, this.#named, this.config.kind, residual);
    return x.gpu.scope(() => linear(this.#hidden(x, normOptions), wDown, bDown, { residual }));
  }

  /**
   * What enters the last product, [..., hidden]: the coefficients of its columns, the block being read as a memory.
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  coefficients(x: Tensor, options: Config<typeof COEFFICIENTS> = {}): Tensor {
    const { normOptions } = COEFFICIENTS.read(options);
    checkBlock(COEFFICIENTS.name, x, this.#named, this.config.kind);
    return x.gpu.scope(() => this.#hidden(x, normOptions));
  }

  #hidden(x: Tensor, normOptions?: object): Tensor {
    const hidden = gluUnit(x, this.#named, this.config.kind, this.config);
    return this.#norm ? this.#norm.forward(hidden, normOptions) : hidden;
  }
}
