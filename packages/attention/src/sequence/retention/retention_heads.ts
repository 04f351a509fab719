import {
  ConfigError,
  e,
  elementwise,
  integer,
  linear,
  matrix,
  mean,
  number,
  oneOf,
  square,
  sub,
  type Expr,
  type ParameterPlan,
  type Parameters,
  type ResolvedOf,
  type Tensor,
} from "@x/kernels";
import { mergeHeads, splitHeads } from "../../block/heads.js";
import { Rotation, type FirstPosition } from "../state/rotation.js";

/** What stands around retention in a layer: projections, rotation, head norm, gate. `rotary` and `valueDim` differ. */
export const HEADS_FIELDS = {
  dim: integer("Width of x and of the output, a multiple of numHeads.", { min: 1 }),
  numHeads: integer("Heads, each of dim / numHeads features.", { min: 1 }),
  rotaryBase: number("Base of the rotation's frequencies.", { min: 1, default: 10000 }),
  headNorm: oneOf(
    "Of each head and token, without parameters. rms: o / sqrt(mean(o^2) + normEps); layer: the mean is taken off first.",
    ["rms", "layer", "none"],
    { default: "rms" },
  ),
  normEps: number("Added to the mean square.", { min: 0, default: 1e-6 }),
  gateFn: oneOf("swish: silu(x Wg^T) times o; none: without Wg.", ["swish", "gelu", "none"], {
    default: "swish",
  }),
};
/** The rules of the rotation. */
export const ROTARY = ["retnet", "rope", "none"] as const;
export const ROTARY_DOC =
  "Frequencies of the rotation of q and k, pairs (2i, 2i+1), P pairs. retnet: base^(-i/(P-1)); rope: base^(-i/P).";

/** The heads' configuration with nothing left out. */
export interface RetentionHeadsSettings extends ResolvedOf<typeof HEADS_FIELDS> {
  /** Width of all values. */
  readonly valueDim: number;
  readonly rotary: (typeof ROTARY)[number];
}

/** What no single key says of the heads. @throws ConfigError */
export function checkRetentionHeads(who: string, settings: RetentionHeadsSettings): void {
  const { dim, numHeads, valueDim, rotary } = settings;
  for (const [name, n] of Object.entries({ dim, valueDim }))
    if (n % numHeads !== 0)
      throw new ConfigError(
        who,
        `${name} is ${n}, numHeads ${numHeads}; the first must be a multiple of the second`,
      );
  if (rotary !== "none" && (dim / numHeads) % 2 !== 0)
    throw new ConfigError(
      who,
      `heads have ${dim / numHeads} features; to be turned in pairs they must be even`,
    );
}

export const retentionHeadsPlan = ({ dim, valueDim, gateFn }: RetentionHeadsSettings): ParameterPlan => ({
  "q_proj.weight": matrix(dim, dim),
  "k_proj.weight": matrix(dim, dim),
  "v_proj.weight": matrix(valueDim, dim, "value"),
  ...(gateFn === "none" ? {} : { "g_proj.weight": matrix(valueDim, dim) }),
  "o_proj.weight": matrix(dim, valueDim, "output"),
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
  readonly #p: Parameters;
  readonly #rotation: Rotation | undefined;

  constructor(settings: RetentionHeadsSettings, parameters: Parameters) {
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
