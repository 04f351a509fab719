import {
  checkConfig,
  ConfigError,
  expectOneOf,
  ShapeError,
  showShape,
  transpose,
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
  /** "layer" only. */
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
  if (bias && kind !== "layer") throw new ConfigError(who, `bias is given; only kind "layer" has one`);
  if (weight && kind === "l2") throw new ConfigError(who, `weight is given; "l2" has none`);
  if (x.rank !== 4)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, heads, seq, headDim]`);
  const eps = options.eps ?? (kind === "l2" ? 1e-12 : 1e-6);
  const normalize = (t: Tensor): Tensor => {
    switch (kind) {
      case "rms":
        return rmsNorm(t, weight, { eps });
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
