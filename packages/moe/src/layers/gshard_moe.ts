import {
  checkConfig,
  ConfigError,
  defineKernel,
  expectBoolean,
  expectNumber,
  expectOneOf,
  expectShape,
  grid1d,
  linear,
  softmax,
  stopGradient,
  topk,
  type Gpu,
  type Kernel,
  type Module,
  type Tensor,
  flatMain,
} from "@x/kernels";
import type { GroupBy } from "../router/choices.js";
import { CAPACITY_KEYS, expertCapacity, type CapacityOptions } from "../router/expert_capacity.js";
import {
  expertParameters,
  initRouted,
  takeRouted,
  type ExpertsConfig,
  type InitOptions,
} from "../experts/expert_parameters.js";
import { expectRouter, expertCount, type Experts } from "../experts/expert_weights.js";
import { mixExperts } from "../experts/experts.js";
import { loadBalanceLoss } from "../losses/load_balance_loss.js";
import { renormalizeWeights } from "../router/router.js";

export interface GShardMoeOptions extends CapacityOptions {
  /** Which second choices are tried; default "all". */
  readonly secondPolicy?: "all" | "none" | "threshold" | "random";
  /** "threshold": weight > it; "random": uniform < weight / it. Default 0.2. */
  readonly secondThreshold?: number;
  /** [batch, seq], uniform in [0, 1): for "random". */
  readonly uniform?: Tensor | undefined;
  /** Capacity counts two choices a token; default true. */
  readonly countChoices?: boolean;
  /** Added to the sum of the two weights; default 1e-9. */
  readonly renormEps?: number;
  /** Default "sequence". */
  readonly groupBy?: GroupBy;
  /** Factor of the balancing loss; default 1. */
  readonly alpha?: number;
}

export interface GShardMoeResult {
  /** In the shape of x. */
  readonly out: Tensor;
  /** i32 [batch, seq, 2]: the two best experts, tried or not. */
  readonly indices: Tensor;
  /** i32 [batch, seq, 2] */
  readonly kept: Tensor;
  /** [batch, seq, 2]: 0 where not kept. */
  readonly weights: Tensor;
  /** [batch, seq, experts] */
  readonly logits: Tensor;
  readonly probs: Tensor;
  /** [1]: `loadBalanceLoss` "switch". */
  readonly auxLoss: Tensor;
}

interface PolicyVariant {
  readonly policy: "none" | "threshold" | "random";
}

/** Choices with the second one taken out where it is not tried. */
const policyKernel: Kernel<PolicyVariant> = defineKernel({
  name: "gshardSecond",
  bindings: (v: PolicyVariant) => ({
    indices: "read i32" as const,
    ...(v.policy === "none" ? {} : { weights: "read f32" as const }),
    ...(v.policy === "random" ? { uniform_: "read f32" as const } : {}),
    out: "write i32" as const,
  }),
  params: { count: "u32", threshold: "f32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.count")}
  let tried = ${
    {
      none: "false",
      threshold: "weights[i] > params.threshold",
      random: "uniform_[i / 2u] < weights[i] / params.threshold",
    }[v.policy]
  };
  out[i] = select(-1, indices[i], i % 2u == 0u || tried);
}`,
});

const GSHARD_KEYS: readonly string[] = [
  ...CAPACITY_KEYS,
  "secondPolicy",
  "secondThreshold",
  "uniform",
  "countChoices",
  "renormEps",
  "groupBy",
  "alpha",
];

/**
 * GShard layer: the two best experts, their softmax probabilities divided by (their sum + renormEps), capacity with all
 * first choices placed before the second ones; second choices may be left untried by `secondPolicy` and then take no
 * slot. What is dropped is not shared out again.
 *
 * x [batch, seq, dim], wRouter [experts, dim]. Lepikhin et al. 2020, arXiv:2006.16668, algorithm 1 (its `2 g2 > u` is
 * "random" with threshold 0.5).
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function gshardMoe(
  x: Tensor,
  wRouter: Tensor,
  experts: Experts,
  options: GShardMoeOptions,
): GShardMoeResult {
  const who = "gshardMoe";
  checkConfig(who, options, GSHARD_KEYS);
  const {
    secondPolicy = "all",
    secondThreshold = 0.2,
    uniform,
    countChoices = true,
    renormEps = 1e-9,
    groupBy = "sequence",
    alpha = 1,
    ...capacity
  } = options;
  expectOneOf(who, "secondPolicy", secondPolicy, ["all", "none", "threshold", "random"]);
  expectNumber(who, "secondThreshold", secondThreshold, 0);
  expectNumber(who, "renormEps", renormEps, 0);
  expectBoolean(who, "countChoices", countChoices);
  const dim = x.shape.at(-1) ?? 0;
  const numExperts = expertCount(who, experts, dim);
  expectRouter(who, x, wRouter, numExperts);
  if (numExperts < 2) throw new ConfigError(who, "there is one expert; the layer needs at least two");
  if (secondPolicy === "random") {
    if (!uniform) throw new ConfigError(who, 'secondPolicy "random" needs uniform [batch, seq]');
    expectShape(who, "uniform", uniform, [...x.shape.slice(0, -1)]);
  }
  const { gpu } = x;
  return gpu.scope(() => {
    const logits = linear(x, wRouter);
    const probs = softmax(logits);
    const best = topk(probs, 2);
    const shares = renormalizeWeights(best.values, renormEps);
    let tried = best.indices;
    if (secondPolicy !== "all") {
      tried = gpu.empty(best.indices.shape, "i32");
      gpu.run(policyKernel, {
        variant: { policy: secondPolicy },
        bindings: {
          indices: best.indices,
          weights: stopGradient(shares),
          uniform_: uniform,
          out: tried,
        },
        params: { count: tried.size, threshold: secondThreshold },
        workgroups: grid1d(Math.ceil(tried.size / 64)),
      });
    }
    const placed = expertCapacity(tried, shares, { ...capacity, numExperts, countChoices, groupBy });
    return {
      out: mixExperts(x, experts, placed.placed, placed.weights),
      indices: best.indices,
      kept: placed.kept,
      weights: placed.weights,
      logits,
      probs,
      auxLoss: loadBalanceLoss(logits, { kind: "switch", alpha, groupBy }).loss,
    };
  });
}

export interface GShardMoeConfig extends ExpertsConfig, GShardMoeOptions {}

/** `gshardMoe` with its parameters: gate.weight, experts stacked. */
export class GShardMoe implements Module {
  readonly options: GShardMoeOptions;
  readonly #router: Tensor;
  readonly #experts: Experts;

  constructor(options: GShardMoeOptions, router: Tensor, experts: Experts) {
    this.options = options;
    this.#router = router;
    this.#experts = experts;
  }

  static init(gpu: Gpu, config: GShardMoeConfig, init: InitOptions): GShardMoe {
    return new GShardMoe(...initRouted("GShardMoe", gpu, config, GSHARD_KEYS, init));
  }

  static fromParameters(
    config: Partial<ExpertsConfig> & GShardMoeOptions,
    parameters: Readonly<Record<string, Tensor>>,
  ): GShardMoe {
    return new GShardMoe(...takeRouted("GShardMoe", config, parameters, "gate.weight"));
  }

  /** `uniform` [batch, seq]: for secondPolicy "random"; without it every second choice is tried (evaluation). */
  forward(x: Tensor, uniform?: Tensor): GShardMoeResult {
    const { options } = this;
    const random = options.secondPolicy === "random";
    return gshardMoe(x, this.#router, this.#experts, {
      ...options,
      ...(random && !uniform ? { secondPolicy: "all" } : {}),
      uniform: random ? uniform : undefined,
    });
  }

  parameters(): Record<string, Tensor> {
    return { "gate.weight": this.#router, ...expertParameters(this.#experts) };
  }
}
