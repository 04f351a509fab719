import {
  e,
  elementwise,
  log,
  randomUniform,
  zeros,
  type Draw,
  type ParameterPlan,
  type Tensor,
} from "@x/kernels";

/* Parameters that several layers have: a short convolution, and decays and steps with their initial values. */

/** -e^A_log: decays of any size, all negative; where the exponential would overflow, a state has long been forgotten. */
export const negativeExp: (...args: (Tensor | number)[]) => Tensor = elementwise(
  "-exp(A_log)",
  ["aLog"],
  (aLog) => e.neg(e.exp(e.min(aLog, 69))),
);

const inverseSoftplus = elementwise("dt_proj.bias", ["x"], (x) => {
  const dt = e.exp(x);
  return e.add(dt, e.log(e.sub(1, e.exp(e.neg(dt)))));
});

/** Numbers uniform in +-bound. */
export const uniform =
  (bound: number): Draw =>
  (gpu, shape, random) =>
    randomUniform(gpu, shape, { ...random, low: -bound, high: bound });

/** The inverse softplus of steps that are log-uniform in 0.001..0.1. */
export const stepBias: Draw = (gpu, shape, random) =>
  inverseSoftplus(randomUniform(gpu, shape, { ...random, low: Math.log(1e-3), high: Math.log(0.1) }));

/** A_log of decays -e^A_log from -1 to -16. */
export const logDecays: Draw = (gpu, shape, random) =>
  log(randomUniform(gpu, shape, { ...random, low: 1, high: 16 }));

/** A depthwise convolution as checkpoints hold it: `name`.weight [channels, 1, taps] and `name`.bias [channels]. */
export const convolution = (name: string, channels: number, taps: number, bias: boolean): ParameterPlan => ({
  [`${name}.weight`]: { shape: [channels, 1, taps], init: uniform(taps ** -0.5) },
  ...(bias ? { [`${name}.bias`]: zeros(channels) } : {}),
});

/** The weight of `convolution` as [channels, taps]. */
export const tapsOf = (weight: Tensor): Tensor => weight.reshape([weight.shape[0]!, weight.shape[2]!]);
