import {
  add,
  checkConfig,
  ConfigError,
  expectFunction,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectTensor,
  mul,
  type Tensor,
} from "@x/kernels";

/** A sublayer or a norm: a map of the stream. */
export type StreamMap = (x: Tensor) => Tensor;

/** Where a block puts its norms. */
export type Placement = "postLn" | "preLn" | "subLn" | "sandwich" | "periLn" | "resPostNorm" | "deepnorm";

/** A sublayer f. With Sub-LN it is given the inner norm, which it applies before its output projection. */
export type Sublayer = (x: Tensor, normInner?: StreamMap) => Tensor;

/** One residual step. */
export interface ResidualStep {
  /** f: attention or a feed-forward block. */
  readonly sublayer: Sublayer;
  /** N: the norm of the sublayer's input, or after the sum. */
  readonly norm: StreamMap;
  /** M: the norm of the sublayer's output (sandwich, Peri-LN). */
  readonly normOut?: StreamMap | undefined;
  /** The norm inside the sublayer (Sub-LN). */
  readonly normInner?: StreamMap | undefined;
  /** DeepNorm's factor of the stream; default 1. */
  readonly alpha?: number | undefined;
  /** Factor of the sublayer's output before it is added to the stream (Granite's residual_multiplier); default 1. */
  readonly branchScale?: number | undefined;
}

/** Check a step's stream and maps; any placement takes the keys of all of them. @throws ConfigError */
function check(who: string, x: Tensor, step: ResidualStep): void {
  expectTensor(who, "x", x);
  checkConfig(who, step, ["sublayer", "norm", "normOut", "normInner", "alpha", "branchScale"]);
  expectFunction(who, "sublayer", step.sublayer);
  expectFunction(who, "norm", step.norm);
  for (const name of ["normOut", "normInner"] as const)
    if (step[name] !== undefined) expectFunction(who, name, step[name]);
  if (step.alpha !== undefined) expectNumber(who, "alpha", step.alpha);
  if (step.branchScale !== undefined) expectNumber(who, "branchScale", step.branchScale);
}

/** The sum of the stream and a branch, which takes its factor. */
const joined = (x: Tensor, branch: Tensor, { branchScale = 1 }: ResidualStep): Tensor =>
  add(x, branchScale === 1 ? branch : mul(branch, branchScale));

/** Vaswani et al. 2017, arXiv:1706.03762: x' = N(x + f(x)). */
export function postLn(x: Tensor, step: ResidualStep): Tensor {
  check("postLn", x, step);
  const { sublayer, norm } = step;
  return x.gpu.scope(() => norm(joined(x, sublayer(x), step)));
}

/** Xiong et al. 2020, arXiv:2002.04745: x' = x + f(N(x)); the stack ends with a final norm. */
export function preLn(x: Tensor, step: ResidualStep): Tensor {
  check("preLn", x, step);
  const { sublayer, norm } = step;
  return x.gpu.scope(() => joined(x, sublayer(norm(x)), step));
}

/**
 * Magneto, Wang et al. 2022, arXiv:2210.06423: x' = x + f(N(x), M): as preLn, with a second norm M inside the sublayer,
 * before its output projection: o_proj(M(heads)) in attention, W2 M(act(W1 x)) in a feed-forward block.
 *
 * @throws ConfigError
 */
export function subLn(x: Tensor, step: ResidualStep): Tensor {
  check("subLn", x, step);
  const { sublayer, norm, normInner } = step;
  if (!normInner)
    throw new ConfigError(
      "subLn",
      "normInner is missing; the sublayer has a norm before its output projection",
    );
  return x.gpu.scope(() => joined(x, sublayer(norm(x), normInner), step));
}

/** CogView, Ding et al. 2021, arXiv:2105.13290 (Gemma 2): x' = x + M(f(N(x))). */
export function sandwich(x: Tensor, step: ResidualStep): Tensor {
  check("sandwich", x, step);
  const { sublayer, norm, normOut } = step;
  if (!normOut)
    throw new ConfigError("sandwich", "normOut is missing; the branch's output has a norm of its own");
  return x.gpu.scope(() => joined(x, normOut(sublayer(norm(x))), step));
}

/** Kim et al. 2025, arXiv:2502.02732: the residual of `sandwich`; the embedding may have a norm, the end has one. */
export const periLn: typeof sandwich = sandwich;

/**
 * Swin V2, Liu et al. 2022, arXiv:2111.09883 (OLMo 2's "reordered norm", arXiv:2501.00656): x' = x + N(f(x)); the
 * stack ends with a final norm.
 */
export function resPostNorm(x: Tensor, step: ResidualStep): Tensor {
  check("resPostNorm", x, step);
  const { sublayer, norm } = step;
  return x.gpu.scope(() => joined(x, norm(sublayer(x)), step));
}

/** Wang et al. 2022, arXiv:2203.00555: x' = N(alpha x + f(x)). */
export function deepnorm(x: Tensor, step: ResidualStep): Tensor {
  check("deepnorm", x, step);
  const { sublayer, norm, alpha = 1 } = step;
  return x.gpu.scope(() => norm(joined(mul(x, alpha), sublayer(x), step)));
}

const PLACEMENTS: Readonly<Record<Placement, (x: Tensor, step: ResidualStep) => Tensor>> = {
  postLn,
  preLn,
  subLn,
  sandwich,
  periLn,
  resPostNorm,
  deepnorm,
};

/** A sublayer beside others, with the norm of its input. */
export interface ParallelBranch {
  readonly sublayer: StreamMap;
  readonly norm: StreamMap;
}

/**
 * GPT-J, Wang and Komatsuzaki 2021 (PaLM, arXiv:2204.02311, section 2): the sublayers of a block side by side,
 * x' = x + sum_i f_i(N_i(x)). Branches with the same norm (one function) share its result, as in GPT-J and Falcon;
 * GPT-NeoX has a norm for each.
 *
 * x [batch, seq, dim], f32 or f16, and a result of the same shape.
 * @throws ConfigError
 */
export function parallelResidual(x: Tensor, branches: readonly ParallelBranch[]): Tensor {
  const who = "parallelResidual";
  expectTensor(who, "x", x);
  const given: unknown = branches;
  if (!Array.isArray(given) || given.length === 0)
    throw new ConfigError(who, "branches must be a list of at least one sublayer with its norm");
  branches.forEach((branch, i) => {
    checkConfig(`${who}: branches[${i}]`, branch, ["sublayer", "norm"]);
    expectFunction(who, `branches[${i}].sublayer`, branch.sublayer);
    expectFunction(who, `branches[${i}].norm`, branch.norm);
  });
  return x.gpu.scope(() => {
    const normed = new Map<StreamMap, Tensor>();
    return branches.reduce((sum, { sublayer, norm }) => {
      const input = normed.get(norm) ?? norm(x);
      normed.set(norm, input);
      return add(sum, sublayer(input));
    }, x);
  });
}

/** The residual step of a placement, by name. @throws ConfigError */
export function placement(name: Placement): (x: Tensor, step: ResidualStep) => Tensor {
  expectOneOf("placement", "placement", name, Object.keys(PLACEMENTS) as Placement[]);
  return PLACEMENTS[name];
}

/** Number of layers on each side; what it means depends on the architecture. */
export interface DepthConfig {
  readonly architecture?: "encoder" | "decoder" | "encoderDecoder";
  /** Which side of an encoder-decoder the block is on. */
  readonly side?: "encoder" | "decoder";
  readonly encoderLayers?: number;
  readonly decoderLayers?: number;
}

function depth(
  who: string,
  config: DepthConfig,
): { side: "encoder" | "decoder"; both: boolean; N: number; M: number } {
  checkConfig(who, config, ["architecture", "side", "encoderLayers", "decoderLayers"]);
  const { architecture = "decoder", side, encoderLayers = 0, decoderLayers = 0 } = config;
  expectOneOf(who, "architecture", architecture, ["encoder", "decoder", "encoderDecoder"]);
  const both = architecture === "encoderDecoder";
  if (both) expectOneOf(who, "side", side, ["encoder", "decoder"]);
  const own = both ? side! : architecture;
  if (own === "encoder" || both) expectInteger(who, "encoderLayers", encoderLayers, 1);
  if (own === "decoder" || both) expectInteger(who, "decoderLayers", decoderLayers, 1);
  return { side: own, both, N: encoderLayers, M: decoderLayers };
}

/** DeepNorm's constants: alpha scales the stream, beta the Xavier gain of v, o, w1 and w2 (arXiv:2203.00555, table 2). */
export function deepnormConstants(config: DepthConfig): { alpha: number; beta: number } {
  const { side, both, N, M } = depth("deepnormConstants", config);
  if (!both) {
    const layers = side === "encoder" ? N : M;
    return { alpha: (2 * layers) ** 0.25, beta: (8 * layers) ** -0.25 };
  }
  if (side === "decoder") return { alpha: (3 * M) ** 0.25, beta: (12 * M) ** -0.25 };
  return { alpha: 0.81 * (N ** 4 * M) ** (1 / 16), beta: 0.87 * (N ** 4 * M) ** (-1 / 16) };
}

/** Sub-LN's Xavier gain of v, o, w1 and w2 (arXiv:2210.06423, section 2.3). */
export function subLnGain(config: DepthConfig): number {
  const { side, both, N, M } = depth("subLnGain", config);
  if (!both) return Math.sqrt(Math.log(2 * (side === "encoder" ? N : M)));
  if (side === "decoder") return Math.sqrt(Math.log(3 * M));
  return Math.sqrt((Math.log(3 * M) * Math.log(2 * N)) / 3);
}
