import {
  boolean,
  ConfigError,
  e,
  elementwise,
  expectShape,
  expectTensor,
  integer,
  number,
  oneOf,
  ShapeError,
  sum,
  tensor,
  type ConfigOf,
  type Schema,
  type Tensor,
} from "@x/kernels";
import { expectFloat32, expectSome } from "../decay/decayed_attention.js";
import { chunkwiseMemory } from "./chunkwise.js";
import { deltaRecurrence } from "./recurrence.js";

/** What every memory of keys and values takes. */
export const MEMORY_FIELDS = {
  state: tensor("S before the first token, [batch, heads, dim, valueDim], keys first.", {
    defaultDoc: "zeros",
  }),
  scale: number("Factor of q.", { defaultDoc: "dim^-0.5" }),
  layout: oneOf('"bshd": tokens before heads in every tensor but the state.', ["bhsd", "bshd"], {
    default: "bhsd",
  }),
  form: oneOf(
    "Token after token, or chunks of tokens that are computed at the same time; both are equal up to rounding.",
    ["recurrent", "chunkwise"],
    { default: "recurrent" },
  ),
  chunkSize: integer('Tokens of a chunk, for the form "chunkwise"; the last may be shorter.', {
    min: 1,
    defaultDoc: "64",
  }),
};
export const DELTA_FIELDS = {
  ...MEMORY_FIELDS,
  qkL2norm: boolean("q and k are divided by (|x|^2 + l2Eps)^(1/2) over their features first.", {
    default: false,
  }),
  l2Eps: number("Added to the square, with qkL2norm.", { min: 0, defaultDoc: "1e-6" }),
};
export type MemoryOptions = ConfigOf<typeof MEMORY_FIELDS>;
export type DeltaRuleOptions = ConfigOf<typeof DELTA_FIELDS>;

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
  schema: Schema<typeof MEMORY_FIELDS>,
  tensors: Readonly<Record<"q" | "k" | "v", Tensor>> & Partial<Record<"g" | "beta", Tensor>>,
  options: DeltaRuleOptions,
  channels: "always" | "never" | "either" = "never",
): MemoryOutputs {
  const who = schema.name;
  const { q, k, v, g, beta } = tensors;
  const read = schema.read(options);
  const { state, scale, layout, form, chunkSize } = read;
  const { qkL2norm = false, l2Eps } = read as DeltaRuleOptions;
  for (const [name, t] of Object.entries({ ...tensors, state }))
    if (t !== undefined || name !== "state") expectTensor(who, name, t);
  if (l2Eps !== undefined && !qkL2norm)
    throw new ConfigError(who, `l2Eps is ${l2Eps}, qkL2norm false; l2Eps belongs to qkL2norm true`);
  if (chunkSize !== undefined && form !== "chunkwise")
    throw new ConfigError(who, `chunkSize is ${chunkSize}, form "${form}"; it belongs to form "chunkwise"`);
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
  const { queryHeads, keyHeads, heads, tokens, dim } = names as Record<
    "queryHeads" | "keyHeads" | "heads" | "tokens" | "dim",
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
    const inputs = { q: ready(q), k: ready(k), v, g, beta, state };
    const call = { scale: scale ?? dim ** -0.5, layout };
    // One token is a step of the recurrence in either form.
    return form === "recurrent" || tokens === 1
      ? deltaRecurrence(who, inputs, call)
      : chunkwiseMemory(inputs, { ...call, chunk: Math.min(chunkSize ?? 64, tokens) });
  });
}
