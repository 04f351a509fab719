import {
  checkConfig,
  ConfigError,
  e,
  elementwise,
  expectBoolean,
  expectNumber,
  expectOneOf,
  expectShape,
  expectTensor,
  ShapeError,
  sum,
  type Tensor,
} from "@x/kernels";
import type { AttentionLayout } from "../../engine/options.js";
import { expectFloat32, expectSome } from "../decay/decayed_attention.js";
import { deltaRecurrence } from "./recurrence.js";

/** What every memory of keys and values takes. */
export interface MemoryOptions {
  /** [batch, heads, dim, valueDim], keys first: S before the first token; default zeros. */
  readonly state?: Tensor | undefined;
  /** Factor of q; default dim^-0.5. */
  readonly scale?: number | undefined;
  /** "bshd": tokens before heads in every tensor but the state; default "bhsd". */
  readonly layout?: AttentionLayout | undefined;
}

export interface DeltaRuleOptions extends MemoryOptions {
  /** q and k are divided by (|x|^2 + l2Eps)^(1/2) over their features first; default false. */
  readonly qkL2norm?: boolean | undefined;
  /** With qkL2norm; default 1e-6. */
  readonly l2Eps?: number | undefined;
}

/** The output and the state after the last token, which continues the sequence. */
export interface MemoryOutputs {
  readonly out: Tensor;
  readonly state: Tensor;
}

const squared = elementwise("squared", ["x"], (x) => e.mul(x, x));
const divided = elementwise("l2norm", ["x", "sum", "eps"], (x, total, eps) =>
  e.mul(x, e.rsqrt(e.add(total, eps))),
);
const unit = (x: Tensor, eps: number): Tensor =>
  divided(x, sum(squared(x), { axes: -1, keepDims: true }), eps);

/**
 * Check a memory's tensors and options and run it; `channels` says whether g may, must or must not have the channels of the
 * keys as its last axis.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function memory(
  who: string,
  tensors: Readonly<Record<"q" | "k" | "v", Tensor>> & Partial<Record<"g" | "beta", Tensor>>,
  options: DeltaRuleOptions,
  known: readonly string[],
  channels: "always" | "never" | "either" = "never",
): MemoryOutputs {
  checkConfig(who, options, known);
  const { q, k, v, g, beta } = tensors;
  const { state, scale, layout = "bhsd", qkL2norm = false, l2Eps } = options;
  for (const [name, t] of Object.entries({ ...tensors, state }))
    if (t !== undefined || name !== "state") expectTensor(who, name, t);
  expectOneOf(who, "layout", layout, ["bhsd", "bshd"]);
  if (scale !== undefined) expectNumber(who, "scale", scale);
  expectBoolean(who, "qkL2norm", qkL2norm);
  if (l2Eps !== undefined) {
    expectNumber(who, "l2Eps", l2Eps, 0);
    if (!qkL2norm)
      throw new ConfigError(who, `l2Eps is ${l2Eps}, qkL2norm false; l2Eps belongs to qkL2norm true`);
  }
  const order = (heads: string): string[] =>
    layout === "bhsd" ? ["batch", heads, "tokens"] : ["batch", "tokens", heads];
  const names = expectShape(who, "q", q, [...order("queryHeads"), "dim"]);
  expectShape(who, "k", k, [...order("keyHeads"), "dim"], names);
  expectShape(who, "v", v, [...order("heads"), "valueDim"], names);
  if (beta) expectShape(who, "beta", beta, order("heads"), names);
  if (g) {
    const byChannel = channels === "always" || (channels === "either" && g.rank === 4);
    expectShape(who, "g", g, [...order("heads"), ...(byChannel ? ["dim"] : [])], names);
  }
  if (state) expectShape(who, "state", state, ["batch", "heads", "dim", "valueDim"], names);
  expectFloat32(who, { q, k, v, g, beta, state });
  expectSome(who, { q, k, v });
  const { queryHeads, keyHeads, heads, dim } = names as Record<
    "queryHeads" | "keyHeads" | "heads" | "dim",
    number
  >;
  if (heads % queryHeads !== 0 && queryHeads % heads !== 0)
    throw new ShapeError(who, `q has ${queryHeads} heads, v ${heads}; one must be a multiple of the other`);
  if (heads % keyHeads !== 0)
    throw new ShapeError(
      who,
      `k has ${keyHeads} heads, v ${heads}; those of v must be a multiple of those of k`,
    );
  return v.gpu.scope(() => {
    const ready = (x: Tensor): Tensor => (qkL2norm ? unit(x, l2Eps ?? 1e-6) : x);
    return deltaRecurrence(
      who,
      { q: ready(q), k: ready(k), v, g, beta, state },
      { scale: scale ?? dim ** -0.5, layout },
    );
  });
}

export const memoryKeys: readonly string[] = ["state", "scale", "layout"];
export const deltaKeys: readonly string[] = [...memoryKeys, "qkL2norm", "l2Eps"];
