import {
  checkConfig,
  ConfigError,
  e,
  elementwise,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectOneOf,
  mul,
  stopGradient,
  type Tensor,
} from "@x/kernels";
import {
  chunkOf,
  decayedAttention,
  decayedRowSums,
  expectHeads,
  type DecayedInputs,
  type DecayedOptions,
  type SequenceForm,
} from "../decay/decayed_attention.js";
import { rowNorms } from "../state/row_norms.js";

export interface RetentionConfig extends SequenceForm {
  /** Factor of k; default dim^-0.5. */
  readonly scale?: number | undefined;
  /**
   * gamma by head: `retnet` (default): 1 - 2^(-5-h); `logLinspace`: 1 - exp(linspace(ln 1/32, ln 1/512, heads)); or a
   * list of numbers in (0, 1].
   */
  readonly decay?: "retnet" | "logLinspace" | readonly number[] | undefined;
  /** Row t times (sum_{j=0..offset+t} gamma^j)^-0.5; default false. */
  readonly decayNorm?: boolean | undefined;
  /**
   * `sumAbs`: row t divided by clamp(sum_u |R_tu|, 1, 50000), R the weights of the values; `absSum`: by
   * clamp(|sum_u R_tu|, 1, 50000); `none` (default). A constant for the gradient; form `parallel` without a state.
   */
  readonly denominator?: "none" | "sumAbs" | "absSum" | undefined;
}

export interface RetentionOptions extends RetentionConfig {
  /** [batch, heads, dim, valueDim]: S before the first token; default zeros. */
  readonly state?: Tensor | undefined;
  /** Tokens that the state has seen, for `decayNorm`; default 0. */
  readonly offset?: number | undefined;
}

export const RETENTION_KEYS: readonly (keyof RetentionConfig)[] = [
  "form",
  "chunkSize",
  "scale",
  "decay",
  "decayNorm",
  "denominator",
];

/** @throws ConfigError */
export function checkRetention(who: string, config: RetentionConfig, heads: number): void {
  const { scale, decay = "retnet", decayNorm = false, denominator = "none", form = "parallel" } = config;
  expectBoolean(who, "decayNorm", decayNorm);
  chunkOf(who, config, 1);
  if (scale !== undefined) expectNumber(who, "scale", scale);
  if (typeof decay === "string") expectOneOf(who, "decay", decay, ["retnet", "logLinspace"]);
  else {
    if (!Array.isArray(decay))
      throw new ConfigError(who, `decay is ${String(decay)}; it must be a name or a list of numbers`);
    if (decay.length !== heads)
      throw new ConfigError(
        who,
        `decay has ${decay.length} numbers; it must have one for each of ${heads} heads`,
      );
    for (const gamma of decay)
      if (!(gamma > 0 && gamma <= 1))
        throw new ConfigError(who, `decay holds ${String(gamma)}; its numbers must be above 0 and at most 1`);
  }
  expectOneOf(who, "denominator", denominator, ["none", "sumAbs", "absSum"]);
  if (denominator !== "none" && form !== "parallel")
    throw new ConfigError(who, `denominator is "${denominator}", form "${form}"; it needs form "parallel"`);
}

/** ln gamma of every head, in double precision. */
export function logGammas(decay: RetentionConfig["decay"], heads: number): number[] {
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
  config: Pick<RetentionConfig, "denominator">,
  options: DecayedOptions,
  norms: Tensor | undefined,
): { out: Tensor; state: Tensor } {
  const { denominator = "none" } = config;
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
  const who = "retention";
  checkConfig(who, options, [...RETENTION_KEYS, "state", "offset"]);
  const { state, offset = 0, decay, decayNorm = false, scale } = options;
  const { heads, tokens, dim } = expectHeads(who, { q, k, v, state });
  checkRetention(who, options, heads);
  expectInteger(who, "offset", offset, 0);
  const { gpu } = q;
  return gpu.scope(() => {
    const logDecay = gpu.tensor(logGammas(decay, heads), [heads]);
    const norms = decayNorm ? rowNorms(logDecay, tokens, offset, "heads") : undefined;
    return retain(
      who,
      { q, k, v, logDecay, state },
      options,
      { chunk: chunkOf(who, options, tokens), scale: scale ?? dim ** -0.5 },
      norms,
    );
  });
}
