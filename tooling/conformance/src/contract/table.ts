import { randomNormal, type Tensor } from "@x/kernels";
import * as ffn from "@x/ffn";
import * as norm from "@x/norm";
import type { AnyComponentClass, ContractCase } from "./contract.js";

const dim = 8;
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
};
