import { type Gpu, type Tensor } from "@x/kernels";
import * as moe from "@x/moe";
import { component, valid } from "./calls.js";
import type { ValidCalls } from "./probe.js";

const [BATCH, SEQ, DIM, HIDDEN, EXPERTS, K] = [2, 3, 4, 5, 6, 2];
const full = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 0.5);
const x = (gpu: Gpu): Tensor => full(gpu, BATCH, SEQ, DIM);
const router = (gpu: Gpu): Tensor => full(gpu, EXPERTS, DIM);
const logits = (gpu: Gpu): Tensor => full(gpu, BATCH, SEQ, EXPERTS);
const mask = (gpu: Gpu): Tensor => gpu.full([BATCH, SEQ], 1, "i32");
const indices = (gpu: Gpu): Tensor => gpu.full([BATCH, SEQ, K], 1, "i32");
const shares = (gpu: Gpu): Tensor => full(gpu, BATCH, SEQ, K);
const into = (gpu: Gpu): Tensor => full(gpu, EXPERTS, HIDDEN, DIM);
const back = (gpu: Gpu): Tensor => full(gpu, EXPERTS, DIM, HIDDEN);
const clamped = { beta: 1.702, limit: 7, upOffset: 1 };
const gated = (gpu: Gpu): object => ({
  kind: "glu",
  wGate: into(gpu),
  wUp: into(gpu),
  wDown: back(gpu),
  gluKind: "swiglu",
  ...clamped,
  bGate: full(gpu, EXPERTS, HIDDEN),
  bUp: full(gpu, EXPERTS, HIDDEN),
  bDown: full(gpu, EXPERTS, DIM),
});
const plain = (gpu: Gpu): object => ({
  kind: "ffn",
  w1: into(gpu),
  w2: back(gpu),
  b1: full(gpu, EXPERTS, HIDDEN),
  b2: full(gpu, EXPERTS, DIM),
  activation: "relu",
});
const plan = (gpu: Gpu): moe.Dispatch => moe.dispatch(gpu.full([BATCH * SEQ, K], 1, "i32"), EXPERTS);

const slots = { capacityFactor: 1.5, capacity: 2, rounding: "floor", minCapacity: 1 };
const capacity = { ...slots, groupBy: "sequence" };
const gatedLayer = {
  dim: DIM,
  hiddenDim: HIDDEN,
  numExperts: EXPERTS,
  gluKind: "swiglu",
  ...clamped,
  expertBias: true,
};
const plainLayer = {
  ...{ dim: DIM, hiddenDim: HIDDEN, numExperts: EXPERTS },
  ...{ expertKind: "ffn", activation: "gelu", expertBias: true },
};
const second = { secondPolicy: "random", secondThreshold: 0.3, countChoices: true, renormEps: 1e-9 };
const deepseek = {
  ...{ topK: K, scoreFunction: "sigmoid", numGroups: 3, topkGroups: 2, groupScore: "top2" },
  ...{ normTopkProb: true, routedScalingFactor: 2 },
};
const retrieval = {
  ...{ numHeads: 2, topK: 2, queryDim: 4, queryNorm: "batch", normEps: 1e-5 },
  ...{ scoreActivation: "sigmoid", activation: "relu" },
};
const tables = (gpu: Gpu): object => ({
  wQuery: full(gpu, 8, DIM),
  keys: full(gpu, 2, 3, 2),
  expertDown: full(gpu, 9, DIM),
  expertUp: full(gpu, 9, DIM),
  normWeight: full(gpu, 8),
  normBias: full(gpu, 8),
});
const retrieved = (gpu: Gpu): unknown[] => [
  x(gpu),
  tables(gpu),
  { ...retrieval, statistics: { mean: full(gpu, 8), variance: full(gpu, 8) } },
];
const routing = (gpu: Gpu): object => ({
  ...{ topK: K, scoreFunction: "sigmoid", order: "softmaxThenTopk", renormalize: true, renormEps: 1e-9 },
  noise: logits(gpu),
  wNoise: router(gpu),
  jitter: x(gpu),
  bias: full(gpu, EXPERTS),
});
const alone = (gpu: Gpu): unknown[] => [x(gpu)];
const trained = (gpu: Gpu): unknown[] => [x(gpu), { training: true }];
const drawn = (gpu: Gpu): unknown[] => [x(gpu), { training: true, uniform: full(gpu, BATCH, SEQ) }];

/** A valid call of every export of @x/moe. */
export const MOE: ValidCalls = {
  router: (gpu) => valid(moe.router, x(gpu), router(gpu), routing(gpu)),
  renormalizeWeights: (gpu) => valid(moe.renormalizeWeights, shares(gpu), 1e-9),
  mixExperts: (gpu) => valid(moe.mixExperts, x(gpu), plain(gpu), indices(gpu), shares(gpu)),
  expertKeys: (gpu) => valid(moe.expertKeys, x(gpu), gated(gpu), indices(gpu), shares(gpu)),
  runExperts: (gpu) => valid(moe.runExperts, full(gpu, 12, DIM), gated(gpu), plan(gpu).offsets),
  stackExperts: () => valid(moe.stackExperts, {}),
  dispatch: (gpu) => valid(moe.dispatch, indices(gpu), EXPERTS),
  combine: (gpu) => valid(moe.combine, full(gpu, 12, DIM), full(gpu, 6, K), plan(gpu)),
  gatherTokens: (gpu) => valid(moe.gatherTokens, full(gpu, 6, DIM), plan(gpu)),
  countChoices: (gpu) =>
    valid(moe.countChoices, indices(gpu), {
      groups: 2,
      experts: EXPERTS,
      mask: gpu.full([BATCH * SEQ], 1, "i32"),
      width: 2,
      distinct: true,
    }),
  loadBalanceLoss: (gpu) =>
    valid(moe.loadBalanceLoss, logits(gpu), {
      ...{ kind: "topk", alpha: 0.1, topK: K, groupBy: "sequence" },
      mask: mask(gpu),
    }),
  routerZLoss: (gpu) => valid(moe.routerZLoss, logits(gpu), { alpha: 0.1, mask: mask(gpu) }),
  importanceLoss: (gpu) =>
    valid(moe.importanceLoss, x(gpu), router(gpu), {
      ...{ topK: K, wImportance: 1, wLoad: 1, noiseEps: 0.01, eps: 1e-10, unbiased: true },
      noise: logits(gpu),
      wNoise: router(gpu),
    }),
  deepseekBalanceLoss: (gpu) =>
    valid(moe.deepseekBalanceLoss, logits(gpu), indices(gpu), {
      ...{ kind: "communication", alpha: 1, scoreFunction: "sigmoid" },
      ...{ numDevices: 3, maxDevices: 2, groupBy: "sequence" },
    }),
  capacityOf: () => valid(moe.capacityOf, { ...slots, choices: 12, numExperts: EXPERTS }),
  expertCapacity: (gpu) =>
    valid(moe.expertCapacity, indices(gpu), shares(gpu), {
      numExperts: EXPERTS,
      ...capacity,
      ...{ countChoices: true, priority: "weight", renormalizeAfterDrop: true },
    }),
  deepseekRouter: (gpu) => valid(moe.deepseekRouter, logits(gpu), { ...deepseek, forced: indices(gpu) }),
  groupLimitedTopk: (gpu) =>
    valid(moe.groupLimitedTopk, full(gpu, 6, EXPERTS), {
      ...{ topK: K, numGroups: 3, topkGroups: 2, groupScore: "top2" },
      bias: full(gpu, EXPERTS),
    }),
  auxFreeBias: (gpu) =>
    valid(moe.auxFreeBias, full(gpu, EXPERTS), gpu.full([EXPERTS], 1, "i32"), { updateSpeed: 0.01 }),
  routingStats: (gpu) =>
    valid(moe.routingStats, indices(gpu), shares(gpu), logits(gpu), mask(gpu), {
      numExperts: EXPERTS,
      numTypes: 2,
      topTypes: 1,
    }),
  mixtralMoe: (gpu) => valid(moe.mixtralMoe, x(gpu), router(gpu), gated(gpu), routing(gpu)),
  zeroComputationMoe: (gpu) =>
    valid(moe.zeroComputationMoe, x(gpu), full(gpu, EXPERTS + 3, DIM), gated(gpu), {
      ...{ topK: K, numCopy: 1, numZero: 1, normTopkProb: true, routedScalingFactor: 2 },
      wConstant: full(gpu, 1, 2, DIM),
      constant: full(gpu, 1, DIM),
      bias: full(gpu, EXPERTS + 3),
      previousLogits: full(gpu, BATCH, SEQ, EXPERTS + 3),
      wPrevious: full(gpu, EXPERTS + 3, EXPERTS + 3),
    }),
  switchMoe: (gpu) => valid(moe.switchMoe, x(gpu), router(gpu), plain(gpu), { ...capacity, alpha: 1 }),
  gshardMoe: (gpu) =>
    valid(moe.gshardMoe, x(gpu), router(gpu), gated(gpu), {
      ...capacity,
      ...second,
      alpha: 1,
      uniform: full(gpu, BATCH, SEQ),
    }),
  expertChoice: (gpu) => valid(moe.expertChoice, x(gpu), router(gpu), gated(gpu), capacity),
  deepseekMoe: (gpu) =>
    valid(
      moe.deepseekMoe,
      x(gpu),
      router(gpu),
      gated(gpu),
      {
        wGate: full(gpu, HIDDEN, DIM),
        wUp: full(gpu, HIDDEN, DIM),
        wDown: full(gpu, DIM, HIDDEN),
        gate: full(gpu, 1, DIM),
      },
      { ...deepseek, bias: full(gpu, EXPERTS) },
    ),
  productKeyTopk: (gpu) =>
    valid(moe.productKeyTopk, full(gpu, BATCH, SEQ, 2, 4), full(gpu, 2, 3, 2), { topK: 2 }),
  peer: (gpu) => valid(moe.peer, ...retrieved(gpu)),
  peerKeys: (gpu) => valid(moe.peerKeys, ...retrieved(gpu)),
  ...component(moe.MixtralMoe, { ...gatedLayer, topK: K }, "drawn", {
    forward: alone,
    outputs: alone,
    coefficients: alone,
  }),
  ...component(
    moe.GptOssMoe,
    { dim: DIM, hiddenDim: HIDDEN, numExperts: EXPERTS, topK: K, ...clamped },
    "drawn",
    { forward: alone, outputs: alone, coefficients: alone },
  ),
  ...component(moe.Qwen2Moe, { ...gatedLayer, topK: K, normTopkProb: true, sharedDim: HIDDEN }, "drawn", {
    forward: alone,
    outputs: alone,
    coefficients: alone,
  }),
  ...component(moe.SwitchMoe, { ...plainLayer, ...capacity, alpha: 1 }, "drawn", {
    forward: trained,
    outputs: trained,
    coefficients: alone,
  }),
  ...component(moe.GShardMoe, { ...gatedLayer, ...capacity, ...second, alpha: 1 }, "drawn", {
    forward: drawn,
    outputs: drawn,
    coefficients: alone,
  }),
  ...component(moe.ExpertChoiceMoe, { ...gatedLayer, ...capacity }, "drawn", {
    forward: alone,
    outputs: alone,
  }),
  ...component(moe.DeepSeekMoe, { ...gatedLayer, ...deepseek, numShared: 1, correctionBias: true }, "drawn", {
    forward: alone,
    outputs: alone,
    coefficients: alone,
    updateBias: (gpu) => [indices(gpu), { updateSpeed: 0.01 }],
  }),
  ...component(moe.Peer, { dim: DIM, numKeys: 3, ...retrieval, keysPerHead: true, momentum: 0.1 }, "drawn", {
    forward: trained,
    outputs: trained,
    coefficients: alone,
  }),
};
