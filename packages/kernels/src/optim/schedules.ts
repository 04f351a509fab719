import { ConfigError } from "../base/errors.js";
import { expectInteger, expectNumber } from "../base/validate.js";

/** Learning rate of a step, counted from 0. */
export type Schedule = (step: number) => number;

interface Warm {
  /** The highest rate. */
  readonly peak: number;
  /** Steps of linear growth; step 0 has peak / warmup. */
  readonly warmup?: number;
}

function warm(who: string, { peak, warmup = 0 }: Warm, then: Schedule): Schedule {
  expectNumber(who, "peak", peak, 0);
  expectInteger(who, "warmup", warmup, 0);
  return (step) => (step < warmup ? (peak * (step + 1)) / warmup : then(step));
}

function expectSteps(who: string, steps: number, warmup: number): void {
  expectInteger(who, "steps", steps, 1);
  if (warmup > steps) throw new ConfigError(who, `warmup is ${warmup}; it must not exceed steps (${steps})`);
}

/** The same rate after the warm-up. */
export function constantSchedule(options: Warm): Schedule {
  return warm("constantSchedule", options, () => options.peak);
}

/** Warm-up, then a straight line from the peak to `floor` at the last step. */
export function linearSchedule(
  options: Warm & { readonly steps: number; readonly floor?: number },
): Schedule {
  const { peak, warmup = 0, steps, floor = 0 } = options;
  expectSteps("linearSchedule", steps, warmup);
  return warm(
    "linearSchedule",
    options,
    (step) => floor + (peak - floor) * (1 - progress(step, warmup, steps)),
  );
}

/** Warm-up, then half a cosine from the peak to `floor` (Loshchilov and Hutter 2017, equation 5). */
export function cosineSchedule(
  options: Warm & { readonly steps: number; readonly floor?: number },
): Schedule {
  const { peak, warmup = 0, steps, floor = 0 } = options;
  expectSteps("cosineSchedule", steps, warmup);
  return warm(
    "cosineSchedule",
    options,
    (step) => floor + 0.5 * (peak - floor) * (1 + Math.cos(Math.PI * progress(step, warmup, steps))),
  );
}

/** Warm-up, a plateau, and a straight decay over the last `decay` steps (Hu et al. 2024, MiniCPM). */
export function warmupStableDecaySchedule(
  options: Warm & { readonly steps: number; readonly decay: number; readonly floor?: number },
): Schedule {
  const { peak, warmup = 0, steps, decay, floor = 0 } = options;
  expectSteps("warmupStableDecaySchedule", steps, warmup);
  expectInteger("warmupStableDecaySchedule", "decay", decay, 1, steps);
  return warm("warmupStableDecaySchedule", options, (step) => {
    const left = steps - 1 - step;
    return left >= decay ? peak : floor + (peak - floor) * Math.max(0, left / decay);
  });
}

/** peak min(1, sqrt(warmup / step)) after the warm-up (Vaswani et al. 2017, equation 3). */
export function inverseSqrtSchedule(options: Warm & { readonly warmup: number }): Schedule {
  return warm(
    "inverseSqrtSchedule",
    options,
    (step) => options.peak * Math.sqrt(Math.max(1, options.warmup) / (step + 1)),
  );
}

/** 0 at the end of the warm-up, 1 at the last step and after it. */
function progress(step: number, warmup: number, steps: number): number {
  return Math.min(1, (step - warmup) / Math.max(1, steps - 1 - warmup));
}
