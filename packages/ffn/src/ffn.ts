import {
  checkConfig,
  expectInteger,
  expectOneOf,
  linear,
  randomNormal,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import {
  activation,
  ACTIVATION_EXPRESSIONS,
  ACTIVATION_KINDS,
  type ActivationKind,
  type Beta,
} from "./activation.js";

export interface FfnWeights {
  /** [hidden, dim] */
  readonly w1: Tensor;
  /** [dim, hidden] */
  readonly w2: Tensor;
  readonly b1?: Tensor | undefined;
  readonly b2?: Tensor | undefined;
  /** Swish only. */
  readonly beta?: Beta | undefined;
}

/**
 * The position-wise feed-forward block: out = act(x w1^T + b1) w2^T + b2 (+ residual).
 *
 * x [..., dim]. Vaswani et al. 2017, arXiv:1706.03762, equation 2; without biases arXiv:2002.05202, equation 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function ffn(
  x: Tensor,
  weights: FfnWeights,
  options: { readonly activation?: ActivationKind; readonly residual?: Tensor | undefined } = {},
): Tensor {
  checkConfig("ffn", options, ["activation", "residual"]);
  const { w1, w2, b1, b2, beta } = weights;
  const kind = options.activation ?? "relu";
  expectOneOf("ffn", "activation", kind, ACTIVATION_KINDS);
  return x.gpu.scope(() => {
    const hidden =
      kind === "swish" || beta !== undefined
        ? activation(linear(x, w1, b1), kind, { beta })
        : linear(x, w1, b1, { activation: kind === "identity" ? undefined : ACTIVATION_EXPRESSIONS[kind] });
    return linear(hidden, w2, b2, { residual: options.residual });
  });
}

export interface FfnConfig {
  readonly dim: number;
  readonly hiddenDim: number;
  readonly activation?: ActivationKind;
  readonly bias?: boolean;
}

/** How random weights are drawn. */
export interface FfnInit {
  readonly seed: number;
  /** Number of the first random stream; a block takes up to three. Default 0. */
  readonly stream?: number;
  /** Deviation of the weights (default 0.02), and of those that write into the residual stream (default `std`). */
  readonly std?: number;
  readonly outStd?: number;
}

const KEYS = ["dim", "hiddenDim", "activation", "bias"];
export const INIT_KEYS: readonly string[] = ["seed", "stream", "std", "outStd"];

/** `ffn` with its weights, under GPT-2's names (c_fc, c_proj), stored [out, in]. */
export class FeedForward implements Module {
  readonly config: FfnConfig;
  readonly #weights: FfnWeights;

  constructor(config: FfnConfig, weights: FfnWeights) {
    checkConfig("FeedForward", config, KEYS);
    this.config = config;
    this.#weights = weights;
  }

  /** Normal weights of standard deviation `std` (`outStd` for c_proj), zero biases. */
  static init(gpu: Gpu, config: FfnConfig, init: FfnInit): FeedForward {
    checkConfig("FeedForward", config, KEYS);
    checkConfig("FeedForward", init, INIT_KEYS);
    const { seed, stream = 0, std = 0.02, outStd = std } = init;
    expectInteger("FeedForward", "dim", config.dim, 1);
    expectInteger("FeedForward", "hiddenDim", config.hiddenDim, 1);
    const normal = (shape: readonly number[], at: number, deviation: number): Tensor =>
      gpu.keep(randomNormal(gpu, shape, { seed, stream: stream + at, std: deviation }));
    const zeros = (n: number): Tensor | undefined =>
      config.bias === false ? undefined : gpu.keep(gpu.zeros([n]));
    return new FeedForward(config, {
      w1: normal([config.hiddenDim, config.dim], 0, std),
      w2: normal([config.dim, config.hiddenDim], 1, outStd),
      b1: zeros(config.hiddenDim),
      b2: zeros(config.dim),
    });
  }

  static fromParameters(config: FfnConfig, parameters: Readonly<Record<string, Tensor>>): FeedForward {
    const take = (name: string): Tensor => takeParameter("FeedForward", parameters, name);
    return new FeedForward(config, {
      w1: take("c_fc.weight"),
      w2: take("c_proj.weight"),
      b1: parameters["c_fc.bias"],
      b2: parameters["c_proj.bias"],
    });
  }

  forward(x: Tensor): Tensor {
    return ffn(x, this.#weights, { activation: this.config.activation ?? "relu" });
  }

  parameters(): Record<string, Tensor> {
    const { w1, w2, b1, b2 } = this.#weights;
    return {
      "c_fc.weight": w1,
      "c_proj.weight": w2,
      ...(b1 ? { "c_fc.bias": b1 } : {}),
      ...(b2 ? { "c_proj.bias": b2 } : {}),
    };
  }
}
