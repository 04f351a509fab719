import { checkConfig, ConfigError, expectInteger, expectNumber, expectOneOf } from "@x/kernels";
import { plainFrequencies, type RopeBase, type RopeFrequencies } from "./frequencies.js";
import { customFrequencies, type CustomScaling } from "./scaling/custom.js";
import { dynamicNtkFrequencies, type DynamicNtkScaling } from "./scaling/dynamic_ntk.js";
import { linearFrequencies, type LinearScaling } from "./scaling/linear.js";
import { llama3Frequencies, type Llama3Scaling } from "./scaling/llama3.js";
import { longropeFrequencies, type LongropeScaling } from "./scaling/longrope.js";
import { ntkFrequencies, type NtkScaling } from "./scaling/ntk.js";
import { ntkByPartsFrequencies, type NtkByPartsScaling } from "./scaling/ntk_by_parts.js";
import { superhotFrequencies, type SuperhotScaling } from "./scaling/superhot.js";
import { yarnFrequencies, type YarnScaling } from "./scaling/yarn.js";

/** How the frequencies are changed for a longer context; one file per method. */
export type RopeScaling =
  | { readonly type: "none" }
  | LinearScaling
  | SuperhotScaling
  | NtkScaling
  | DynamicNtkScaling
  | NtkByPartsScaling
  | YarnScaling
  | LongropeScaling
  | Llama3Scaling
  | CustomScaling;

export interface RopeConfig {
  readonly headDim: number;
  /** Features that turn, the first ones; even, default headDim. */
  readonly rotaryDim?: number;
  /** Default 10000. */
  readonly base?: number;
  /** "half" pairs (i, i + n), as Hugging Face's Llama family; "interleaved" pairs (2i, 2i + 1). Default "half". */
  readonly layout?: "half" | "interleaved";
  readonly scaling?: RopeScaling;
}

const METHODS: {
  readonly [T in RopeScaling["type"]]: (
    base: RopeBase,
    scaling: Extract<RopeScaling, { type: T }>,
  ) => RopeFrequencies;
} = {
  none: (base) => ({ invFreq: plainFrequencies(base), attentionFactor: 1 }),
  linear: linearFrequencies,
  superhot: superhotFrequencies,
  ntk: ntkFrequencies,
  dynamicNtk: dynamicNtkFrequencies,
  ntkByParts: ntkByPartsFrequencies,
  yarn: yarnFrequencies,
  longrope: longropeFrequencies,
  llama3: llama3Frequencies,
  custom: customFrequencies,
};

/** A checked configuration with its defaults. */
export interface ResolvedRope {
  readonly headDim: number;
  readonly rotaryDim: number;
  readonly base: number;
  readonly layout: "half" | "interleaved";
  readonly scaling: RopeScaling;
}

export function resolveRope(who: string, config: RopeConfig): ResolvedRope {
  checkConfig(who, config, ["headDim", "rotaryDim", "base", "layout", "scaling"]);
  const { headDim, rotaryDim = headDim, base = 10000, layout = "half", scaling = { type: "none" } } = config;
  expectInteger(who, "headDim", headDim, 1);
  expectInteger(who, "rotaryDim", rotaryDim, 2, headDim);
  if (rotaryDim % 2 !== 0) throw new ConfigError(who, `rotaryDim is ${rotaryDim}; it must be even`);
  expectNumber(who, "base", base, Number.MIN_VALUE);
  expectOneOf(who, "layout", layout, ["half", "interleaved"]);
  expectOneOf(who, "scaling.type", scaling.type, Object.keys(METHODS) as RopeScaling["type"][]);
  return { headDim, rotaryDim, base, layout, scaling };
}

/** Frequencies of a configuration for a sequence of `seqLen` tokens, in double precision. */
export function ropeFrequencies(config: RopeConfig, seqLen = 0): RopeFrequencies {
  const { rotaryDim, base, scaling } = resolveRope("ropeFrequencies", config);
  const method = METHODS[scaling.type] as (base: RopeBase, scaling: RopeScaling) => RopeFrequencies;
  return method({ d: rotaryDim, base, seqLen }, scaling);
}
