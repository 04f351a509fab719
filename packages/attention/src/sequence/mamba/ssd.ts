import {
  boolean,
  e,
  elementwise,
  expectShape,
  integer,
  oneOf,
  schema,
  ShapeError,
  tensor,
  value,
  type Config,
  type Expr,
  type Field,
  type Tensor,
} from "@x/kernels";
import { chunkOf, decayedAttention, expectFloat32, expectSome, FORMS } from "../decay/decayed_attention.js";

const isLimit = (given: unknown): given is readonly [low: number, high: number] => {
  if (!Array.isArray(given) || given.length !== 2) return false;
  const [low, high] = given as unknown[];
  return typeof low === "number" && typeof high === "number" && low <= high;
};

/** Bounds of the step in a schema. */
export const DT_LIMIT: Field<readonly [low: number, high: number], "optional"> = value(
  "Bounds of the step, after the softplus; they may be infinite.",
  "[low, high], two numbers in order",
  isLimit,
  { defaultDoc: "none" },
);

const PARAMETERS = schema("ssd", {
  a: tensor("Rates of the decays, [heads], negative."),
  dSkip: tensor("Factor of x in the output, [heads]."),
  dtBias: tensor("Added to dt first, [heads].", { optional: true }),
});
export type SsdParameters = Config<typeof PARAMETERS>;

const OPTIONS = schema("ssd", {
  form: oneOf("How a sequence is gone through; the forms are equal up to rounding.", FORMS, {
    default: "chunkwise",
  }),
  chunkSize: integer('Tokens of a chunk, for the form "chunkwise".', { min: 1, defaultDoc: "64" }),
  state: tensor("S before the first token, [batch, heads, headDim, stateSize].", { defaultDoc: "zeros" }),
  dtSoftplus: boolean("dt goes through softplus.", { default: false }),
  dtLimit: DT_LIMIT,
  layout: oneOf('"bshd": tokens before heads in every tensor.', ["bhsd", "bshd"], { default: "bhsd" }),
});
export type SsdOptions = Config<typeof OPTIONS>;

/** The step, as both what enters the state and what it forgets need it. */
function stepOps(soft: boolean): {
  input: (...args: (Tensor | number)[]) => Tensor;
  decay: (...args: (Tensor | number)[]) => Tensor;
} {
  const step = (dt: Expr, bias: Expr, low: Expr, high: Expr): Expr => {
    const raw = e.add(dt, bias);
    return e.min(e.max(soft ? e.softplus(raw) : raw, low), high);
  };
  const names = ["y", "dt", "bias", "low", "high"];
  const times = (y: Expr, ...rest: [Expr, Expr, Expr, Expr]): Expr => e.mul(y, step(...rest));
  return {
    input: elementwise("ssdInput", names, times),
    decay: elementwise("ssdDecay", names, times),
  };
}
const PLAIN = stepOps(false);
const SOFT = stepOps(true);
const skip = elementwise("ssdSkip", ["y", "x", "d"], (y, x, d) => e.add(y, e.mul(x, d)));

/**
 * State space duality (Mamba-2): one scalar decay for a head and token,
 *
 *   S_t = exp(dt_t a) S_{t-1} + dt_t x_t b_t^T, y_t = S_t c_t + dSkip x_t.
 *
 * x [batch, heads, tokens, headDim], dt [batch, heads, tokens], b, c [batch, groups, tokens, stateSize], of which head h
 * takes group floor(h groups / heads); all f32. Gives y and the state [batch, heads, headDim, stateSize] after the last
 * token, which continues the sequence. Differentiable in all of them.
 * Dao and Gu 2024, arXiv:2405.21060, sections 5 and 6.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function ssd(
  x: Tensor,
  dt: Tensor,
  b: Tensor,
  c: Tensor,
  parameters: SsdParameters,
  options: SsdOptions = {},
): { out: Tensor; state: Tensor } {
  const who = "ssd";
  const { a, dSkip, dtBias } = PARAMETERS.read(parameters);
  const { form, chunkSize: size, state, dtSoftplus, dtLimit = [-3e38, 3e38], layout } = OPTIONS.read(options);
  const order = (head: string): string[] => (layout === "bhsd" ? [head, "tokens"] : ["tokens", head]);
  const names = expectShape(who, "x", x, ["batch", ...order("heads"), "headDim"]);
  expectShape(who, "dt", dt, ["batch", ...order("heads")], names);
  expectShape(who, "b", b, ["batch", ...order("groups"), "stateSize"], names);
  expectShape(who, "c", c, ["batch", ...order("groups"), "stateSize"], names);
  for (const [name, t] of Object.entries({ a, dSkip, dtBias }))
    if (t !== undefined) expectShape(who, name, t, ["heads"], names);
  if (state) expectShape(who, "state", state, ["batch", "heads", "headDim", "stateSize"], names);
  expectFloat32(who, { x, dt, b, c, a, dSkip, dtBias, state });
  expectSome(who, { x, b });
  const { heads, groups, tokens } = names as Record<"heads" | "groups" | "tokens", number>;
  if (heads % groups !== 0)
    throw new ShapeError(
      who,
      `x has ${heads} heads, b ${groups} groups; the first must be a multiple of the second`,
    );
  const [low, high] = [Math.max(dtLimit[0], -3e38), Math.min(dtLimit[1], 3e38)];
  const chunkSize = size ?? (form === "chunkwise" ? 64 : undefined);
  const chunk = chunkOf(who, { form, chunkSize }, tokens);
  return x.gpu.scope(() => {
    const { input, decay } = dtSoftplus ? SOFT : PLAIN;
    // [heads] beside the tokens and features of each head.
    const beside = (t: Tensor, axes: number): Tensor =>
      t.reshape([heads, ...Array<number>(layout === "bhsd" ? axes : axes - 1).fill(1)]);
    const entering = input(x, dt.reshape([...dt.shape, 1]), dtBias ? beside(dtBias, 2) : 0, low, high);
    const logDecay = decay(beside(a, 1), dt, dtBias ? beside(dtBias, 1) : 0, low, high);
    const { out, state: next } = decayedAttention(
      who,
      { q: c, k: b, v: entering, logDecay, state },
      { chunk, scale: 1, layout, valuesFirst: true },
    );
    return { out: skip(out, x, beside(dSkip, 2)), state: next };
  });
}
