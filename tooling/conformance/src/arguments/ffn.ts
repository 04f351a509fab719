import * as ffn from "@x/ffn";
import { mean, square, type Gpu, type Tensor } from "@x/kernels";
import { RMSNorm } from "@x/norm";
import { component, valid } from "./calls.js";
import type { ValidCall, ValidCalls } from "./probe.js";

const t =
  (...shape: number[]) =>
  (gpu: Gpu): Tensor =>
    gpu.full(shape, 0.5);
const x = t(2, 3, 4);
const samples = (gpu: Gpu): Tensor =>
  gpu.tensor(
    Array.from({ length: 40 }, (_, i) => Math.sin(i)),
    [10, 4],
  );
const eye = (gpu: Gpu): Tensor => gpu.tensor([1, 0, 0, 0, 1, 0, 0, 0, 1], [3, 3]);
/** Tensors by name, from their shapes. */
const named =
  (shapes: Readonly<Record<string, readonly number[]>>) =>
  (gpu: Gpu): Record<string, Tensor> =>
    Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, gpu.full(shape, 0.5)]));

const plain = { w1: [6, 4], w2: [4, 6], b1: [6], b2: [4], beta: [6] };
const unit = { wGate: [6, 4], wUp: [6, 4], bGate: [6], bUp: [6], beta: [1] };
const gated = { ...unit, wDown: [4, 6], bDown: [4] };
const clamped = { limit: 7, upOffset: 1 };
const wave = { scale: [3, 4], translation: [3, 4], weight: [3, 4], baseWeight: [3, 4] };
const spline = { splineWeight: [3, 4, 8], splineScaler: [3, 4], baseWeight: [3, 4] };
const gaussian = {
  ...{ splineWeight: [3, 12], normWeight: [4], normBias: [4] },
  ...{ baseWeight: [3, 4], baseBias: [3] },
};
const knots = { gridSize: 5, splineOrder: 3, gridRange: [-1, 1] };
const numbers = (n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => Math.sin(i));
const shape = { inFeatures: 4, outFeatures: 3 };
const inner = (gpu: Gpu): unknown => ({ ffn_layernorm: RMSNorm.init(gpu, { dim: 6 }) });
const linear = { ...shape, ...knots, baseActivation: "silu", scaler: true, noise: 0.1 };

/** A call whose weights hold a beta, for which a number may stand. */
const withBeta = (call: unknown, at: number, ...given: unknown[]): ValidCall => ({
  ...valid(call, ...given),
  open: { [`${at}.beta`]: "a number is taken too" },
});

/** A forward pass without options. */
const alone = { forward: (gpu: Gpu): unknown[] => [x(gpu)] };

/** A valid call of every export of @x/ffn. */
export const FFN: ValidCalls = {
  activation: (gpu) => withBeta(ffn.activation, 2, x(gpu), "swish", { beta: t(4)(gpu) }),
  ffn: (gpu) => withBeta(ffn.ffn, 1, x(gpu), named(plain)(gpu), { activation: "swish", residual: x(gpu) }),
  glu: (gpu) => withBeta(ffn.glu, 1, x(gpu), named(unit)(gpu), { kind: "swiglu", ...clamped }),
  gluFfn: (gpu) =>
    withBeta(ffn.gluFfn, 1, x(gpu), named(gated)(gpu), { kind: "swiglu", ...clamped, residual: x(gpu) }),
  splitGateUp: (gpu) => valid(ffn.splitGateUp, t(6, 4)(gpu), 0),
  gluHiddenDim: () => valid(ffn.gluHiddenDim, 64, { expansion: 4, multipleOf: 32, multiplier: 1.3 }),
  kanBspline: (gpu) =>
    valid(ffn.kanBspline, x(gpu), {
      ...knots,
      grid: gpu.tensor(
        Array.from({ length: 48 }, (_, i) => (i % 12) - 6),
        [4, 12],
      ),
    }),
  kan: (gpu) => valid(ffn.kan, x(gpu), named(spline)(gpu), { ...knots, baseActivation: "silu" }),
  kanChebyshev: (gpu) =>
    valid(ffn.kanChebyshev, x(gpu), named({ coefficients: [4, 3, 3] })(gpu), { degree: 2, squash: "tanh" }),
  fastKan: (gpu) =>
    valid(ffn.fastKan, x(gpu), named(gaussian)(gpu), {
      ...{ numGrids: 3, gridMin: -1, gridMax: 1, denominator: 0.5, layerNorm: true, normEps: 1e-5 },
    }),
  katRational: (gpu) =>
    valid(ffn.katRational, x(gpu), named({ numerator: [1, 3], denominator: [2, 2] })(gpu), {
      groups: 2,
      denominator: "absSum",
    }),
  kanFourier: (gpu) =>
    valid(ffn.kanFourier, x(gpu), named({ coefficients: [2, 3, 4, 2], bias: [3] })(gpu), { gridSize: 2 }),
  kanWavelet: (gpu) =>
    valid(ffn.kanWavelet, x(gpu), named({ ...wave, normWeight: [3], normBias: [3] })(gpu), {
      wavelet: "morlet",
      omega0: 5,
      baseActivation: "silu",
      batchNorm: true,
      normEps: 1e-5,
    }),
  kanGridUpdate: () =>
    valid(
      ffn.kanGridUpdate,
      { x: numbers(40), features: 4, splineWeight: numbers(96), grid: numbers(48).map((_, i) => i % 12) },
      { ...knots, gridEps: 0.02, margin: 0.01 },
    ),
  kanWeightRegularization: (gpu) =>
    valid(ffn.kanWeightRegularization, t(3, 4, 8)(gpu), { activationWeight: 1, entropyWeight: 1 }),
  kanActivationRegularization: (gpu) =>
    valid(ffn.kanActivationRegularization, x(gpu), named(spline)(gpu), {
      ...knots,
      baseActivation: "silu",
      activationWeight: 1,
      entropyWeight: 1,
    }),
  ffnKeys: (gpu) => withBeta(ffn.ffnKeys, 1, x(gpu), named(plain)(gpu), "swish"),
  gluKeys: (gpu) => withBeta(ffn.gluKeys, 1, x(gpu), named(gated)(gpu), "swiglu"),
  topKeys: (gpu) => valid(ffn.topKeys, t(2, 6)(gpu), t(4, 6)(gpu), 2, { rankBy: "contribution" }),
  keyTriggers: (gpu) => valid(ffn.keyTriggers, t(2, 3, 6)(gpu), 2),
  valueTokens: (gpu) => valid(ffn.valueTokens, t(4, 6)(gpu), t(9, 4)(gpu), 2),
  ffnMemory: (gpu) =>
    withBeta(ffn.ffnMemory, 1, x(gpu), named({ ...plain, embedding: [9, 4] })(gpu), {
      activation: "swish",
      rankBy: "coefficient",
      topKeys: 2,
      topTriggers: 2,
      topTokens: 2,
    }),
  keyCovariance: (gpu) => valid(ffn.keyCovariance, t(5, 3)(gpu), { mean: true }),
  spdSolve: (gpu) => valid(ffn.spdSolve, eye(gpu), t(3, 2)(gpu), { ridge: 0.5 }),
  rome: (gpu) =>
    valid(ffn.rome, t(2, 3)(gpu), { covariance: eye(gpu), key: t(3)(gpu), value: t(2)(gpu) }, { ridge: 0.5 }),
  memit: (gpu) =>
    valid(
      ffn.memit,
      t(2, 3)(gpu),
      { covariance: eye(gpu), keys: t(1, 3)(gpu), values: t(1, 2)(gpu) },
      { mode: "leastSquares", lambda: 0.5 },
    ),
  factValue: (gpu) =>
    valid(ffn.factValue, t(4)(gpu), (delta: Tensor) => mean(square(delta)), {
      steps: 1,
      learningRate: 0.5,
      weightDecay: 0.1,
      clamp: 4,
      enough: 0.05,
    }),
  ...component(
    ffn.FeedForward,
    { dim: 4, hiddenDim: 6, activation: "swish", bias: true, beta: "scalar" },
    named({
      "c_fc.weight": [6, 4],
      "c_proj.weight": [4, 6],
      "c_fc.bias": [6],
      "c_proj.bias": [4],
      beta: [1],
    }),
    {
      forward: (gpu) => [x(gpu), { residual: x(gpu), normOptions: {} }],
      coefficients: (gpu) => [x(gpu), { normOptions: {} }],
    },
    { parts: inner, open: { "1.normOptions.options": "what the norm takes" } },
  ),
  ...component(
    ffn.GatedFeedForward,
    { dim: 4, hiddenDim: 6, kind: "swiglu", beta: 1.702, ...clamped, bias: false },
    named({ "gate_proj.weight": [6, 4], "up_proj.weight": [6, 4], "down_proj.weight": [4, 6] }),
    {
      forward: (gpu) => [x(gpu), { residual: x(gpu), normOptions: {} }],
      coefficients: (gpu) => [x(gpu), { normOptions: {} }],
    },
    { parts: inner, open: { "1.normOptions.options": "what the norm takes" } },
  ),
  ...component(
    ffn.KanLinear,
    linear,
    named({ spline_weight: [3, 4, 8], spline_scaler: [3, 4], base_weight: [3, 4], grid: [4, 12] }),
    {
      forward: (gpu) => [x(gpu)],
      regularization: (gpu) => [{ activationWeight: 1, entropyWeight: 1 }, x(gpu)],
      updateGrid: (gpu) => [samples(gpu), { gridEps: 0.02, margin: 0.01 }],
    },
  ),
  ...component(
    ffn.ChebyshevKanLinear,
    { ...shape, degree: 2, squash: "tanh" },
    named({ cheby_coeffs: [4, 3, 3] }),
    alone,
  ),
  ...component(
    ffn.FastKanLinear,
    {
      ...{ ...shape, numGrids: 3, gridMin: -1, gridMax: 1, denominator: 0.5 },
      ...{ layerNorm: true, normEps: 1e-5, base: true },
    },
    named({
      "spline_linear.weight": [3, 12],
      "layernorm.weight": [4],
      "layernorm.bias": [4],
      "base_linear.weight": [3, 4],
      "base_linear.bias": [3],
    }),
    alone,
  ),
  ...component(
    ffn.FourierKanLinear,
    { ...shape, gridSize: 2, bias: true, smooth: true },
    named({ fouriercoeffs: [2, 3, 4, 2], bias: [3] }),
    alone,
  ),
  ...component(
    ffn.WaveletKanLinear,
    { ...shape, wavelet: "dog", omega0: 5, baseActivation: "none", batchNorm: true, normEps: 1e-5 },
    named({
      scale: [3, 4],
      translation: [3, 4],
      wavelet_weights: [3, 4],
      "bn.weight": [3],
      "bn.bias": [3],
    }),
    alone,
  ),
  ...component(
    ffn.KanFeedForward,
    { dim: 4, hiddenDim: 3, basis: "bspline", ...knots, baseActivation: "none", scaler: false, noise: 0.1 },
    named({ "layers.0.spline_weight": [3, 4, 8], "layers.1.spline_weight": [4, 3, 8] }),
    alone,
  ),
};
