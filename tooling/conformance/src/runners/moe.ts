import { ConfigError, type Tensor } from "@x/kernels";
import {
  auxFreeBias,
  deepseekBalanceLoss,
  deepseekMoe,
  deepseekRouter,
  expertCapacity,
  expertChoice,
  gshardMoe,
  importanceLoss,
  loadBalanceLoss,
  mixtralMoe,
  peer,
  productKeyTopk,
  router,
  routerZLoss,
  routingStats,
  switchMoe,
  zeroComputationMoe,
  type CapacityOptions,
  type Experts,
  type GatedExperts,
  type RouterOptions,
} from "@x/moe";
import { flag, number, optionalNumber, text } from "../golden/config.js";
import type { Runner, RunnerContext } from "../runner.js";

/** The experts of a case, by the params that it has. */
function expertsOf({ config, params }: RunnerContext): Experts {
  const kind = text(config, "expertKind", params["wGate"] ? "glu" : "ffn");
  if (kind === "glu") {
    return {
      kind: "glu",
      wGate: params["wGate"]!,
      wUp: params["wUp"]!,
      wDown: params["wDown"]!,
      gluKind: text(config, "gluKind", "swiglu") as never,
    };
  }
  return {
    kind: "ffn",
    w1: params["w1"]!,
    w2: params["w2"]!,
    b1: params["b1"],
    b2: params["b2"],
    activation: text(config, "activation", "relu") as never,
  };
}

function routerOptions({ config, inputs, params }: RunnerContext): RouterOptions {
  const noise = text(config, "noise", "none");
  return {
    topK: number(config, "topK"),
    scoreFunction: text(config, "scoreFunction", "softmax") as "softmax" | "sigmoid",
    order: text(config, "order", "softmaxThenTopk") as "softmaxThenTopk" | "topkThenSoftmax",
    renormalize: flag(config, "renormalize", false),
    renormEps: number(config, "renormEps", 0),
    bias: params["bRouter"],
    ...(noise === "noisyTopk" ? { noise: inputs["noise"], wNoise: params["wNoise"] } : {}),
    ...(noise === "jitter" ? { jitter: inputs["jitter"] } : {}),
  };
}

const scalar = (t: Tensor): Tensor => t.reshape([1]);

/** The given keys of a configuration, as they are; the mechanism checks their values. */
function pick(config: RunnerContext["config"], ...keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(keys.flatMap((key) => (config[key] === undefined ? [] : [[key, config[key]]])));
}

const capacity = (config: RunnerContext["config"], ...more: readonly string[]): CapacityOptions =>
  pick(config, "capacityFactor", "capacity", "rounding", "minCapacity", "groupBy", ...more);

function expectExperts({ config }: RunnerContext, tensor: Tensor): void {
  const expected = optionalNumber(config, "numExperts");
  if (expected !== undefined && expected !== tensor.shape[0])
    throw new ConfigError("config", `numExperts is ${expected}; the weights hold ${tensor.shape[0]}`);
}

const deepseek =
  (scoreFunction: "softmax" | "sigmoid"): Runner =>
  (context) => {
    const { config, inputs, params } = context;
    expectExperts(context, params["wRouter"]!);
    const experts = expertsOf(context);
    if (experts.kind !== "glu") throw new ConfigError("config", 'the experts must be "glu"');
    const shared = number(config, "numShared", params["shared_wGate"] ? 1 : 0) > 0;
    const { out, indices, weights } = deepseekMoe(
      inputs["x"]!,
      params["wRouter"]!,
      experts,
      shared
        ? { wGate: params["shared_wGate"]!, wUp: params["shared_wUp"]!, wDown: params["shared_wDown"]! }
        : undefined,
      {
        topK: number(config, "topK"),
        scoreFunction: text(config, "scoreFunction", scoreFunction) as never,
        bias: inputs["bias"],
        ...pick(config, "numGroups", "topkGroups", "groupScore", "normTopkProb", "routedScalingFactor"),
      },
    );
    return { out, indices, weights };
  };

export const moe: Readonly<Record<string, Runner>> = {
  router: (context) => {
    expectExperts(context, context.params["wRouter"]!);
    return { ...router(context.inputs["x"]!, context.params["wRouter"]!, routerOptions(context)) };
  },
  load_balance_loss: ({ config, inputs }) => ({
    ...loadBalanceLoss(inputs["logits"]!, {
      ...pick(config, "kind", "alpha", "groupBy", "topK"),
      mask: inputs["mask"],
    }),
  }),
  router_z_loss: ({ config, inputs }) => ({
    loss: scalar(routerZLoss(inputs["logits"]!, { alpha: number(config, "alpha", 1), mask: inputs["mask"] })),
  }),
  importance_loss: (context) => {
    const { config, inputs, params } = context;
    expectExperts(context, params["wRouter"]!);
    const noisy = text(config, "noise", "noisyTopk") === "noisyTopk";
    return {
      ...importanceLoss(inputs["x"]!, params["wRouter"]!, {
        topK: number(config, "topK"),
        ...pick(config, "wImportance", "wLoad", "noiseEps", "eps", "unbiased"),
        ...(noisy ? { noise: inputs["noise"], wNoise: params["wNoise"] } : {}),
      }),
    };
  },
  expert_capacity: ({ config, inputs }) => {
    const { slot, kept, weights, requested, accepted, ...result } = expertCapacity(
      inputs["indices"]!,
      inputs["weights"]!,
      {
        numExperts: number(config, "numExperts"),
        ...capacity(config, "countChoices", "priority", "renormalizeAfterDrop"),
      },
    );
    const slots = { shape: [1], data: Int32Array.of(result.capacity) };
    return { slot, kept, weights, requested, accepted, capacity: slots };
  },
  switch_moe: (context) => {
    const { config, inputs, params } = context;
    expectExperts(context, params["wRouter"]!);
    const { out, indices, kept, auxLoss, zLoss } = switchMoe(
      inputs["x"]!,
      params["wRouter"]!,
      expertsOf(context),
      capacity(config, "alpha"),
    );
    return { out, indices, kept, auxLoss, zLoss };
  },
  gshard_moe: (context) => {
    const { config, inputs, params } = context;
    expectExperts(context, params["wRouter"]!);
    const { out, indices, kept, weights, auxLoss } = gshardMoe(
      inputs["x"]!,
      params["wRouter"]!,
      expertsOf(context),
      {
        ...capacity(config, "alpha", "secondPolicy", "secondThreshold", "countChoices", "renormEps"),
        uniform: inputs["uniform"],
      },
    );
    return { out, indices, kept, weights, auxLoss };
  },
  mixtral_moe: (context) => {
    expectExperts(context, context.params["wRouter"]!);
    const { out, logits, indices, weights } = mixtralMoe(
      context.inputs["x"]!,
      context.params["wRouter"]!,
      expertsOf(context),
      routerOptions(context),
    );
    return { out, logits, indices, weights };
  },
  deepseek_moe: deepseek("softmax"),
  deepseek_v3_moe: deepseek("sigmoid"),
  sigmoid_gated_shared_expert: (context) => {
    const { config, inputs, params } = context;
    const { out, indices, weights, sharedGate } = deepseekMoe(
      inputs["x"]!,
      params["wRouter"]!,
      expertsOf(context) as GatedExperts,
      {
        wGate: params["shared_wGate"]!,
        wUp: params["shared_wUp"]!,
        wDown: params["shared_wDown"]!,
        gate: params["shared_gate"]!,
      },
      { topK: number(config, "topK"), normTopkProb: flag(config, "normTopkProb", true) },
    );
    return { out, indices, weights, sharedGate: sharedGate! };
  },
  zero_computation_experts: (context) => {
    const { config, inputs, params } = context;
    const { wConstant, constant, wPrevious } = params;
    const { bias, previousLogits } = inputs;
    return {
      ...zeroComputationMoe(inputs["x"]!, params["wRouter"]!, expertsOf(context), {
        ...{ topK: number(config, "topK"), wConstant, constant, wPrevious, bias, previousLogits },
        ...pick(config, "numCopy", "numZero", "normTopkProb", "routedScalingFactor"),
      }),
    };
  },
  sqrt_softplus_router: ({ config, inputs }) => ({
    ...deepseekRouter(inputs["logits"]!, {
      topK: number(config, "topK"),
      scoreFunction: "sqrtSoftplus",
      bias: inputs["bias"],
      forced: inputs["forced"],
      ...pick(config, "normTopkProb", "routedScalingFactor"),
    }),
  }),
  deepseek_balance_loss: ({ config, inputs }) => ({
    ...deepseekBalanceLoss(
      inputs["logits"]!,
      inputs["indices"]!,
      pick(config, "kind", "alpha", "scoreFunction", "numDevices", "maxDevices", "groupBy"),
    ),
  }),
  aux_free_bias: ({ config, inputs }) => ({
    bias: auxFreeBias(inputs["bias"]!, inputs["tokensPerExpert"]!, pick(config, "updateSpeed")),
  }),
  expert_choice: (context) => {
    const { config, inputs, params } = context;
    expectExperts(context, params["wRouter"]!);
    const { out, tokenIndices, gates } = expertChoice(
      inputs["x"]!,
      params["wRouter"]!,
      expertsOf(context),
      capacity(config),
    );
    return { out, tokenIndices, gates };
  },
  product_key_topk: ({ config, inputs, params }) => ({
    ...productKeyTopk(inputs["query"]!, params["keys"]!, { topK: number(config, "topK") }),
  }),
  peer: ({ config, inputs, params }) => {
    const { out, indices, weights } = peer(
      inputs["x"]!,
      {
        wQuery: params["wQuery"]!,
        keys: params["keys"]!,
        expertDown: params["expertDown"]!,
        expertUp: params["expertUp"]!,
        normWeight: params["normWeight"],
        normBias: params["normBias"],
      },
      {
        numHeads: number(config, "numHeads"),
        topK: number(config, "topK"),
        queryDim: number(config, "queryDim"),
        ...pick(config, "queryNorm", "normEps", "scoreActivation", "activation"),
      },
    );
    return { out, indices, weights };
  },
  routing_stats: ({ config, inputs }) => ({
    ...routingStats(inputs["indices"]!, inputs["weights"]!, inputs["probs"]!, inputs["types"]!, {
      numExperts: number(config, "numExperts"),
      numTypes: number(config, "numTypes"),
      ...pick(config, "topTypes"),
    }),
  }),
};
