import {
  boolean,
  Component,
  ConfigError,
  defineKernel,
  expectShape,
  expectTensor,
  grid1d,
  linear,
  number,
  oneOf,
  schema,
  softmax,
  stopGradient,
  tensor,
  topk,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
  flatMain,
} from "@x/kernels";
import { EXPERT_FIELDS, expertsOf, expertsPlan, routerPlan } from "../experts/expert_parameters.js";
import { expectRouted, type Experts } from "../experts/expert_weights.js";
import { expertKeys } from "../experts/expert_keys.js";
import { mixExperts } from "../experts/experts.js";
import { loadBalanceLoss } from "../losses/load_balance_loss.js";
import { groupByField } from "../router/choices.js";
import {
  CAPACITY_FIELDS,
  expertCapacity,
  LAYER_CAPACITY_FIELDS,
  layerCapacity,
} from "../router/expert_capacity.js";
import { renormalizeWeights } from "../router/router.js";

const FIELDS = {
  secondPolicy: oneOf(
    'Which second choices are tried: "threshold", those of a weight above secondThreshold; "random", those with ' +
      "uniform below weight / secondThreshold.",
    ["all", "none", "threshold", "random"],
    { default: "all" },
  ),
  secondThreshold: number("Of secondPolicy.", { min: 0, default: 0.2 }),
  countChoices: boolean("The capacity counts two choices a token.", { default: true }),
  renormEps: number("Added to the sum of the two weights.", { min: 0, default: 1e-9 }),
  alpha: number("Factor of the balancing loss.", { default: 1 }),
};
const UNIFORM = tensor('[batch, seq], uniform in [0, 1): for secondPolicy "random".', { optional: true });
const OPTIONS = schema("gshardMoe", {
  ...FIELDS,
  ...CAPACITY_FIELDS,
  groupBy: groupByField("sequence"),
  uniform: UNIFORM,
});
const GSHARD_MOE = schema("GShardMoe", { ...EXPERT_FIELDS, ...LAYER_CAPACITY_FIELDS, ...FIELDS });
const CALL = schema("GShardMoe.forward", {
  training: boolean(
    'Experts have the capacity of the configuration, and secondPolicy "random" draws; otherwise no choice is ' +
      "dropped, and it tries every second one.",
    { default: false },
  ),
  uniform: UNIFORM,
});
export type GShardMoeOptions = Config<typeof OPTIONS>;
export type GShardMoeConfig = Config<typeof GSHARD_MOE>;
export type GShardMoeForwardOptions = Config<typeof CALL>;

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
const policyKernel = defineKernel({
  name: "gshardSecond",
  bindings: (v: PolicyVariant) => ({
    indices: "read i32",
    ...(v.policy === "none" ? {} : { weights: "read f32" }),
    ...(v.policy === "random" ? { uniform_: "read f32" } : {}),
    out: "write i32",
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
  const who = OPTIONS.name;
  const numExperts = expectRouted(who, x, wRouter, experts);
  const { secondPolicy, secondThreshold, uniform, countChoices, renormEps, groupBy, alpha, ...capacity } =
    OPTIONS.read(options);
  if (numExperts < 2) throw new ConfigError(who, "there is one expert; the layer needs at least two");
  if (secondPolicy === "random") {
    if (!uniform) throw new ConfigError(who, 'secondPolicy "random" needs uniform [batch, seq]');
    expectShape(who, "uniform", uniform, x.shape.slice(0, -1));
  } else if (uniform)
    throw new ConfigError(who, `uniform is given; only secondPolicy "random" has one, not "${secondPolicy}"`);
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

/** `gshardMoe` with its parameters: stacked experts and gate.weight. */
export class GShardMoe extends Component<typeof GSHARD_MOE> {
  static readonly schema = GSHARD_MOE;

  /** Name, shape and initial distribution of every parameter. @throws ConfigError */
  static plan(config: GShardMoeConfig): ParameterPlan {
    const read = GSHARD_MOE.read(config);
    if (read.numExperts < 2)
      throw new ConfigError(GSHARD_MOE.name, "numExperts is 1; the layer needs at least two");
    return { ...expertsPlan(GSHARD_MOE.name, read), "gate.weight": routerPlan(read) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GShardMoeConfig, parameters: Parameters) {
    super(GSHARD_MOE, config, GShardMoe.plan(config), parameters);
  }

  /** The stacked experts. */
  get experts(): Experts {
    return expertsOf(this.config, this.weights);
  }

  /** x [batch, seq, dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor, options: GShardMoeForwardOptions = {}): Tensor {
    expectTensor(CALL.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /** `forward` with what the router chose and the loss. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor, options: GShardMoeForwardOptions = {}): GShardMoeResult {
    expectTensor(CALL.name, "x", x);
    const { training, uniform } = CALL.read(options);
    const { secondPolicy, secondThreshold, countChoices, renormEps, groupBy, alpha, dim } = this.config;
    const shared = { secondThreshold, countChoices, renormEps, alpha };
    return gshardMoe(
      x,
      this.weights["gate.weight"]!,
      this.experts,
      training
        ? { ...shared, ...layerCapacity(this.config), secondPolicy, uniform }
        : {
            ...shared,
            groupBy,
            capacity: x.size / dim,
            secondPolicy: secondPolicy === "random" ? "all" : secondPolicy,
          },
    );
  }

  /** `expertKeys` of what the router chooses outside training, [..., experts * hiddenDim]. @throws ShapeError, DTypeError, ConfigError */
  coefficients(x: Tensor): Tensor {
    expectTensor(`${GSHARD_MOE.name}.coefficients`, "x", x);
    return x.gpu.scope(() => {
      const { indices, weights } = this.outputs(x);
      return expertKeys(x, this.experts, indices, weights);
    });
  }
}
