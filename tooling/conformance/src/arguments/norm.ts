import { type Gpu, type Tensor } from "@x/kernels";
import * as norm from "@x/norm";
import { component, valid } from "./calls.js";
import type { ValidCalls } from "./probe.js";

const x = (gpu: Gpu): Tensor => gpu.full([2, 3, 4], 0.5);
const w = (gpu: Gpu, n = 4): Tensor => gpu.full([n], 1);

const step = (gpu: Gpu): unknown[] => [
  x(gpu),
  { sublayer: (t: Tensor) => norm.rmsNorm(t), norm: (t: Tensor) => norm.rmsNorm(t) },
];
const sandwiched = (gpu: Gpu): unknown[] => [
  x(gpu),
  {
    sublayer: (t: Tensor) => norm.rmsNorm(t),
    norm: (t: Tensor) => norm.rmsNorm(t),
    normOut: (t: Tensor) => norm.rmsNorm(t),
  },
];
const depth = { architecture: "encoderDecoder", side: "encoder", encoderLayers: 2, decoderLayers: 3 };
const qk = {
  kind: "rms",
  scope: "head",
  eps: 1e-6,
  headDim: 4,
  numHeads: 2,
  length: 64,
} as const;
const running = (gpu: Gpu): { runningMean: Tensor; runningVar: Tensor } => ({
  runningMean: w(gpu),
  runningVar: w(gpu),
});

/** A forward pass without options. */
const alone = { forward: (gpu: Gpu): unknown[] => [x(gpu)] };

/** A valid call of every export of @x/norm. */
export const NORM: ValidCalls = {
  rmsNorm: (gpu) =>
    valid(norm.rmsNorm, x(gpu), { weight: w(gpu), eps: 1e-6, epsPlacement: "inside", bias: w(gpu) }),
  gemmaRmsNorm: (gpu) => valid(norm.gemmaRmsNorm, x(gpu), { weight: w(gpu), eps: 1e-6 }),
  layerNorm: (gpu) => valid(norm.layerNorm, x(gpu), { weight: w(gpu), eps: 1e-5, bias: w(gpu) }),
  partialRmsNorm: (gpu) =>
    valid(norm.partialRmsNorm, x(gpu), {
      weight: w(gpu),
      p: 0.5,
      rounding: "floor",
      eps: 1e-8,
      epsPlacement: "outside",
      bias: w(gpu),
    }),
  l2Normalize: (gpu) => valid(norm.l2Normalize, x(gpu), { eps: 1e-12 }),
  scaleNorm: (gpu) => valid(norm.scaleNorm, x(gpu), { g: w(gpu, 1), eps: 1e-5 }),
  groupNorm: (gpu) =>
    valid(norm.groupNorm, x(gpu), { numGroups: 3, weight: w(gpu, 3), bias: w(gpu, 3), eps: 1e-5 }),
  batchNorm: (gpu) =>
    valid(norm.batchNorm, x(gpu), {
      training: true,
      ...running(gpu),
      weight: w(gpu),
      bias: w(gpu),
      mask: gpu.full([2, 3], 1, "i32"),
      eps: 1e-5,
      momentum: 0.1,
      runningVariance: "sample",
    }),
  qkNorm: (gpu) =>
    valid(norm.qkNorm, gpu.full([1, 2, 3, 4], 0.5), {
      kind: "rms",
      scope: "head",
      eps: 1e-6,
      weight: w(gpu),
      bias: w(gpu),
      headLayout: "bhsd",
    }),
  fusedAddNorm: (gpu) =>
    valid(norm.fusedAddNorm, x(gpu), x(gpu), {
      kind: "layer",
      eps: 1e-5,
      residualScale: 2,
      weight: w(gpu),
      bias: w(gpu),
    }),
  postLn: (gpu) => valid(norm.postLn, ...step(gpu)),
  preLn: (gpu) => valid(norm.preLn, ...step(gpu)),
  subLn: (gpu) => {
    const [t, maps] = step(gpu);
    return valid(norm.subLn, t, { ...(maps as object), normInner: (y: Tensor) => norm.rmsNorm(y) });
  },
  sandwich: (gpu) => valid(norm.sandwich, ...sandwiched(gpu)),
  periLn: (gpu) => valid(norm.periLn, ...sandwiched(gpu)),
  resPostNorm: (gpu) => valid(norm.resPostNorm, ...step(gpu)),
  deepnorm: (gpu) => {
    const [t, maps] = step(gpu);
    return valid(norm.deepnorm, t, { ...(maps as object), alpha: 2, branchScale: 0.5 });
  },
  parallelResidual: (gpu) => {
    const [t, maps] = step(gpu);
    return valid(norm.parallelResidual, t, [maps]);
  },
  placement: () => valid(norm.placement, "preLn"),
  deepnormConstants: () => valid(norm.deepnormConstants, depth),
  subLnGain: () => valid(norm.subLnGain, depth),
  ...component(
    norm.RMSNorm,
    { dim: 4, eps: 1e-6, epsPlacement: "inside", bias: true },
    (gpu) => ({
      weight: w(gpu),
      bias: w(gpu),
    }),
    alone,
  ),
  ...component(norm.GemmaRMSNorm, { dim: 4, eps: 1e-6 }, (gpu) => ({ weight: w(gpu) }), alone),
  ...component(
    norm.LayerNorm,
    { dim: 4, eps: 1e-6, bias: true },
    (gpu) => ({
      weight: w(gpu),
      bias: w(gpu),
    }),
    alone,
  ),
  ...component(
    norm.PartialRMSNorm,
    { dim: 4, p: 0.5, rounding: "ceil", eps: 1e-8, epsPlacement: "inside", bias: true },
    (gpu) => ({ weight: w(gpu), bias: w(gpu) }),
    alone,
  ),
  ...component(norm.ScaleNorm, { dim: 4, eps: 1e-5 }, (gpu) => ({ g: w(gpu, 1) }), alone),
  ...component(
    norm.GroupNorm,
    { dim: 3, numGroups: 3, eps: 1e-5 },
    (gpu) => ({
      weight: w(gpu, 3),
      bias: w(gpu, 3),
    }),
    alone,
  ),
  ...component(
    norm.BatchNorm,
    { dim: 4, eps: 1e-5, momentum: 0.1, runningVariance: "sample" },
    (gpu) => ({ weight: w(gpu), bias: w(gpu), running_mean: w(gpu), running_var: w(gpu) }),
    { forward: (gpu) => [x(gpu), { training: true, mask: gpu.full([2, 3], 1, "i32") }] },
  ),
  ...component(norm.QKNorm, qk, (gpu) => ({ weight: w(gpu) }), {
    forward: (gpu) => [gpu.full([1, 3, 2, 4], 0.5)],
  }),
};
