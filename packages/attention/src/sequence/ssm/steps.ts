import { expectNumber, number, randomUniform, type Draw } from "@x/kernels";

/** The keys that say which steps a state space model starts with. */
export const STEPS = {
  dtMin: number("Least step at the beginning, at most dtMax; steps are log-uniform.", {
    min: 1e-6,
    default: 0.001,
  }),
  dtMax: number("Largest step at the beginning.", { min: 1e-6, default: 0.1 }),
};

/** The ln of log-uniform steps. @throws ConfigError where dtMin is above dtMax */
export function logSteps(who: string, dtMin: number, dtMax: number): Draw {
  expectNumber(who, "dtMin", dtMin, 1e-6, dtMax);
  return (gpu, shape, random) =>
    randomUniform(gpu, shape, { ...random, low: Math.log(dtMin), high: Math.log(dtMax) });
}
