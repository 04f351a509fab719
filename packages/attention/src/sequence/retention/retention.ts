import {
  boolean,
  ConfigError,
  e,
  either,
  elementwise,
  integer,
  listOf,
  mul,
  number,
  oneOf,
  schema,
  stopGradient,
  tensor,
  type Config,
  type ResolvedOf,
  type Tensor,
} from "@x/kernels";
import {
  chunkOf,
  decayedAttention,
  decayedRowSums,
  expectHeads,
  FORM_FIELDS,
  type DecayedInputs,
  type DecayedOptions,
} from "../decay/decayed_attention.js";
import { rowNorms } from "../state/row_norms.js";

/** The keys of the operator, which its layer has too. */
export const RETENTION_FIELDS = {
  ...FORM_FIELDS,
  scale: number("Factor of k.", { defaultDoc: "headDim^-0.5" }),
  decay: either(
    oneOf("A rule.", ["retnet", "logLinspace"]),
    listOf(number("gamma.", { min: Number.MIN_VALUE, max: 1 }), "One for each head."),
    (given) => typeof given === "string",
    "gamma by head. retnet: 1 - 2^(-5-h); logLinspace: 1 - exp(linspace(ln 1/32, ln 1/512, heads)).",
    { default: "retnet" },
  ),
  decayNorm: boolean("Row t times (sum_{j=0..offset+t} gamma^j)^-0.5.", { default: false }),
  denominator: oneOf(
    "sumAbs: row t divided by clamp(sum_u |R_tu|, 1, 50000), R the weights of the values; absSum: by " +
      "clamp(|sum_u R_tu|, 1, 50000). A constant for the gradient; form parallel without a state.",
    ["none", "sumAbs", "absSum"],
    { default: "none" },
  ),
};
const OPTIONS = schema("retention", {
  ...RETENTION_FIELDS,
  state: tensor("[batch, heads, dim, valueDim]: S before the first token; zeros where it is left out.", {
    optional: true,
  }),
  offset: integer("Tokens that the state has seen, for decayNorm.", { min: 0, default: 0 }),
});
export type RetentionOptions = Config<typeof OPTIONS>;
type RetentionSettings = ResolvedOf<typeof RETENTION_FIELDS>;

/** What no single key says of a configuration that was read. @throws ConfigError */
export function checkRetention(who: string, config: RetentionSettings, heads: number): void {
  const { decay, denominator, form = "parallel" } = config;
  chunkOf(who, config, 1);
  if (typeof decay !== "string" && decay.length !== heads)
    throw new ConfigError(
      who,
      `decay has ${decay.length} numbers; it must have one for each of ${heads} heads`,
    );
  if (denominator !== "none" && form !== "parallel")
    throw new ConfigError(who, `denominator is "${denominator}", form "${form}"; it needs form "parallel"`);
}

/** ln gamma of every head, in double precision. */
export function logGammas(decay: RetentionSettings["decay"], heads: number): number[] {
  const { log, log1p, exp } = Math;
  return Array.from({ length: heads }, (_, h) => {
    if (typeof decay === "object") return log(decay[h]!);
    if (decay !== "logLinspace") return log1p(-(2 ** (-5 - h)));
    const step = heads > 1 ? (log(1 / 512) - log(1 / 32)) / (heads - 1) : 0;
    return log1p(-exp(log(1 / 32) + h * step));
  });
}

const normalized = elementwise("retentionDenominator", ["x", "c", "sum"], (x, c, sum) =>
  e.div(e.mul(x, c), e.min(e.max(e.abs(e.mul(c, sum)), 1), 50000)),
);

/**
 * Retention with its rows' factors. `norms` are the c_t in a shape that broadcasts to the output.
 * @throws ConfigError if a denominator meets a state
 */
export function retain(
  who: string,
  inputs: DecayedInputs,
  { denominator }: Pick<RetentionSettings, "denominator">,
  options: DecayedOptions,
  norms: Tensor | undefined,
): { out: Tensor; state: Tensor } {
  if (denominator !== "none" && inputs.state)
    throw new ConfigError(
      who,
      `denominator is "${denominator}" and a state is given; it needs a whole sequence`,
    );
  const { out, state } = decayedAttention(who, inputs, options);
  if (denominator === "none") return { out: norms ? mul(out, norms) : out, state };
  const { scale, layout = "bhsd" } = options;
  const sums = decayedRowSums(
    { q: stopGradient(inputs.q), k: stopGradient(inputs.k), logDecay: inputs.logDecay },
    { scale, layout, absolute: denominator === "sumAbs" },
  );
  return { out: normalized(out, norms ?? 1, sums), state };
}

/**
 * Retention: S_t = gamma_h S_{t-1} + scale k_t^T v_t, out_t = q_t S_t, with a constant decay gamma_h for head h.
 *
 * q, k [batch, heads, tokens, dim], v [batch, heads, tokens, valueDim], all f32. Gives out [batch, heads, tokens, valueDim]
 * and the state after the last token, which continues the sequence; neither factor of the rows touches it.
 * Differentiable in q, k, v and state. Sun et al. 2023, arXiv:2307.08621, equations 5 to 8 and section 2.2.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function retention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: RetentionOptions = {},
): { out: Tensor; state: Tensor } {
  const who = OPTIONS.name;
  const read = OPTIONS.read(options);
  const { state, offset, decay, decayNorm, scale } = read;
  const { heads, tokens, dim } = expectHeads(who, { q, k, v, state });
  checkRetention(who, read, heads);
  const { gpu } = q;
  return gpu.scope(() => {
    const logDecay = gpu.tensor(logGammas(decay, heads), [heads]);
    const norms = decayNorm ? rowNorms(logDecay, tokens, offset, "heads") : undefined;
    return retain(
      who,
      { q, k, v, logDecay, state },
      read,
      { chunk: chunkOf(who, read, tokens), scale: scale ?? dim ** -0.5 },
      norms,
    );
  });
}
