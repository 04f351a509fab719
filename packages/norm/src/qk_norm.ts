import {
  checkConfig,
  ConfigError,
  expectInteger,
  expectObject,
  expectOneOf,
  mul,
  ShapeError,
  showShape,
  takeParameter,
  transpose,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { layerNorm } from "./layernorm.js";
import { rmsNorm } from "./rmsnorm.js";
import { rmsNormGemma } from "./rmsnorm_gemma.js";
import { l2Normalize } from "./scalenorm.js";

export interface QKNormOptions {
  readonly kind: "rms" | "layer" | "gemma" | "l2";
  /** "head": each head by itself, weight [headDim]; "all": one statistic over the heads of a token, weight [heads headDim]. */
  readonly scope?: "head" | "all";
  /** Default 1e-6; l2 1e-12. */
  readonly eps?: number;
  readonly weight?: Tensor | undefined;
  /** "layer" and "rms". */
  readonly bias?: Tensor | undefined;
}

/**
 * Normalise queries or keys before their dot product (and before RoPE), which bounds the logits.
 *
 * x [batch, heads, seq, headDim]. With "l2" the scores are g (q^ . k^) with a learned g, without 1 / sqrt(headDim).
 * Henry et al. 2020, arXiv:2010.04245 (l2); Dehghani et al. 2023, arXiv:2302.05442; Qwen 3, arXiv:2505.09388.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function qkNorm(x: Tensor, options: QKNormOptions): Tensor {
  const who = "qkNorm";
  checkConfig(who, options, ["kind", "scope", "eps", "weight", "bias"]);
  const { kind, scope = "head", weight, bias } = options;
  expectOneOf(who, "kind", kind, ["rms", "layer", "gemma", "l2"]);
  expectOneOf(who, "scope", scope, ["head", "all"]);
  if (bias && kind !== "layer" && kind !== "rms")
    throw new ConfigError(who, `bias is given; only kinds "layer" and "rms" have one`);
  if (weight && kind === "l2") throw new ConfigError(who, `weight is given; "l2" has none`);
  if (x.rank !== 4)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, heads, seq, headDim]`);
  const eps = options.eps ?? (kind === "l2" ? 1e-12 : 1e-6);
  const normalize = (t: Tensor): Tensor => {
    switch (kind) {
      case "rms":
        return rmsNorm(t, weight, { eps, bias });
      case "gemma":
        return rmsNormGemma(t, weight, { eps });
      case "layer":
        return layerNorm(t, weight, { eps, bias });
      case "l2":
        return l2Normalize(t, { eps });
    }
  };
  if (scope === "head") return normalize(x);
  const [batch, heads, seq, headDim] = x.shape as [number, number, number, number];
  return x.gpu.scope(() => {
    const tokens = normalize(transpose(x, [0, 2, 1, 3]).reshape([batch, seq, heads * headDim]));
    return transpose(tokens.reshape([batch, seq, heads, headDim]), [0, 2, 1, 3]);
  });
}

export interface QKNormConfig {
  readonly kind: QKNormOptions["kind"];
  readonly scope?: "head" | "all";
  readonly eps?: number;
  readonly headDim: number;
  readonly numHeads: number;
  /** Default numHeads. */
  readonly numKvHeads?: number;
}

function check(config: QKNormConfig): void {
  const who = "QKNorm";
  checkConfig(who, config, ["kind", "scope", "eps", "headDim", "numHeads", "numKvHeads"]);
  const { kind, scope = "head", headDim, numHeads, numKvHeads = numHeads } = config;
  expectOneOf(who, "kind", kind, ["rms", "layer", "gemma", "l2"]);
  expectOneOf(who, "scope", scope, ["head", "all"]);
  for (const [name, n] of Object.entries({ headDim, numHeads, numKvHeads })) expectInteger(who, name, n, 1);
}

/**
 * `qkNorm` of queries and keys with its parameters: q_norm.weight and k_norm.weight (and biases: made for "layer", taken for
 * "layer" and "rms"); for
 * "l2" one `g`, which multiplies the query, so that attention runs with scale 1.
 */
export class QKNorm implements Module {
  readonly config: QKNormConfig;
  readonly #parameters: Readonly<Record<string, Tensor>>;

  constructor(config: QKNormConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.config = config;
    this.#parameters = parameters;
  }

  /** Weights of ones (zeros for "gemma"), biases of zeros, g = log2(length^2 - length) for a typical `length`. */
  static init(gpu: Gpu, config: QKNormConfig & { readonly length?: number }): QKNorm {
    const who = "QKNorm";
    expectObject(who, "config", config);
    const { length = 1024, ...own } = config;
    check(own);
    const { kind, scope = "head", headDim, numHeads, numKvHeads = numHeads } = own;
    expectInteger(who, "length", length, 2);
    if (kind === "l2")
      return new QKNorm(own, { g: gpu.keep(gpu.full([1], Math.log2(length ** 2 - length))) });
    const made: Record<string, Tensor> = {};
    for (const [name, heads] of [
      ["q_norm", numHeads],
      ["k_norm", numKvHeads],
    ] as const) {
      const width = scope === "all" ? heads * headDim : headDim;
      made[`${name}.weight`] = gpu.keep(gpu.full([width], kind === "gemma" ? 0 : 1));
      if (kind === "layer") made[`${name}.bias`] = gpu.keep(gpu.zeros([width]));
    }
    return new QKNorm(own, made);
  }

  static fromParameters(config: QKNormConfig, parameters: Readonly<Record<string, Tensor>>): QKNorm {
    check(config);
    for (const name of config.kind === "l2" ? ["g"] : ["q_norm.weight", "k_norm.weight"])
      takeParameter("QKNorm", parameters, name);
    return new QKNorm(config, parameters);
  }

  /** Queries [batch, heads, seq, headDim] and keys [batch, kvHeads, seq, headDim]. */
  forward(q: Tensor, k: Tensor): { q: Tensor; k: Tensor } {
    const { kind, scope, eps } = this.config;
    const of = (name: string, x: Tensor): Tensor =>
      qkNorm(x, {
        kind,
        ...(scope === undefined ? {} : { scope }),
        ...(eps === undefined ? {} : { eps }),
        weight: this.#parameters[`${name}.weight`],
        bias: this.#parameters[`${name}.bias`],
      });
    return q.gpu.scope(() => {
      const [query, key] = [of("q_norm", q), of("k_norm", k)];
      const g = this.#parameters["g"];
      if (!g) return { q: query, k: key };
      return { q: mul(query, g.size === 1 ? g : g.reshape([g.size, 1, 1])), k: key };
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#parameters };
  }
}
