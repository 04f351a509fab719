import {
  checkConfig,
  expectInteger,
  expectObject,
  linear,
  randomNormal,
  takeParameter,
  type GluKind,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { INIT_KEYS, type FfnInit } from "./ffn.js";
import { glu, type GluWeights } from "./glu.js";

export interface GluFfnWeights extends GluWeights {
  /** [dim, hidden] */
  readonly wDown: Tensor;
  readonly bDown?: Tensor | undefined;
}

/**
 * The gated feed-forward block: out = glu(x) wDown^T + bDown. SwiGLU without biases is that of Llama, Mistral and
 * Qwen.
 *
 * x [..., dim]. Shazeer 2020, arXiv:2002.05202, equation 6.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function gluFfn(
  x: Tensor,
  weights: GluFfnWeights,
  options: { readonly kind?: GluKind; readonly residual?: Tensor | undefined } = {},
): Tensor {
  checkConfig("gluFfn", options, ["kind", "residual"]);
  const { kind = "swiglu", residual } = options;
  return x.gpu.scope(() => linear(glu(x, weights, { kind }), weights.wDown, weights.bDown, { residual }));
}

export interface GluFfnConfig {
  readonly dim: number;
  readonly hiddenDim: number;
  /** Default "swiglu". */
  readonly kind?: GluKind;
}

/** `gluFfn` with its weights under Llama's names: gate_proj, up_proj, down_proj. */
export class GatedFeedForward implements Module {
  readonly kind: GluKind;
  readonly #weights: GluFfnWeights;

  constructor(config: { readonly kind?: GluKind }, weights: GluFfnWeights) {
    expectObject("GatedFeedForward", "config", config);
    expectObject("GatedFeedForward", "weights", weights);
    this.kind = config.kind ?? "swiglu";
    this.#weights = weights;
  }

  /** Normal weights of standard deviation `std` (`outStd` for down_proj). */
  static init(gpu: Gpu, config: GluFfnConfig, init: FfnInit): GatedFeedForward {
    checkConfig("GatedFeedForward", config, ["dim", "hiddenDim", "kind"]);
    checkConfig("GatedFeedForward", init, INIT_KEYS);
    const { seed, stream = 0, std = 0.02, outStd = std } = init;
    expectInteger("GatedFeedForward", "dim", config.dim, 1);
    expectInteger("GatedFeedForward", "hiddenDim", config.hiddenDim, 1);
    const normal = (shape: readonly number[], at: number, deviation: number): Tensor =>
      gpu.keep(randomNormal(gpu, shape, { seed, stream: stream + at, std: deviation }));
    return new GatedFeedForward(config, {
      wGate: normal([config.hiddenDim, config.dim], 0, std),
      wUp: normal([config.hiddenDim, config.dim], 1, std),
      wDown: normal([config.dim, config.hiddenDim], 2, outStd),
    });
  }

  static fromParameters(
    config: { readonly kind?: GluKind },
    parameters: Readonly<Record<string, Tensor>>,
  ): GatedFeedForward {
    const take = (name: string): Tensor => takeParameter("GatedFeedForward", parameters, name);
    return new GatedFeedForward(config, {
      wGate: take("gate_proj.weight"),
      wUp: take("up_proj.weight"),
      wDown: take("down_proj.weight"),
      bGate: parameters["gate_proj.bias"],
      bUp: parameters["up_proj.bias"],
      bDown: parameters["down_proj.bias"],
    });
  }

  forward(x: Tensor, options: { readonly residual?: Tensor | undefined } = {}): Tensor {
    return gluFfn(x, this.#weights, { kind: this.kind, residual: options.residual });
  }

  parameters(): Record<string, Tensor> {
    const { wGate, wUp, wDown, bGate, bUp, bDown } = this.#weights;
    return {
      "gate_proj.weight": wGate,
      "up_proj.weight": wUp,
      "down_proj.weight": wDown,
      ...(bGate ? { "gate_proj.bias": bGate } : {}),
      ...(bUp ? { "up_proj.bias": bUp } : {}),
      ...(bDown ? { "down_proj.bias": bDown } : {}),
    };
  }
}
