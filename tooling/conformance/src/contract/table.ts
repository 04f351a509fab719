import { randomNormal, type Tensor } from "@x/kernels";
import * as ffn from "@x/ffn";
import * as moe from "@x/moe";
import * as norm from "@x/norm";
import type { AnyComponentClass, ContractCase } from "./contract.js";

const dim = 8;
const experts = { dim, hiddenDim: 4, numExperts: 4 };
const peer = { dim, numKeys: 4, numHeads: 2, topK: 2, queryDim: 8 };
const c = (of: unknown, config: object, more: Omit<ContractCase, "of" | "config"> = {}): ContractCase => ({
  of: of as AnyComponentClass,
  config,
  ...more,
});

/** Every component class, each in the forms that differ in their parameters. */
export const CONTRACT: Readonly<Record<string, readonly ContractCase[]>> = {
  "@x/norm": [
    c(norm.RMSNorm, { dim }),
    c(norm.RMSNorm, { dim, bias: true }),
    c(norm.GemmaRMSNorm, { dim }),
    c(norm.PartialRMSNorm, { dim, p: 0.5 }),
    c(norm.ScaleNorm, { dim }),
    c(norm.LayerNorm, { dim }),
    c(norm.GroupNorm, { dim: 6, numGroups: 2 }),
    c(norm.BatchNorm, { dim }, { options: () => ({ training: false }) }),
    c(
      norm.QKNorm,
      { kind: "rms", headDim: 4, numHeads: 2, numKvHeads: 2 },
      {
        x: (gpu) => randomNormal(gpu, [1, 2, 6, 4], { seed: 3 }),
        call: (forward, x) => (forward(x, x) as { q: Tensor }).q,
      },
    ),
  ],
  "@x/ffn": [
    c(ffn.FeedForward, { dim }),
    c(ffn.FeedForward, { dim, bias: false }),
    c(ffn.GatedFeedForward, { dim }),
    c(
      ffn.GatedFeedForward,
      { dim, hiddenDim: 16, bias: true },
      {
        parts: (gpu) => ({ ffn_layernorm: norm.RMSNorm.init(gpu, { dim: 16 }) }),
      },
    ),
  ],
  "@x/moe": [
    c(moe.MixtralMoe, experts),
    c(moe.SwitchMoe, experts),
    c(moe.SwitchMoe, { ...experts, expertKind: "ffn", expertBias: true }),
    c(moe.GShardMoe, experts),
    c(moe.ExpertChoiceMoe, experts),
    c(moe.DeepSeekMoe, { ...experts, numShared: 1, correctionBias: true }),
    c(moe.Peer, peer),
    c(moe.Peer, { ...peer, queryNorm: "batch", keysPerHead: true }),
  ],
};
