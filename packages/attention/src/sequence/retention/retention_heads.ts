import {
  ConfigError,
  e,
  elementwise,
  expectInteger,
  expectNumber,
  expectOneOf,
  linear,
  mean,
  square,
  sub,
  type Expr,
  type Tensor,
} from "@x/kernels";
import { mergeHeads, splitHeads } from "../../heads/heads.js";
import { matrix, type Plan } from "../../parameters.js";
import { Rotation, type FirstPosition } from "../state/rotation.js";

/** What stands around retention in a layer: projections, rotation, head norm, gate. */
export interface RetentionHeadsConfig {
  /** Width of x and of the output. */
  readonly dim: number;
  readonly numHeads: number;
  /** Width of all values. */
  readonly valueDim?: number | undefined;
  /**
   * Frequencies of the rotation of q and k, pairs (2i, 2i+1), P pairs: `retnet`: base^(-i/(P-1)); `rope`: base^(-i/P);
   * `none`.
   */
  readonly rotary?: "retnet" | "rope" | "none" | undefined;
  /** Default 10000. */
  readonly rotaryBase?: number | undefined;
  /**
   * Of each head and token, without parameters: `rms` (default): o / sqrt(mean(o^2) + normEps); `layer`: the mean is
   * taken off first; `none`.
   */
  readonly headNorm?: "rms" | "layer" | "none" | undefined;
  /** Default 1e-6. */
  readonly normEps?: number | undefined;
  /** `swish` (default): silu(x Wg^T) times o; `gelu`; `none`, without Wg. */
  readonly gateFn?: "swish" | "gelu" | "none" | undefined;
}

export const RETENTION_HEADS_KEYS: readonly (keyof RetentionHeadsConfig)[] = [
  "dim",
  "numHeads",
  "valueDim",
  "rotary",
  "rotaryBase",
  "headNorm",
  "normEps",
  "gateFn",
];

/** The configuration with nothing left out. */
export type RetentionHeadsSettings = {
  readonly [K in keyof RetentionHeadsConfig]-?: NonNullable<RetentionHeadsConfig[K]>;
};

/** @throws ConfigError */
export function headsSettings(
  who: string,
  config: RetentionHeadsConfig,
  defaults: { readonly valueDim: number; readonly rotary: "retnet" | "rope" },
): RetentionHeadsSettings {
  const { dim, numHeads, valueDim = defaults.valueDim, rotary = defaults.rotary } = config;
  const { rotaryBase = 10000, headNorm = "rms", normEps = 1e-6, gateFn = "swish" } = config;
  for (const [name, n] of Object.entries({ dim, numHeads, valueDim })) expectInteger(who, name, n, 1);
  for (const [name, n] of Object.entries({ dim, valueDim }))
    if (n % numHeads !== 0)
      throw new ConfigError(
        who,
        `${name} is ${n}, numHeads ${numHeads}; the first must be a multiple of the second`,
      );
  expectOneOf(who, "rotary", rotary, ["retnet", "rope", "none"]);
  if (rotary !== "none" && (dim / numHeads) % 2 !== 0)
    throw new ConfigError(
      who,
      `heads have ${dim / numHeads} features; to be turned in pairs they must be even`,
    );
  expectNumber(who, "rotaryBase", rotaryBase, 1);
  expectOneOf(who, "headNorm", headNorm, ["rms", "layer", "none"]);
  expectNumber(who, "normEps", normEps, 0);
  expectOneOf(who, "gateFn", gateFn, ["swish", "gelu", "none"]);
  return { dim, numHeads, valueDim, rotary, rotaryBase, headNorm, normEps, gateFn };
}

export const retentionHeadsPlan = ({ dim, valueDim, gateFn }: RetentionHeadsSettings): Plan => ({
  "q_proj.weight": matrix(dim, dim),
  "k_proj.weight": matrix(dim, dim),
  "v_proj.weight": matrix(valueDim, dim),
  ...(gateFn === "none" ? {} : { "g_proj.weight": matrix(valueDim, dim) }),
  "o_proj.weight": matrix(dim, valueDim),
});

const gate = (
  of: (g: Expr) => Expr,
): [scaled: (...args: (Tensor | number)[]) => Tensor, plain: (...args: (Tensor | number)[]) => Tensor] => [
  elementwise("headNormGate", ["o", "square", "eps", "g"], (o, mean, eps, g) =>
    e.mul(e.mul(o, e.rsqrt(e.add(mean, eps))), of(g)),
  ),
  elementwise("headGate", ["o", "g"], (o, g) => e.mul(o, of(g))),
];
const GATES = { swish: gate(e.silu), gelu: gate(e.gelu), none: gate((g) => g) };

/** The parts of a retention layer before and after the operator, over [batch, tokens, heads, features]. */
export class RetentionHeads {
  readonly settings: RetentionHeadsSettings;
  readonly #p: Readonly<Record<string, Tensor>>;
  readonly #rotation: Rotation | undefined;

  constructor(settings: RetentionHeadsSettings, parameters: Readonly<Record<string, Tensor>>) {
    this.settings = settings;
    this.#p = parameters;
    const { dim, numHeads, rotary, rotaryBase } = settings;
    const pairs = dim / numHeads / 2;
    const last = rotary === "rope" ? pairs : Math.max(pairs - 1, 1);
    this.#rotation =
      rotary === "none"
        ? undefined
        : new Rotation(Array.from({ length: pairs }, (_, i) => rotaryBase ** (-i / last)));
  }

  project(x: Tensor, first: FirstPosition): { q: Tensor; k: Tensor; v: Tensor } {
    const cut = (name: string): Tensor => splitHeads(x, this.settings.numHeads, this.#p[`${name}.weight`]!);
    const [q, k, v] = [cut("q_proj"), cut("k_proj"), cut("v_proj")];
    if (!this.#rotation) return { q, k, v };
    const [qTurned, kTurned] = this.#rotation.apply(q, k, first);
    return { q: qTurned, k: kTurned, v };
  }

  /** gate(x Wg^T) * norm(o), joined and projected. */
  finish(x: Tensor, o: Tensor, residual: Tensor | undefined): Tensor {
    const { headNorm, normEps, gateFn } = this.settings;
    const [scaled, plain] = GATES[gateFn];
    const g = gateFn === "none" ? 1 : linear(x, this.#p["g_proj.weight"]!).reshape(o.shape);
    const last = { axes: -1, keepDims: true };
    const centered = headNorm === "layer" ? sub(o, mean(o, last)) : o;
    const gated =
      headNorm === "none"
        ? g === 1
          ? o
          : plain(o, g)
        : scaled(centered, mean(square(centered), last), normEps, g);
    return mergeHeads(gated, this.#p["o_proj.weight"]!, undefined, residual);
  }

  dispose(): void {
    this.#rotation?.dispose();
  }
}
