import { add, cast, mul, noGrad, randomUniform, type Tensor } from "@x/kernels";
import {
  auxFreeBias,
  countChoices,
  DeepSeekMoe,
  deepseekBalanceLoss,
  ExpertChoiceMoe,
  GptOssMoe,
  GShardMoe,
  loadBalanceLoss,
  MixtralMoe,
  Peer,
  Qwen2Moe,
  SwitchMoe,
  type DeepSeekMoeResult,
  type GShardMoeResult,
} from "@x/moe";
import type { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock, ForwardContext, Weights } from "../contract.js";
import { streamOf } from "../parameters.js";
import { StepCounter } from "../step_counter.js";
import { expertMemory, peerMemory, type StackedExperts } from "./memory.js";
import { mixture, type Training } from "./mixture.js";

interface Routed {
  readonly logits: Tensor;
  readonly indices: Tensor;
  readonly weights: Tensor;
}

const router = ["router", ({ logits, indices, weights }: Routed) => ({ logits, indices, weights })] as const;
const training = (_: Tensor, { training }: ForwardContext): object => ({ training });
/** The factor of the layer's balancing loss is the model's. */
const balance = { without: ["alpha"], own: (_: Fields, alpha: number) => ({ alpha }) };

/** GShard's random second choices: drawn by the model's seed, others in each step. */
function randomSecond(layer: GShardMoe, _: Fields, weights: Weights): Training<GShardMoeResult> {
  if (layer.config.secondPolicy !== "random") return { options: training };
  const { name, seed } = weights;
  const draws = new StepCounter(weights);
  const uniform = (x: Tensor): Tensor =>
    randomUniform(x.gpu, x.shape.slice(0, -1), { seed, stream: streamOf(name), step: draws.step });
  return {
    options: (x, context) => (context.training ? { training: true, uniform: uniform(x) } : {}),
    afterStep: () => {
      draws.advance();
    },
    dispose: () => {
      draws.dispose();
    },
  };
}

/** With `updateSpeed` DeepSeek's choosing bias moves after each step by the counts of the step's choices. */
function movingBias(layer: DeepSeekMoe, f: Fields, { gpu, made }: Weights): Training<DeepSeekMoeResult> {
  const updateSpeed = f.number("updateSpeed", 0);
  const bias = layer.buffers()["gate.e_score_correction_bias"];
  if (!bias || updateSpeed === 0) return {};
  const experts = layer.config.numExperts;
  const counts = gpu.keep(gpu.zeros([experts], "i32"));
  made.push(counts);
  return {
    after: ({ indices }) => {
      noGrad(() => {
        gpu.copy(cast(countChoices(indices, { groups: 1, experts }), "i32").reshape([experts]), counts);
      });
    },
    afterStep: () => {
      gpu.scope(() => {
        gpu.copy(auxFreeBias(bias, counts, { updateSpeed }), bias);
      });
    },
    dispose: () => {
      counts.dispose();
    },
  };
}

interface TopkLayer extends StackedExperts {
  readonly config: { readonly topK: number; readonly numExperts: number };
}

/** Mixtures whose balancing loss counts the topK best experts. */
const balancedTopk = {
  observed: router,
  visited: ({ config }: TopkLayer) => [config.topK, config.numExperts] as const,
  loss: ({ logits }: Routed, { config: { topK } }: TopkLayer, _: Fields, alpha: number) =>
    alpha > 0 ? loadBalanceLoss(logits, { kind: "topk", topK, alpha }).loss : undefined,
  memory: expertMemory,
};

/**
 * Mixtures of experts by type, with the keys of the package's layers; the factor of their balancing losses is the
 * model's `balanceLoss`. Three types have more:
 *
 * - `switch`: `zLoss` (0), the factor of the router z-loss.
 * - `deepseek`: `updateSpeed` (0), by which a choosing bias balances the load after each step.
 * - `expertChoice` is not causal: decoding chooses among the tokens it is given.
 */
export const MIXTURES: Readonly<Record<string, Factory<FeedForwardBlock>>> = {
  mixtral: mixture(MixtralMoe, balancedTopk),
  qwen2Moe: mixture(Qwen2Moe, balancedTopk),
  gptOss: mixture(GptOssMoe, balancedTopk),
  switch: mixture(SwitchMoe, {
    observed: [
      "router",
      ({ logits, indices, weights }) => {
        const choice = [...indices.shape, 1];
        return { logits, indices: indices.reshape(choice), weights: weights.reshape(choice) };
      },
    ],
    visited: ({ config }) => [1, config.numExperts],
    keys: ["zLoss"],
    ...balance,
    loss: ({ auxLoss, zLoss }, _, f, alpha) => {
      const factor = f.number("zLoss", 0);
      if (factor > 0) return add(auxLoss, mul(zLoss, factor));
      return alpha > 0 ? auxLoss : undefined;
    },
    memory: expertMemory,
    training: () => ({ options: training }),
  }),
  gshard: mixture(GShardMoe, {
    observed: router,
    visited: ({ config }) => [config.secondPolicy === "none" ? 1 : 2, config.numExperts],
    ...balance,
    loss: ({ auxLoss }, _layer, _f, alpha) => (alpha > 0 ? auxLoss : undefined),
    memory: expertMemory,
    training: randomSecond,
  }),
  deepseek: mixture(DeepSeekMoe, {
    observed: router,
    visited: ({ config }) => [config.topK, config.numExperts],
    keys: ["updateSpeed"],
    own: (f) => (f.number("updateSpeed", 0) > 0 ? { correctionBias: true } : {}),
    loss: ({ logits, indices }, { config: { scoreFunction } }, _, alpha) =>
      alpha > 0
        ? deepseekBalanceLoss(logits, indices, {
            scoreFunction,
            alpha,
            groupBy: scoreFunction === "softmax" ? "batch" : "sequence",
          }).loss
        : undefined,
    memory: expertMemory,
    training: movingBias,
  }),
  expertChoice: mixture(ExpertChoiceMoe, {
    observed: ["choice", ({ logits, tokenIndices, gates }) => ({ logits, tokenIndices, gates })],
    visited: ({ config: { capacity, capacityFactor = 1.25, numExperts } }) => [
      capacity === undefined ? Math.min(numExperts, capacityFactor) : 1,
      numExperts,
    ],
  }),
  peer: mixture(Peer, {
    observed: ["retrieval", ({ indices, weights }) => ({ indices, weights })],
    visited: ({ config: { numHeads, topK, numKeys } }) => [numHeads * topK, numKeys ** 2],
    memory: (layer) =>
      peerMemory(layer.parameters()["weight_up_embed.weight"]!, (x) => layer.coefficients(x)),
    training: () => ({ options: training }),
  }),
};
