import type { Tensor } from "@x/kernels";
import { loadBalanceLoss, mixtralMoe, router, routerZLoss, type Experts, type RouterOptions } from "@x/moe";
import { flag, number, optionalNumber, text } from "./config.js";
import type { Runner, RunnerContext } from "./runner.js";

/** The experts of a case, by the params that it has. */
export function expertsOf({ config, params }: RunnerContext): Experts {
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

export const moe: Readonly<Record<string, Runner>> = {
  router: (context) => ({
    ...router(context.inputs["x"]!, context.params["wRouter"]!, routerOptions(context)),
  }),
  load_balance_loss: ({ config, inputs }) => {
    const topK = optionalNumber(config, "topK");
    return {
      ...loadBalanceLoss(inputs["logits"]!, {
        kind: text(config, "kind", "switch") as "switch" | "gshard" | "topk",
        alpha: number(config, "alpha", 1),
        groupBy: text(config, "groupBy", "batch") as "batch" | "sequence",
        ...(topK === undefined ? {} : { topK }),
        mask: inputs["mask"],
      }),
    };
  },
  router_z_loss: ({ config, inputs }) => ({
    loss: scalar(routerZLoss(inputs["logits"]!, { alpha: number(config, "alpha", 1), mask: inputs["mask"] })),
  }),
  mixtral_moe: (context) => {
    const { out, logits, indices, weights } = mixtralMoe(
      context.inputs["x"]!,
      context.params["wRouter"]!,
      expertsOf(context),
      routerOptions(context),
    );
    return { out, logits, indices, weights };
  },
};
