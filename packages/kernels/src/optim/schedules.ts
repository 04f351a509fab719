import { ConfigError } from "../base/errors.js";
import { checkConfig, expectInteger, expectNumber } from "../base/validate.js";

/** Learning rate of a step, counted from 0. */
export type Schedule = (step: number) => number;

interface Warm {
  /** The highest rate. */
  readonly peak: number;
  /** Steps of linear growth; step 0 has peak / warmup. */
  readonly warmup?: number;
}

type Falling = Warm & { readonly steps: number; readonly floor?: number };

/** The checked options, with their defaults. @throws ConfigError */
function read(who: string, options: Warm, ...more: string[]): Required<Falling> {
  checkConfig(who, options, ["peak", "warmup", ...more]);
  const { peak, warmup = 0, steps = Infinity, floor = 0 } = options as Warm & Partial<Falling>;
  expectNumber(who, "peak", peak, 0);
  expectInteger(who, "warmup", warmup, 0);
  if (more.includes("steps")) expectInteger(who, "steps", steps, 1);
  if (warmup > steps) throw new ConfigError(who, `warmup is ${warmup}; it must not exceed steps (${steps})`);
  expectNumber(who, "floor", floor);
  return { peak, warmup, steps, floor };
}

const warm =
  ({ peak, warmup }: Required<Warm>, then: Schedule): Schedule =>
  (step) =>
    step < warmup ? (peak * (step + 1)) / warmup : then(step);

/** The same rate after the warm-up. @throws ConfigError */
export function constantSchedule(options: Warm): Schedule {
  const own = read("constantSchedule", options);
  return warm(own, () => own.peak);
}

/** Warm-up, then a straight line from the peak to `floor` at the last step. @throws ConfigError */
export function linearSchedule(options: Falling): Schedule {
  const own = read("linearSchedule", options, "steps", "floor");
  const { peak, floor } = own;
  return warm(own, (step) => floor + (peak - floor) * (1 - progress(step, own)));
}

/** Warm-up, then half a cosine from the peak to `floor` (Loshchilov and Hutter 2017, equation 5). @throws ConfigError */
export function cosineSchedule(options: Falling): Schedule {
  const own = read("cosineSchedule", options, "steps", "floor");
  const { peak, floor } = own;
  return warm(own, (step) => floor + 0.5 * (peak - floor) * (1 + Math.cos(Math.PI * progress(step, own))));
}

/**
 * Warm-up, a plateau, and a straight decay over the last `decay` steps (Hu et al. 2024, MiniCPM).
 *
 * @throws ConfigError
 */
export function warmupStableDecaySchedule(options: Falling & { readonly decay: number }): Schedule {
  const own = read("warmupStableDecaySchedule", options, "steps", "floor", "decay");
  const { peak, floor, steps } = own;
  const { decay } = options;
  expectInteger("warmupStableDecaySchedule", "decay", decay, 1, steps);
  return warm(own, (step) => {
    const left = steps - 1 - step;
    return left >= decay ? peak : floor + (peak - floor) * Math.max(0, left / decay);
  });
}

/** peak min(1, sqrt(warmup / step)) after the warm-up (Vaswani et al. 2017, equation 3). @throws ConfigError */
export function inverseSqrtSchedule(options: Warm & { readonly warmup: number }): Schedule {
  const own = read("inverseSqrtSchedule", options);
  expectInteger("inverseSqrtSchedule", "warmup", options.warmup, 0);
  return warm(own, (step) => own.peak * Math.sqrt(Math.max(1, own.warmup) / (step + 1)));
}

/** 0 at the end of the warm-up, 1 at the last step and after it. */
function progress(step: number, { warmup, steps }: Required<Falling>): number {
  return Math.min(1, (step - warmup) / Math.max(1, steps - 1 - warmup));
}
