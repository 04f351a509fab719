import {
  add,
  boolean,
  ConfigError,
  defineKernel,
  e,
  elementwise,
  expectInteger,
  expectShape,
  expectTensors,
  flatMain,
  grid1d,
  integer,
  linear,
  mean,
  mul,
  number,
  schema,
  slice,
  softmax,
  square,
  sum,
  tensor,
  topk,
  variance,
  where,
  type Config,
  type Tensor,
} from "@x/kernels";

const OPTIONS = schema("importanceLoss", {
  topK: integer("Experts of a token.", { min: 1 }),
  wImportance: number("Factor of the loss of the importance.", { default: 1 }),
  wLoad: number("Factor of the loss of the load.", { default: 1 }),
  noiseEps: number("Added to the noise's standard deviation (the paper: 0).", { min: 0, default: 1e-2 }),
  eps: number("Added to the squared mean.", { min: 0, default: 1e-10 }),
  unbiased: boolean("Sample variance instead of the population's.", { default: false }),
  noise: tensor(
    "Standard normal numbers [..., experts]; without them the gates are clean and there is no load.",
    {
      optional: true,
    },
  ),
  wNoise: tensor("[experts, dim]; with `noise`.", { optional: true }),
});
export type ImportanceLossOptions = Config<typeof OPTIONS>;

export interface ImportanceLossResult {
  /** Softmax over the K largest, 0 elsewhere: [..., experts]. */
  readonly gates: Tensor;
  /** Sum of gates: [experts]. */
  readonly importance: Tensor;
  /** [1] */
  readonly importanceLoss: Tensor;
  /** Smooth count of the tokens of each expert: [experts]; with noise. */
  readonly load?: Tensor;
  /** [1] */
  readonly loadLoss?: Tensor;
}

/** 1 where the expert is among the token's choices. */
const chosenKernel = defineKernel({
  name: "chosenExperts",
  bindings: { indices: "read i32", out: "write f32" },
  params: { count: "u32", experts: "u32", k: "u32", stride: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count")}
  var found = 0.0;
  for (var j = 0u; j < params.k; j++) {
    if (indices[i / params.experts * params.stride + j] == i32(i % params.experts)) { found = 1.0; }
  }
  out[i] = found;
}`,
});

function chosen(indices: Tensor, like: Tensor, k: number): Tensor {
  const { gpu } = like;
  const experts = like.shape.at(-1)!;
  const out = gpu.empty(like.shape);
  gpu.run(chosenKernel, {
    bindings: { indices, out },
    params: { count: out.size, experts, k, stride: indices.shape.at(-1)! },
    workgroups: grid1d(Math.ceil(out.size / 64)),
  });
  return out;
}

const deviation = elementwise("noiseDeviation", ["raw", "eps"], (raw, eps) => e.add(e.softplus(raw), eps));
const noisyLogits = elementwise("noisyLogits", ["clean", "noise", "std"], (clean, noise, std) =>
  e.add(clean, e.mul(noise, std)),
);
/** Phi((clean - threshold) / std). */
const chance = elementwise("chanceOfChoice", ["clean", "threshold", "std"], (clean, threshold, std) =>
  e.mul(0.5, e.add(1, e.erf(e.mul(Math.SQRT1_2, e.div(e.sub(clean, threshold), std))))),
);
/** variance / divisor; 0, with a gradient of 0, where the divisor is 0: the mean of numbers >= 0 is 0 where all are. */
const ratio = elementwise("squaredVariation", ["variance", "divisor"], (variance, divisor) =>
  e.select(e.gt(divisor, 0), e.div(variance, e.select(e.gt(divisor, 0), divisor, 1)), 0),
);
/** Far below any logit; its exponential is 0. */
const NEVER = -1e30;

/**
 * Shazeer's two balancing losses. H = x wRouter^T + noise (softplus(x wNoise^T) + noiseEps); gates = softmax over the
 * K largest H. importance_e = sum of gates; load_e = sum over tokens of Phi((clean_e - threshold_e) / std_e), the
 * chance that e stays chosen when its noise is drawn again, threshold_e being the K-th largest of the other H. Each
 * loss is its factor times CV^2 = var / (mean^2 + eps), and 0 where nothing is loaded and eps is 0. Gradients flow through the threshold too.
 *
 * x [..., dim], wRouter [experts, dim]. Shazeer et al. 2017, arXiv:1701.06538, equations 6-11 and appendix A.
 *
 * @throws ShapeError, ConfigError
 */
export function importanceLoss(
  x: Tensor,
  wRouter: Tensor,
  options: ImportanceLossOptions,
): ImportanceLossResult {
  const who = OPTIONS.name;
  expectTensors(who, { x, wRouter });
  const { topK, wImportance, wLoad, noiseEps, eps, unbiased, noise, wNoise } = OPTIONS.read(options);
  const experts = wRouter.shape[0] ?? 0;
  const dim = x.shape.at(-1) ?? 0;
  expectShape(who, "wRouter", wRouter, [experts, dim]);
  expectInteger(who, "topK", topK, 1, experts);
  if (noise) expectShape(who, "noise", noise, [...x.shape.slice(0, -1), experts]);
  if (wNoise) expectShape(who, "wNoise", wNoise, [experts, dim]);
  if ((noise === undefined) !== (wNoise === undefined))
    throw new ConfigError(who, "noise and wNoise must be given together");
  if (noise && topK === experts)
    throw new ConfigError(who, `topK is ${topK} of ${experts} experts; the load needs fewer than all`);
  if (unbiased && experts < 2) throw new ConfigError(who, "unbiased variance needs at least two experts");
  const squaredVariation = (v: Tensor, factor: number): Tensor => {
    const correction = unbiased ? experts / (experts - 1) : 1;
    return mul(ratio(variance(v), add(square(mean(v)), eps)), factor * correction).reshape([1]);
  };
  return x.gpu.scope(() => {
    const clean = linear(x, wRouter).reshape([-1, experts]);
    const rows = clean.shape[0]!;
    const std = noise && wNoise ? deviation(linear(x, wNoise).reshape([rows, experts]), noiseEps) : undefined;
    const H = noise && std ? noisyLogits(clean, noise.reshape([rows, experts]), std) : clean;
    const best = topk(H, std ? topK + 1 : topK);
    const among = chosen(best.indices, H, topK);
    const gates = softmax(where(among, H, NEVER));
    const importance = sum(gates, { axes: 0 });
    const shape = [...x.shape.slice(0, -1), experts];
    const result = {
      gates: gates.reshape(shape),
      importance,
      importanceLoss: squaredVariation(importance, wImportance),
    };
    if (!std) return result;
    const kth = slice(best.values, { axis: -1, start: topK - 1, end: topK });
    const next = slice(best.values, { axis: -1, start: topK, end: topK + 1 });
    const load = sum(chance(clean, where(among, next, kth), std), { axes: 0 });
    return { ...result, load, loadLoss: squaredVariation(load, wLoad) };
  });
}
