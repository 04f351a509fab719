import {
  ConfigError,
  expectInteger,
  expectOneOf,
  integer,
  number,
  oneOf,
  schema,
  value,
  type Config,
} from "@x/kernels";
import { inverseFrequencies, type RopeBase, type RopeFrequencies } from "./frequencies.js";
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

const METHODS: {
  readonly [T in RopeScaling["type"]]: (
    base: RopeBase,
    scaling: Extract<RopeScaling, { type: T }>,
  ) => RopeFrequencies;
} = {
  none: (base) => ({ invFreq: inverseFrequencies(base), attentionFactor: 1 }),
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

const isScaling = (given: unknown): given is RopeScaling =>
  typeof given === "object" && given !== null && "type" in given;

export const ROPE = schema("RotaryEmbedding", {
  headDim: integer("Width of a head.", { min: 2 }),
  rotaryDim: integer("Features that turn, the first ones; even.", { min: 2, defaultDoc: "headDim" }),
  base: number("Base of the frequencies.", { min: Number.MIN_VALUE, default: 10000 }),
  layout: oneOf(
    'Pairs (i, i + n), as Hugging Face\'s Llama family, or "interleaved": (2 i, 2 i + 1).',
    ["half", "interleaved"],
    { default: "half" },
  ),
  scaling: value(
    "How the frequencies are changed for a longer context.",
    `object with a type: ${Object.keys(METHODS).join(", ")}`,
    isScaling,
    { defaultDoc: '{ "type": "none" }' },
  ),
});
export type RopeConfig = Config<typeof ROPE>;

/** A checked configuration with its defaults. */
export interface ResolvedRope {
  readonly headDim: number;
  readonly rotaryDim: number;
  readonly base: number;
  readonly layout: "half" | "interleaved";
  readonly scaling: RopeScaling;
}

/** @throws ConfigError */
export function resolveRope(who: string, config: RopeConfig): ResolvedRope {
  const read = ROPE.read(config, who);
  const { headDim, rotaryDim = headDim, scaling = { type: "none" } } = read;
  expectInteger(who, "rotaryDim", rotaryDim, 2, headDim);
  if (rotaryDim % 2 !== 0) throw new ConfigError(who, `rotaryDim is ${rotaryDim}; it must be even`);
  expectOneOf(who, "scaling.type", scaling.type, Object.keys(METHODS) as RopeScaling["type"][]);
  return { ...read, rotaryDim, scaling };
}

/** Frequencies of a configuration for a sequence of `seqLen` tokens, in double precision. @throws ConfigError */
export function ropeFrequencies(config: RopeConfig, seqLen = 0): RopeFrequencies {
  const { rotaryDim, base, scaling } = resolveRope("ropeFrequencies", config);
  expectInteger("ropeFrequencies", "seqLen", seqLen, 0);
  const method = METHODS[scaling.type] as (base: RopeBase, scaling: RopeScaling) => RopeFrequencies;
  return method({ d: rotaryDim, base, seqLen }, scaling);
}
