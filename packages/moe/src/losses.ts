import {
  cast,
  checkConfig,
  ConfigError,
  defineKernel,
  div,
  expectInteger,
  expectNumber,
  expectOneOf,
  grid1d,
  logSumExp,
  maximum,
  mul,
  ShapeError,
  showShape,
  softmax,
  square,
  sum,
  topk,
  type Kernel,
  type Tensor,
} from "@x/kernels";

const countKernel: Kernel<undefined> = defineKernel({
  name: "countChoices",
  bindings: { indices: "read i32", mask: "read f32", out: "write f32" },
  params: { groups: "u32", experts: "u32", tokens: "u32", k: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.groups * params.experts) { return; }
  let g = i / params.experts;
  let e = i32(i % params.experts);
  var n = 0.0;
  for (var t = g * params.tokens; t < (g + 1u) * params.tokens; t++) {
    for (var j = 0u; j < params.k; j++) { n += select(0.0, mask[t], indices[t * params.k + j] == e); }
  }
  out[i] = n;
}`,
});

/** Choices of each expert in each group, weighted by the mask: f32 [groups, experts], outside the tape. */
export function countChoices(indices: Tensor, mask: Tensor, groups: number, experts: number): Tensor {
  const k = indices.shape.at(-1)!;
  const out = indices.gpu.empty([groups, experts]);
  indices.gpu.run(countKernel, {
    bindings: { indices, mask, out },
    params: { groups, experts, tokens: indices.size / k / groups, k },
    workgroups: grid1d(Math.ceil((groups * experts) / 64)),
  });
  return out;
}

/** Mask of tokens as f32 [tokens], ones without one. */
export function tokenMask(who: string, logits: Tensor, mask: Tensor | undefined): Tensor {
  const tokens = logits.size / logits.shape.at(-1)!;
  if (!mask) return logits.gpu.full([tokens], 1);
  if (mask.size !== tokens)
    throw new ShapeError(
      who,
      `mask has shape ${showShape(mask.shape)}; it must be ${showShape(logits.shape.slice(0, -1))}`,
    );
  return cast(mask, "f32").reshape([tokens]);
}

/** Number of groups: one of the whole batch, or one for each sequence. */
export function groupCount(who: string, logits: Tensor, groupBy: "batch" | "sequence"): number {
  expectOneOf(who, "groupBy", groupBy, ["batch", "sequence"]);
  if (groupBy === "batch") return 1;
  if (logits.rank < 3)
    throw new ShapeError(
      who,
      `logits have shape ${showShape(logits.shape)}; groups by sequence need [batch, seq, experts]`,
    );
  return logits.shape[0]!;
}

export interface LoadBalanceOptions {
  /** What is counted, and the factor; default "switch". */
  readonly kind?: "switch" | "gshard" | "topk";
  /** Default 1. */
  readonly alpha?: number;
  /** Choices a token, for "topk". */
  readonly topK?: number;
  /** Default "batch". */
  readonly groupBy?: "batch" | "sequence";
  /** i32 [batch, seq]: 0 is padding. */
  readonly mask?: Tensor | undefined;
}

export interface LoadBalanceResult {
  /** [1] */
  readonly loss: Tensor;
  /** f: [groups, experts], no gradient. */
  readonly fraction: Tensor;
  /** P: [groups, experts] */
  readonly meanProb: Tensor;
}

/**
 * Load-balancing loss alpha E sum_e f_e P_e: f the share of choices, P the mean probability of expert e; 1 where both
 * are even ("topk": K). "gshard" divides by E^2.
 *
 * logits [batch, seq, experts]. Fedus et al. 2021, arXiv:2101.03961, equations 4-6; GShard, arXiv:2006.16668,
 * algorithm 1.
 */
export function loadBalanceLoss(logits: Tensor, options: LoadBalanceOptions = {}): LoadBalanceResult {
  const who = "loadBalanceLoss";
  checkConfig(who, options, ["kind", "alpha", "topK", "groupBy", "mask"]);
  const { kind = "switch", alpha = 1, groupBy = "batch", mask } = options;
  expectOneOf(who, "kind", kind, ["switch", "gshard", "topk"]);
  expectNumber(who, "alpha", alpha);
  if (kind === "topk" && options.topK === undefined) throw new ConfigError(who, 'kind "topk" needs topK');
  const k = kind === "topk" ? options.topK! : 1;
  const experts = logits.shape.at(-1)!;
  expectInteger(who, "topK", k, 1, experts);
  const groups = groupCount(who, logits, groupBy);
  const tokens = logits.size / experts / groups;
  return logits.gpu.scope(() => {
    const weight = tokenMask(who, logits, mask);
    const count = maximum(sum(weight.reshape([groups, tokens]), { axes: 1, keepDims: true }), 1);
    const probs = mul(
      softmax(logits).reshape([groups, tokens, experts]),
      weight.reshape([groups, tokens, 1]),
    );
    const meanProb = div(sum(probs, { axes: 1 }), count);
    const fraction = div(countChoices(topk(logits, k).indices, weight, groups, experts), count);
    const factor = (alpha * (kind === "gshard" ? 1 / experts : experts)) / groups;
    return { loss: mul(sum(mul(fraction, meanProb)), factor).reshape([1]), fraction, meanProb };
  });
}

/**
 * Router z-loss: alpha mean over tokens of (log sum_e exp logits)^2, which keeps logits small; [1].
 *
 * Zoph et al. 2022, arXiv:2202.08906, equation 5.
 */
export function routerZLoss(
  logits: Tensor,
  options: { readonly alpha?: number; readonly mask?: Tensor | undefined } = {},
): Tensor {
  checkConfig("routerZLoss", options, ["alpha", "mask"]);
  const { alpha = 1, mask } = options;
  return logits.gpu.scope(() => {
    const weight = tokenMask("routerZLoss", logits, mask);
    const z = square(logSumExp(logits)).reshape([weight.size]);
    return mul(div(sum(mul(z, weight)), maximum(sum(weight), 1)), alpha).reshape([1]);
  });
}
