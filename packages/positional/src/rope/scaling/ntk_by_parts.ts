import {
  checkConfig,
  ConfigError,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectOneOf,
} from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "../frequencies.js";

/** NTK-by-parts: fast pairs stay, slow ones are interpolated, between them a ramp. */
export interface NtkByPartsScaling {
  readonly type: "ntkByParts";
  readonly factor: number;
  readonly originalMaxPositionEmbeddings: number;
  /** Turns over the trained length from which a pair stays as it is; default 32. */
  readonly betaFast?: number;
  /** Turns below which a pair is interpolated whole; default 1. */
  readonly betaSlow?: number;
  /** The ramp is linear in turns (the paper) or in the pair's index (the public YaRN code). */
  readonly rampSpace?: "rotations" | "index";
  /** Round the bounds of the index ramp outwards; default true. */
  readonly truncate?: boolean;
}

export interface Ramp {
  readonly L: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  readonly space: "rotations" | "index";
  readonly truncate: boolean;
}

/** @throws ConfigError */
export function checkRamp(who: string, { L, betaFast, betaSlow, space, truncate }: Ramp): void {
  expectInteger(who, "originalMaxPositionEmbeddings", L, 1);
  expectNumber(who, "betaSlow", betaSlow, Number.MIN_VALUE);
  expectNumber(who, "betaFast", betaFast, betaSlow);
  expectOneOf(who, "rampSpace", space, ["rotations", "index"]);
  if (space === "rotations" && betaFast === betaSlow)
    throw new ConfigError(
      who,
      `betaFast is ${betaFast}; it must be above betaSlow where the ramp is in turns`,
    );
  expectBoolean(who, "truncate", truncate);
}

/** 1 where a pair keeps its frequency, 0 where it is divided by the factor. */
export function keepShare(
  { d, base }: Pick<RopeBase, "d" | "base">,
  { L, betaFast, betaSlow, space, truncate }: Ramp,
): Float64Array {
  const clamp = (x: number): number => Math.min(1, Math.max(0, x));
  if (space === "rotations") {
    return inverseFrequencies({ d, base }).map((theta) =>
      clamp(((L * theta) / (2 * Math.PI) - betaSlow) / (betaFast - betaSlow)),
    );
  }
  const bound = (turns: number): number => (d * Math.log(L / (2 * Math.PI * turns))) / (2 * Math.log(base));
  let [low, high] = [bound(betaFast), bound(betaSlow)];
  if (truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, d - 1);
  if (low === high) high += 0.001;
  return Float64Array.from({ length: d / 2 }, (_, i) => 1 - clamp((i - low) / (high - low)));
}

/** g theta + (1 - g) theta / factor, pair by pair. */
export function blend(base: Pick<RopeBase, "d" | "base">, keep: Float64Array, factor: number): Float64Array {
  return inverseFrequencies(base).map((theta, i) => keep[i]! * theta + ((1 - keep[i]!) * theta) / factor);
}

/** arXiv:2309.00071, section 3.2. */
export function ntkByPartsFrequencies(base: RopeBase, scaling: NtkByPartsScaling): RopeFrequencies {
  const who = "rope ntkByParts";
  checkConfig(who, scaling, [
    "type",
    "factor",
    "originalMaxPositionEmbeddings",
    "betaFast",
    "betaSlow",
    "rampSpace",
    "truncate",
  ]);
  const {
    factor,
    originalMaxPositionEmbeddings: L,
    betaFast = 32,
    betaSlow = 1,
    rampSpace = "rotations",
    truncate = true,
  } = scaling;
  expectNumber(who, "factor", factor, 1);
  const ramp = { L, betaFast, betaSlow, space: rampSpace, truncate };
  checkRamp(who, ramp);
  return { invFreq: blend(base, keepShare(base, ramp), factor), attentionFactor: 1 };
}
